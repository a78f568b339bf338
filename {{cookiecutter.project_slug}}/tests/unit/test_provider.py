"""The provider double keeps to the protocol where it should, breaks it as told, and counts both."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests import provider as double
from tests.conftest import PROJECT
from tests.provider import (
    BAD_GATEWAY,
    CONTENT_FILTER,
    CONTEXT_EXCEEDED,
    QUOTA_EXCEEDED,
    Behaviour,
    CallTools,
    CutStream,
    Drop,
    Garbage,
    GarbledStream,
    Hang,
    NoUsage,
    Provider,
    RateLimited,
    Reply,
    ServerError,
    StallStream,
    Tool,
    sometimes,
    tokens,
)

WHOLE: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
STREAM = WHOLE | {"stream": True, "stream_options": {"include_usage": True}}
PATIENCE_SECONDS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    """One double for the file."""
    with Provider() as running:
        yield running


@pytest.fixture
def provider(server: Provider) -> Provider:
    """The double as if it had just started."""
    server.reset()
    return server


@pytest.fixture
async def client(provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the double."""
    async with httpx.AsyncClient(base_url=provider.url, timeout=PATIENCE_SECONDS) as client:
        yield client


async def chat(client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    """One call for a completion."""
    return await client.post("/chat/completions", json=body)


def events_of(response: httpx.Response) -> list[str]:
    """What follows `data: ` in each event."""
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line]


def deltas_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The delta of each chunk that has one."""
    chunks = [json.loads(event) for event in events_of(response) if event != "[DONE]"]
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


async def test_a_whole_reply_has_message_finish_and_usage(client: httpx.AsyncClient, provider: Provider) -> None:
    """It looks like OpenAI's, and the request is kept with its headers in small letters."""
    provider.then(Reply("four", usage=tokens(3, 1, cached=2)))
    reply = (await client.post("/chat/completions", json=WHOLE, headers={"Authorization": "Bearer k"})).json()
    [choice] = reply["choices"]
    assert (reply["object"], choice["finish_reason"]) == ("chat.completion", "stop")
    assert choice["message"] == {"role": "assistant", "content": "four", "refusal": None}
    assert (reply["usage"]["total_tokens"], reply["usage"]["prompt_tokens_details"]) == (4, {"cached_tokens": 2})
    [call] = provider.requests
    assert (call.path, call.body, call.headers["authorization"]) == ("/v1/chat/completions", WHOLE, "Bearer k")


async def test_a_stream_has_role_words_finish_usage_and_an_end(client: httpx.AsyncClient, provider: Provider) -> None:
    """One chunk a word between the role and the finish; the usage comes without choices, before the end."""
    provider.then(Reply("one two"))
    response = await chat(client, STREAM)
    *_, last, end = events_of(response)
    assert response.headers["content-type"] == "text/event-stream"
    assert [delta.get("content") for delta in deltas_of(response)] == ["", "one ", "two ", None]
    assert (json.loads(last)["choices"], json.loads(last)["usage"]["total_tokens"], end) == ([], 18, "[DONE]")


@pytest.mark.parametrize("behaviour", [NoUsage(), Reply()])
async def test_a_stream_tells_its_usage_to_those_who_ask_and_where_it_counts(
    client: httpx.AsyncClient, provider: Provider, behaviour: Behaviour
) -> None:
    """Without `include_usage`, and from a provider that does not count, there is none."""
    provider.then(behaviour)
    response = await chat(client, STREAM if isinstance(behaviour, NoUsage) else WHOLE | {"stream": True})
    assert "usage" not in response.text
    assert (provider.count.answered, provider.count.input_tokens) == (1, 0)


@pytest.mark.parametrize("usage", [None, tokens(3, 0)])
async def test_embeddings_give_each_text_its_vector(
    client: httpx.AsyncClient, provider: Provider, usage: dict[str, int] | None
) -> None:
    """The same text has the same vector, and only the input counts."""
    provider.then(Reply(usage=usage))
    reply = (await client.post("/embeddings", json={"input": ["a", "bb", "a"]})).json()
    first, second, third = (item["embedding"] for item in reply["data"])
    assert first == third != second
    assert reply["usage"] == ({"prompt_tokens": 3, "total_tokens": 3} if usage else {})
    assert (provider.count.input_tokens, provider.count.output_tokens) == (3 if usage else 0, 0)


async def test_a_refusal_stands_beside_the_content(client: httpx.AsyncClient, provider: Provider) -> None:
    """Whole and in pieces it is a refusal, and no content."""
    provider.always(Reply("", refusal="I will not."))
    [choice] = (await chat(client, WHOLE)).json()["choices"]
    deltas = deltas_of(await chat(client, STREAM))
    assert (choice["message"]["content"], choice["message"]["refusal"]) == (None, "I will not.")
    assert "".join(delta.get("refusal", "") for delta in deltas) == "I will not. "
    assert not any(delta.get("content") for delta in deltas)


