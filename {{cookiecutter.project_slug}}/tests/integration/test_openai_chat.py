"""POST /v1/chat/completions in process, with the provider double behind it: what goes through, and what comes back."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.api.openai.answering import Asked, Reply, pieces, reply
from app.api.openai.chat import ChatCompletion, chunks_of
from app.api.openai.response_events import ResponseEvents
from app.api.openai.response_requests import ResponseRequest
from app.api.security import Caller
from app.db.engine import Database
from app.errors import InvalidParameter
from app.gateway.gateway import Gateway
from app.rag.abstention import ABSTENTION
from app.rag.ingest import Ingester
from app.rag.pipeline import CHANGED
from app.settings import Settings
from app.types import Message, TextDelta
from tests import provider as double
from tests.conftest import PROJECT
from tests.integration.openai_api import (
    CITED,
    HELLO,
    IMAGE,
    QUESTION,
    SCHEMA,
    WEATHER,
    error_of,
    post,
    says,
    serving,
    told,
    working,
)
from tests.integration.stored import keep
from tests.provider import CallTools, CutStream, Provider, RateLimited, Rejected, StallStream, Tool, tokens

PATH = "/v1/chat/completions"
TOOLS = (Tool(), Tool("get_time", '{"zone": "CET"}', "call_2"))
TOOL = {"type": "function", "function": WEATHER}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}


@pytest.fixture(scope="module")
async def app_client(
    migrated_url: str, running: Provider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """One application for this module."""
    settings = Settings(database_url=migrated_url, data_dir=tmp_path_factory.mktemp("data"))
    async with serving(settings, running) as client:
        yield client


@pytest.fixture
async def client(app_client: httpx.AsyncClient, database: Database, provider: Provider) -> httpx.AsyncClient:
    """A client of the application on the empty database, with nothing told to its model."""
    assert database
    assert provider
    return app_client


@pytest.fixture
async def documents(client: httpx.AsyncClient, ingester: Ingester) -> httpx.AsyncClient:
    """The same, with an article to ask about."""
    await ingester.ingest_files([PROJECT / "corpus" / "bm25.md"])
    return client


async def ask(client: httpx.AsyncClient, **given: Any) -> httpx.Response:
    """Post a request, by default for the model `chat` to say something."""
    return await post(client, PATH, {"model": "chat", "messages": says("hello")} | given)


async def test_a_whole_reply_has_text_reason_and_usage(client: httpx.AsyncClient, provider: Provider) -> None:
    """It is what the documentation shows, and names the model that was asked for."""
    provider.then(double.Reply(usage=tokens(11, 7, cached=4)))
    body = (await ask(client)).json()
    assert ChatCompletion.model_validate(body).model_dump(exclude_unset=True) == body
    [choice] = body["choices"]
    assert (body["model"], choice["message"]["content"], choice["finish_reason"]) == ("chat", HELLO, "stop")
    counted = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    assert body["usage"] == counted | {"prompt_tokens_details": {"cached_tokens": 4}}
    assert set(choice["message"]) == {"role", "content", "refusal"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": says("x") * 1_001},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 101}]},
        {"messages": says("x"), "tools": [TOOL] * 129},
    ],
    ids=["messages", "parts", "tools"],
)
async def test_what_takes_long_to_check_is_refused_unread(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """While one request is checked all others wait, so there is only so much of everything."""
    assert error_of(await ask(client, **body), 400)["message"]


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_stream_has_pieces_and_an_end_and_usage_for_those_who_ask(
    client: httpx.AsyncClient, *, wanted: bool
) -> None:
    """The role comes first, the reason with the last piece, then the usage alone, then the end."""
    response = await ask(client, stream=True, stream_options={"include_usage": wanted})
    chunks = told(response)
    usage = chunks.pop() if wanted else None
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"].strip() for delta in deltas[1:-1]] == HELLO.split()
    assert (deltas[-1], chunks[-1]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert response.text.endswith("data: [DONE]\n\n")
    assert all(("usage" in chunk) is wanted for chunk in chunks)
    if usage:
        assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 18)


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0.5, "top_p": 1, "seed": 7, "stop": ["END"], "max_tokens": 9},
        {"max_completion_tokens": 9, "presence_penalty": -1, "frequency_penalty": 1.5, "logit_bias": {"50256": -100}},
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "system", "content": "Be brief."}, *says("hello")]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]},
        {
            "messages": [
                *says("weather"),
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "7 degrees"},
            ]
        },
    ],
)
async def test_a_parameter_reaches_the_model(
    client: httpx.AsyncClient, provider: Provider, given: dict[str, Any]
) -> None:
    """As it was given."""
    assert (await ask(client, **given)).status_code == 200
    sent = provider.requests[-1].body
    assert {name: sent.get(name) for name in given} == given


async def test_what_clients_send_along_is_taken_and_goes_no_further(
    client: httpx.AsyncClient, provider: Provider
) -> None:
    """Nothing is stored, no tier is chosen, and plain text is what a reply is anyway."""
    along = {"metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "x", "n": 1}
    along |= {"logprobs": False, "modalities": ["text"], "response_format": {"type": "text"}, "tools": None}
    assert (await ask(client, **along)).status_code == 200
    assert set(provider.requests[-1].body) == {"model", "messages", "temperature", "max_tokens"}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"temprature": 0.5}, "temprature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"metadata": {"half \ud800": 1}}, "metadata"),
    ],
)
async def test_what_is_not_supported_is_refused_by_its_name(
    client: httpx.AsyncClient, provider: Provider, given: dict[str, Any], param: str
) -> None:
    """400 with the parameter, and the model is not called."""
    error = error_of(await ask(client, **given), 400)
    assert (error["param"], error["code"]) == (param, "invalid_parameter")
    assert param in error["message"]
    assert provider.count.calls == 0


@pytest.mark.parametrize(
    "content",
    [
        "half \ud800",
        None,
        [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}],
        [{"type": "text", "text": "x", "url": "http://127.0.0.1/"}],
    ],
)
async def test_a_message_that_is_none_is_the_clients_mistake(
    client: httpx.AsyncClient, provider: Provider, content: object
) -> None:
    """It is not sent: no broken text, and no address that this machine would have to visit."""
    error_of(await ask(client, messages=[{"role": "user", "content": content}]), 400)
    assert provider.count.calls == 0


async def test_an_unknown_model_is_404(client: httpx.AsyncClient) -> None:
    """With the code that OpenAI's clients know, also for a model that does not write."""
    for name in ("gpt-4o", "embedding", ""):
        error = error_of(await ask(client, model=name), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "chat or documents" in error["message"]


async def test_tool_calls_come_in_fragments_and_whole(client: httpx.AsyncClient, provider: Provider) -> None:
    """Id and name stand in the first piece of each call, and the pieces of several may take turns."""
    provider.then(CallTools(tools=TOOLS), CallTools(tools=TOOLS))
    whole = (await ask(client, tools=[TOOL])).json()["choices"][0]
    assert whole["message"]["content"] is None
    assert whole["message"]["tool_calls"] == [tool.call(tool.arguments) for tool in TOOLS]
    chunks = [chunk["choices"][0] for chunk in told(await ask(client, tools=[TOOL], stream=True))]
    fragments = [fragment for chunk in chunks for fragment in chunk["delta"].get("tool_calls", ())]
    for index, tool in enumerate(TOOLS):
        first, *rest = [fragment for fragment in fragments if fragment["index"] == index]
        assert (first["id"], first["type"], first["function"]["name"]) == (tool.id, "function", tool.name)
        assert "".join(f["function"]["arguments"] for f in (first, *rest)) == tool.arguments
        assert all(fragment.keys() == {"index", "function"} for fragment in rest)
        assert len(rest) > 1
    assert chunks[-1]["finish_reason"] == whole["finish_reason"] == "tool_calls"


async def test_a_refusal_has_its_own_field(client: httpx.AsyncClient, provider: Provider) -> None:
    """It is no text, whole or streamed."""
    provider.then(double.Reply("", refusal="No."), double.Reply("", refusal="No."))
    message = (await ask(client)).json()["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "No.")
    deltas = [chunk["choices"][0]["delta"] for chunk in told(await ask(client, stream=True))]
    assert deltas == [{"role": "assistant", "content": ""}, {"refusal": "No. "}, {}]


async def test_a_reply_that_was_cut_says_so(client: httpx.AsyncClient, provider: Provider) -> None:
    """The model's reason to stop is passed on."""
    provider.then(double.Reply("Half", finish="length"))
    assert (await ask(client)).json()["choices"][0]["finish_reason"] == "length"


async def test_half_a_character_from_the_model_breaks_nothing(client: httpx.AsyncClient, provider: Provider) -> None:
    """What a provider may write in JSON is passed on as it is."""
    provider.then(double.Reply("so \ud800"), double.Reply("so \ud800"))
    assert (await ask(client)).json()["choices"][0]["message"]["content"] == "so \ud800"
    assert "\\ud800" in (await ask(client, stream=True)).text


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_piece_keeps_its_status(
    settings: Settings, provider: Provider, *, stream: bool
) -> None:
    """A stream that has not begun is an ordinary response, with what the client's typed errors need."""
    provider.then(Rejected(400, "canary"), RateLimited(retry_after=7))
    async with serving(settings, provider) as client:
        refused, limited = [await ask(client, stream=stream) for _ in range(2)]
    assert error_of(refused, 400)["code"] == "request_rejected"
    assert "canary" not in refused.text
    assert error_of(limited, 503)["code"] == "provider_rate_limited"
    assert limited.headers["retry-after"] == "7"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_refused_of_our_own_words_is_502_and_not_tried_again(
    settings: Settings, database: Database, gateway: Gateway, provider: Provider, *, stream: bool
) -> None:
    """The messages to the model `documents` are the application's; OpenAI's clients would send a 502 twice more."""
    await keep(database, gateway, settings, {"nile.md": "# Nile\n\nThe Nile is long.\n"})
    provider.then(Rejected(400))
    async with serving(settings, provider) as client:
        refused = await ask(client, model="documents", stream=stream)
    assert error_of(refused, 502)["code"] == "provider_rejected"
    assert refused.headers["x-should-retry"] == "false"


async def test_a_stream_that_breaks_ends_with_its_error(client: httpx.AsyncClient, provider: Provider) -> None:
    """The last event is the error, and the end that clients wait for does not come."""
    provider.then(CutStream())
    response = await ask(client, stream=True)
    *chunks, last = told(response)
    assert len(chunks) == 3
    assert (last["error"]["code"], "[DONE]" in response.text) == ("answer_cut", False)


@pytest.mark.parametrize("stream", [True, False])
async def test_documents_are_cited_in_the_text_and_beside_it(
    documents: httpx.AsyncClient, provider: Provider, database: Database, *, stream: bool
) -> None:
    """Each marker has its citation in the extension field, and the answer is stored under the id that is told."""
    provider.then(double.Reply(CITED))
    response = await ask(documents, model="documents", messages=says(QUESTION), stream=stream)
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in told(response)]
        said, extended = "".join(delta.get("content", "") for delta in deltas), deltas[-1]
        assert "" not in [delta.get("content") for delta in deltas[1:]]
    else:
        extended = response.json()["choices"][0]["message"]
        said = extended["content"]
        assert ChatCompletion.model_validate(response.json()).model_dump(exclude_unset=True) == response.json()
    [citation] = extended["citations"]
    assert f"[{citation['marker']}]" in said
    assert "Lucene defaults to k1" in citation["quote"]
    assert citation["source"].endswith("bm25.md")
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT text FROM answers WHERE id = :id"), {"id": extended["answer_id"]})


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_belongs_to_its_caller(
    documents: httpx.AsyncClient, provider: Provider, database: Database, settings: Settings, *, streamed: bool
) -> None:
    """So that the same API key can give feedback on it."""
    assert documents
    asked = Asked("documents", says(QUESTION), {})
    provider.then(double.Reply(CITED))
    async with working(database, provider, settings) as work:
        mine = replace(work, caller=Caller(owner="me"))
        last = [piece async for piece in pieces(mine, asked)][-1] if streamed else await reply(mine, asked)
    assert isinstance(last, Reply)
    async with database.transaction() as connection:
        stored = await connection.execute(text("SELECT CAST(id AS text), owner FROM answers"))
        assert stored.all() == [(last.extension["answer_id"], "me")]


async def test_what_was_said_before_is_the_history(documents: httpx.AsyncClient, provider: Provider) -> None:
    """The question is understood as the next one; a greeting before the first question does not count."""
    provider.always(double.Reply(CITED))
    before = [
        {"role": "assistant", "content": "How can I help?"},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": "It weighs."},
        {"role": "assistant", "content": "Terms."},
    ]
    response = await ask(documents, model="documents", messages=[*before, *says("And what is its default there?")])
    assert response.status_code == 200
    asked = json.dumps([call.body["messages"] for call in provider.requests])
    assert QUESTION in asked
    assert "It weighs.\\\\nTerms." in asked or "It weighs.\\nTerms." in asked
    assert "How can I help?" not in asked


async def test_documents_that_do_not_answer_say_so_in_a_stream(
    documents: httpx.AsyncClient, provider: Provider
) -> None:
    """The sentence that there is no answer is text like any other, with no citations."""
    provider.then(double.Reply("I just know it."))
    chunks = told(await ask(documents, model="documents", messages=says(QUESTION), stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta.get("content") for delta in deltas[:-1]] == ["", ABSTENTION]
    assert deltas[-1]["citations"] == []


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"messages": [{"role": "system", "content": "Be brief."}, *says(QUESTION)]}, "messages"),
        ({"messages": [*says(QUESTION), {"role": "assistant", "content": "It"}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}, *says(QUESTION)]}, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "7"}, *says(QUESTION)]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]}, "messages"),
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stop": "END"}, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_documents_refuse_what_they_would_not_heed(
    client: httpx.AsyncClient, provider: Provider, given: dict[str, Any], param: str, *, stream: bool
) -> None:
    """Instructions, tools, formats and pictures change nothing there, so they are not taken."""
    refused = await ask(client, **{"model": "documents", "messages": says(QUESTION), "stream": stream} | given)
    assert error_of(refused, 400)["param"] == param
    assert provider.count.calls == 0