async def test_tool_calls_come_whole_or_in_interleaved_fragments(client: httpx.AsyncClient, provider: Provider) -> None:
    """Joined by index the fragments are the calls, arguments that are no JSON included; ids open them."""
    tools = (Tool(), Tool("get_time", '{"zone": broken', "call_2"))
    provider.always(CallTools(tools=tools))
    [choice] = (await chat(client, WHOLE)).json()["choices"]
    fragments = [f for delta in deltas_of(await chat(client, STREAM)) for f in delta.get("tool_calls", ())]
    joined = ["".join(f["function"]["arguments"] for f in fragments if f["index"] == n) for n in (0, 1)]
    wanted = [tool.arguments for tool in tools]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert joined == [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == wanted
    assert [f["index"] for f in fragments[:6]] == [0, 1, 0, 1, 0, 1]
    assert [f["id"] for f in fragments if "id" in f] == ["call_1", "call_2"]


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (ServerError(), 500, None),
        (RateLimited(), 429, None),
        (QUOTA_EXCEEDED, 429, "insufficient_quota"),
        (CONTENT_FILTER, 400, "content_filter"),
        (CONTEXT_EXCEEDED, 400, "context_length_exceeded"),
    ],
    ids=["500", "429", "quota", "filter", "context"],
)
async def test_an_error_has_its_status_and_code(
    client: httpx.AsyncClient, provider: Provider, behaviour: Behaviour, status: int, code: str | None
) -> None:
    """Each is the error object of the protocol, and no answer."""
    provider.then(behaviour)
    response = await chat(client, WHOLE)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "retry-after" not in response.headers
    assert (provider.count.calls, provider.count.answered) == (1, 0)


async def test_a_rate_limit_says_when_to_come_back(client: httpx.AsyncClient, provider: Provider) -> None:
    """Retry-After goes out as it was given."""
    provider.then(RateLimited(retry_after=1.5), RateLimited(retry_after="soon"))
    assert [(await chat(client, WHOLE)).headers["retry-after"] for _ in range(2)] == ["1.5", "soon"]