async def test_documents_heed_no_sampling(documents: httpx.AsyncClient, provider: Provider) -> None:
    """What only tunes a reply is taken, since clients send it always."""
    provider.then(double.Reply(CITED))
    tuned = await ask(documents, model="documents", messages=says(QUESTION), temperature=1, max_tokens=5, user="me")
    assert tuned.status_code == 200
    assert provider.requests[-1].body["temperature"] == 0


async def test_asking_before_there_are_documents_is_409(client: httpx.AsyncClient) -> None:
    """And says how to add them."""
    error = error_of(await ask(client, model="documents", messages=says(QUESTION)), 409)
    assert error["code"] == "no_documents"


async def test_an_answer_that_changed_stands_below_the_text_that_is_out(
    documents: httpx.AsyncClient, provider: Provider, database: Database, settings: Settings
) -> None:
    """A document that goes while its text is being shown: the last words are those of the answer that is stored."""
    assert documents
    provider.then(double.Reply(CITED + " and more"))
    async with working(database, provider, settings) as work:
        coming = pieces(work, Asked("documents", says(QUESTION), {}))
        first = await anext(coming)
        async with database.transaction() as connection:
            await connection.execute(text("DELETE FROM documents"))
        *rest, last = [piece async for piece in coming]
    shown = "".join(piece.text for piece in (first, *rest) if isinstance(piece, TextDelta))
    assert shown.endswith(f"\n\n{CHANGED}\n\n{ABSTENTION}")
    assert isinstance(last, Reply)
    assert (last.text, last.extension["citations"]) == (shown, [])