async def test_garbage_comes_as_it_was_given(client: httpx.AsyncClient, provider: Provider) -> None:
    """A proxy's page is HTML with status 502, and a broken body claims to be JSON."""
    provider.then(BAD_GATEWAY, Garbage("{"))
    page, broken = await chat(client, WHOLE), await chat(client, WHOLE)
    assert (page.status_code, page.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert (broken.status_code, broken.text) == (200, "{")
    assert broken.headers["content-type"].startswith("application/json")


async def test_a_garbled_stream_ends_as_if_nothing_had_happened(client: httpx.AsyncClient, provider: Provider) -> None:
    """Between the pieces and a good end stands an event that is no JSON; it is no whole answer."""
    provider.then(GarbledStream("one two three", after=1))
    _, word, garbage, finish, end = events_of(await chat(client, STREAM))
    assert ("one " in word, "stop" in finish, end) == (True, True, "[DONE]")
    with pytest.raises(json.JSONDecodeError):
        json.loads(garbage)
    assert provider.count.answered == 0


async def test_a_cut_stream_ends_early_and_cleanly(client: httpx.AsyncClient, provider: Provider) -> None:
    """After so many pieces there is no finish and no end, but the response is complete HTTP."""
    provider.then(CutStream("one two three", after=2), CutStream(after=0))
    cut, empty = await chat(client, STREAM), await chat(client, STREAM)
    assert [delta["content"] for delta in deltas_of(cut)] == ["", "one ", "two "]
    assert [delta["content"] for delta in deltas_of(empty)] == [""]
    assert provider.count.answered == 0


async def test_a_dropped_connection_is_seen_before_and_after_the_first_byte(
    client: httpx.AsyncClient, provider: Provider
) -> None:
    """The client meets a broken connection; that is the provider's doing and no disconnect."""
    provider.then(Drop(), CutStream(dropped=True))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        await chat(client, WHOLE)
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await chat(client, STREAM)
    await provider.until(lambda count: count.open == 0)
    assert (provider.count.calls, provider.count.disconnects) == (2, 0)


@pytest.mark.parametrize(("behaviour", "body"), [(Hang(), WHOLE), (Reply(pause=60), WHOLE)], ids=["hang", "slow"])
async def test_a_client_that_leaves_before_the_first_byte_is_seen(
    client: httpx.AsyncClient, provider: Provider, behaviour: Behaviour, body: dict[str, Any]
) -> None:
    """While the call waits it is open; when its client goes it is a disconnect, and closed."""
    provider.then(behaviour)
    waiting = asyncio.create_task(chat(client, body))
    await provider.until(lambda count: count.open == 1)
    waiting.cancel()
    await provider.until(lambda count: (count.open, count.disconnects) == (0, 1))
    assert provider.requests[0].left.is_set()
    assert provider.count.answered == 0


@pytest.mark.parametrize("behaviour", [StallStream(after=1), Reply("tick " * 9999, pause=0.01)], ids=["stall", "drip"])
async def test_a_client_that_leaves_a_stream_is_seen(
    client: httpx.AsyncClient, provider: Provider, behaviour: Behaviour
) -> None:
    """In a silent stream and in one that goes on the disconnect is seen."""
    provider.then(behaviour)
    async with client.stream("POST", "/chat/completions", json=STREAM) as response:
        assert "chat.completion.chunk" in await anext(response.aiter_text())
        assert provider.count.open == 1
    await provider.until(lambda count: (count.open, count.disconnects) == (0, 1))
    assert provider.requests[0].left.is_set()
    assert not isinstance(behaviour, StallStream) or behaviour.left.is_set()


async def test_what_does_not_happen_is_told_with_the_count(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting in vain ends, and shows what did happen."""
    monkeypatch.setattr(double, "PATIENCE_SECONDS", 0)
    with pytest.raises(AssertionError, match="calls=0"):
        await provider.until(lambda count: count.calls == 1)


async def test_tokens_and_answers_are_counted_and_the_oldest_calls_forgotten(
    client: httpx.AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts go on where the history stops, so that a long run does not fill the memory."""
    provider.always(Reply(usage=tokens(2, 3)))
    monkeypatch.setattr(double, "KEPT_CALLS", 10)
    for _ in range(15):
        await chat(client, WHOLE)
    count = provider.count
    assert (len(provider.requests), count.calls, count.answered) == (10, 15, 15)
    assert (count.input_tokens, count.output_tokens) == (2 * count.calls, 3 * count.calls)
    provider.reset()
    assert (provider.requests, provider.count.calls) == ([], 0)


async def test_what_is_queued_goes_before_the_rule(client: httpx.AsyncClient, provider: Provider) -> None:
    """A rule may look at the call; it is asked where nothing is queued."""
    provider.always(lambda call: Reply(call.body["model"]))
    provider.then(Reply("queued"))
    replies = [(await chat(client, WHOLE | {"model": "mine"})).json() for _ in range(2)]
    assert [reply["choices"][0]["message"]["content"] for reply in replies] == ["queued", "mine"]


async def test_faults_by_chance_are_the_same_for_the_same_seed(client: httpx.AsyncClient, provider: Provider) -> None:
    """The share is about what was asked for, and a seed repeats every fault."""

    async def statuses(seed: int) -> list[int]:
        provider.always(sometimes(0.3, [ServerError(), RateLimited()], seed=seed, otherwise=Reply()))
        return [(await chat(client, WHOLE)).status_code for _ in range(200)]

    first, again, other = await statuses(1), await statuses(1), await statuses(2)
    assert first == again != other
    assert set(first) == {200, 429, 500}
    assert 100 < first.count(200) < 180


async def test_two_doubles_do_not_know_each_other(client: httpx.AsyncClient, provider: Provider) -> None:
    """A second one answers at its own address, with its own count."""
    with Provider() as second:
        second.always(Reply("second"))
        reply = httpx.post(f"{second.url}/chat/completions", json=WHOLE).json()
        assert reply["choices"][0]["message"]["content"] == "second"
        await chat(client, WHOLE)
        assert (provider.count.calls, second.count.calls) == (1, 1)


@pytest.mark.parametrize("behaviour", [Hang(), StallStream()], ids=["hang", "stall"])
async def test_it_stops_at_once_whatever_hangs(behaviour: Behaviour) -> None:
    """Open calls do not keep it, and their end is not taken for a client that left."""
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        with Provider() as brief:
            brief.then(behaviour)
            waiting = asyncio.create_task(client.post(f"{brief.url}/chat/completions", json=STREAM))
            await brief.until(lambda count: count.open == 1)
        with pytest.raises(httpx.RemoteProtocolError):
            await waiting
    assert (brief.count.open, brief.count.disconnects) == (0, 0)


def test_it_runs_as_a_command_and_says_how_to_use_it() -> None:
    """`python -m tests.provider` serves on the port it is given, and prints the settings to use it with."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-u", "-m", "tests.provider", "--port", str(port), "--text", "by hand"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert f"CHAT_API_BASE=http://127.0.0.1:{port}/v1" in process.stdout.readline()
            reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=WHOLE)
        finally:
            process.terminate()
    assert reply.json()["choices"][0]["message"]["content"] == "by hand"