@pytest.mark.parametrize("name", ["chat", "responses"])
async def test_a_stream_that_is_left_ends_the_call(
    client: httpx.AsyncClient, provider: Provider, database: Database, settings: Settings, name: str
) -> None:
    """Closing the events closes the connection to the model."""
    assert client
    provider.then(StallStream())
    response = ResponseEvents(ResponseRequest(model="chat", input="hello"))
    async with working(database, provider, settings) as work:
        coming = pieces(work, Asked("chat", says("hello"), {}))
        events = chunks_of(coming, "chat", include_usage=False) if name == "chat" else response.stream(coming)
        assert await anext(events)
        await events.aclose()
    await provider.until(lambda count: (count.open, count.disconnects) == (0, 1))


async def test_the_offline_model_takes_every_kind_of_message(settings: Settings, database: Database) -> None:
    """Parts, and messages without text, are read like any other; there is nothing to quote, and a notice says why."""
    assert database
    given: list[Message] = [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "7 degrees"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    async with working(database, None, settings) as work:
        *_, last = [piece async for piece in pieces(work, Asked("chat", given, {}))]
    assert isinstance(last, Reply)
    assert (last.finish_reason, "no language model" in last.extension["notice"]) == ("stop", True)


@pytest.mark.parametrize(("name", "given"), [("tools", [TOOL]), ("response_format", {"type": "json_object"})])
async def test_the_offline_model_refuses_what_has_to_be_written(
    settings: Settings, database: Database, name: str, given: object
) -> None:
    """A client that waits for a call or for JSON is told, whole or streamed, instead of being given a sentence."""
    assert database
    asked = Asked("chat", [{"role": "user", "content": "hello"}], {name: given})
    async with working(database, None, settings) as work:
        with pytest.raises(InvalidParameter, match="set CHAT_MODEL") as refused:
            await reply(work, asked)
        with pytest.raises(InvalidParameter, match="set CHAT_MODEL"):
            [piece async for piece in pieces(work, asked)]
    assert refused.value.param == name
