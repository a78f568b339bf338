"""POST /v1/responses in process, with the provider double behind it: a subset of OpenAI's, whole and as events."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.api.openai.response_objects import Response
from app.db.engine import Database
from app.rag.ingest import Ingester
from app.settings import Settings
from tests import provider as double
from tests.conftest import PROJECT
from tests.integration.openai_api import CITED, HELLO, IMAGE, QUESTION, SCHEMA, WEATHER, error_of, post, serving, told
from tests.provider import CallTools, CutStream, Provider, Rejected, Tool

PATH = "/v1/responses"
TOOLS = (Tool(), Tool("get_time", '{"zone": "CET"}', "call_2"))
FLAT_TOOL = {"type": "function", **WEATHER}
NESTED_TOOL = {"type": "function", "function": WEATHER}


@dataclass(frozen=True)
class CallsFirst(CallTools):
    """A model that calls a tool, and then goes on to talk."""

    def _events(self, wire: double.Wire) -> Iterator[str]:
        opening, *rest = super()._events(wire)
        said = [event for event in rest if '"content"' in event]
        yield opening
        yield from (event for event in rest[:-3] if event not in said)
        yield from said
        yield from rest[-3:]


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


async def ask(client: httpx.AsyncClient, **given: Any) -> httpx.Response:
    """Post a request, by default for the model `chat` to say something."""
    return await post(client, PATH, {"model": "chat", "input": "hello"} | given)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """What the events are."""
    return [event["type"].removeprefix("response.") for event in events]


def without_ids(value: Any) -> Any:
    """What two responses to the same request have in common."""
    if isinstance(value, dict):
        return {name: without_ids(part) for name, part in value.items() if name not in ("id", "created_at")}
    return [without_ids(part) for part in value] if isinstance(value, list) else value


async def test_a_response_says_what_was_asked_for_and_that_nothing_is_stored(client: httpx.AsyncClient) -> None:
    """It is what the documentation shows, with the request's own settings in it."""
    given = {"instructions": "Be brief.", "temperature": 0.5, "max_output_tokens": 9, "metadata": {"a": "b"}}
    body = (await ask(client, **given, tools=[FLAT_TOOL], parallel_tool_calls=False)).json()
    assert Response.model_validate(body).model_dump(exclude_unset=True) == body
    assert {name: body[name] for name in given} == given
    assert (body["status"], body["store"], body["model"]) == ("completed", False, "chat")
    assert (body["tools"], body["parallel_tool_calls"]) == ([FLAT_TOOL], False)
    [item] = body["output"]
    assert (item["type"], item["status"], item["content"][0]["text"]) == ("message", "completed", HELLO)
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"], body["usage"]["total_tokens"]) == (11, 7, 18)


async def test_text_streams_as_events_in_their_order(client: httpx.AsyncClient) -> None:
    """Numbered from 0: the response, its item, the part, its pieces; then each of them closed again."""
    events = told(await ask(client, stream=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    opening = ["created", "in_progress", "output_item.added", "content_part.added"]
    closing = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds(events) == [*opening, *["output_text.delta"] * 5, *closing]
    text = "".join(event["delta"] for event in events if "delta" in event)
    assert text == events[-4]["text"] == events[-3]["part"]["text"]
    assert events[-2]["item"] == events[-1]["response"]["output"][0]
    assert events[0]["response"]["output"] == events[2]["item"]["content"] == []
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        double.Reply("Hello. "),
        double.Reply("Half ", finish="length"),
        double.Reply("", refusal="No. "),
        CallTools(tools=TOOLS),
        CallTools("Let me see. ", tools=TOOLS),
        CallsFirst("So I see. ", tools=TOOLS),
        CallTools(tools=(Tool(), Tool())),
    ],
    ids=["text", "cut", "refusal", "calls", "text and calls", "calls and text", "twins"],
)
async def test_a_stream_ends_with_what_a_whole_response_holds(
    client: httpx.AsyncClient, provider: Provider, behaviour: double.Reply
) -> None:
    """Nothing is lost, doubled or without an end, in whatever order a model says it."""
    provider.then(behaviour, behaviour)
    whole, events = (await ask(client)).json(), told(await ask(client, stream=True))
    streamed = events[-1]["response"]
    for response in (whole, streamed):  # a piece of a stream has a space at its end
        for item in response["output"]:
            for part in item.get("content", ()):
                part.update({name: part[name].strip() for name in ("text", "refusal") if name in part})
        response["output"].sort(key=lambda item: item["type"], reverse=True)
    assert without_ids(streamed) == without_ids(whole)
    assert kinds(events)[-1] == streamed["status"]
    assert kinds(events).count("output_item.added") == kinds(events).count("output_item.done") == len(whole["output"])


async def test_a_cut_response_is_incomplete_and_says_why(client: httpx.AsyncClient, provider: Provider) -> None:
    """At the limit of tokens, or by a filter."""
    for finish, reason in (("length", "max_output_tokens"), ("content_filter", "content_filter")):
        provider.then(double.Reply("Half", finish=finish))
        body = (await ask(client)).json()
        assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": reason})
        assert body["output"][0]["status"] == "incomplete"


async def test_the_first_call_streams_and_the_others_follow(client: httpx.AsyncClient, provider: Provider) -> None:
    """One item at a time, as clients expect it, though the model mixes them."""
    provider.then(CallTools(tools=TOOLS))
    events = told(await ask(client, stream=True))
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 7 + [1] * 4
    deltas = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
    assert "".join(deltas) == "".join(tool.arguments for tool in TOOLS)
    assert len(deltas) == 5
    opened = [event["item"] for event in events if event["type"].endswith("item.added")]
    assert [(item["name"], item["call_id"], item["arguments"]) for item in opened] == [
        (tool.name, tool.id, "") for tool in TOOLS
    ]
    done = [event["arguments"] for event in events if event["type"].endswith("arguments.done")]
    assert done == [tool.arguments for tool in TOOLS]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_output_tokens": 9, "top_p": 0.5}, {"max_tokens": 9, "top_p": 0.5}),
        ({"tools": [FLAT_TOOL], "tool_choice": "required"}, {"tools": [NESTED_TOOL], "tool_choice": "required"}),
        (
            {"tools": [FLAT_TOOL], "tool_choice": {"type": "function", "name": "get_weather"}},
            {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        ),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", **SCHEMA}}},
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        ),
        (
            {"text": {"format": {"type": "text"}}, "include": [], "background": False, "conversation": None},
            {"response_format": None},
        ),
    ],
)
async def test_a_parameter_reaches_the_model_as_chat_completions_write_it(
    client: httpx.AsyncClient, provider: Provider, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    """The names and shapes of the one interface become those of the other."""
    assert (await ask(client, **given)).status_code == 200
    body = provider.requests[-1].body
    assert {name: body.get(name) for name in sent} == sent


async def test_items_become_messages(client: httpx.AsyncClient, provider: Provider) -> None:
    """Instructions first; calls of one turn in one message; what other fields an item has is left aside."""
    image = {"type": "input_image", "image_url": IMAGE}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather"}, image | {"detail": "low"}, image]},
        {"type": "message", "id": "1", "role": "assistant", "content": [{"type": "output_text", "text": "I"}]},
        {"type": "function_call", "id": "2", "call_id": "a", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "7"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "8"}]},
        {"type": "function_call", "call_id": "c", "name": "h", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "9"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "So?"},
    ]
    assert (await ask(client, instructions="Be brief.", input=items)).status_code == 200

    def called(*calls: tuple[str, str]) -> list[dict[str, Any]]:
        return [{"id": n, "type": "function", "function": {"name": name, "arguments": "{}"}} for n, name in calls]

    url = {"type": "image_url", "image_url": {"url": IMAGE}}
    messages = provider.requests[-1].body["messages"]
    assert [{name: value for name, value in message.items() if value is not None} for message in messages] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "weather"}, _low(url), url]},
        {"role": "assistant", "content": [{"type": "text", "text": "I"}], "tool_calls": called(("a", "f"), ("b", "g"))},
        {"role": "tool", "tool_call_id": "a", "content": "7"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "8"}]},
        {"role": "assistant", "tool_calls": called(("c", "h"))},
        {"role": "tool", "tool_call_id": "c", "content": "9"},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        {"role": "user", "content": "So?"},
    ]


def _low(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image_url", "image_url": part["image_url"] | {"detail": "low"}}


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "nothing is stored"),
        ({"prompt": {"id": "1"}}, "prompt", "nothing is stored"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", "nothing is stored"),
        ({"store": True}, "store", "store"),
        ({"background": True}, "background", "background"),
        ({"truncation": "auto"}, "truncation", "truncation"),
        ({"input": []}, "input", "input"),
        ({"input": [{"type": "reasoning", "id": "1", "summary": []}]}, "input", "input 1: an item is a message"),
        ({"input": [{"content": "whose?"}]}, "input", "input 1"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input", "input_text"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, None, "text"),
        ({"input": [{"type": "function_call", "call_id": "1"}]}, None, "tool_calls"),
        ({"input": [{"type": "function_call_output", "output": "7"}]}, None, "tool_call_id"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text", "name"),
    ],
)
async def test_what_is_not_supported_is_refused_by_its_name(
    client: httpx.AsyncClient, provider: Provider, given: dict[str, Any], param: str | None, says: str
) -> None:
    """400 that says what to do, and the model is not called."""
    error = error_of(await ask(client, **given), 400)
    assert error["param"] == param
    assert says in error["message"]
    assert provider.count.calls == 0


async def test_an_unknown_model_is_404(client: httpx.AsyncClient) -> None:
    """As with chat completions."""
    assert error_of(await ask(client, model="gpt-4o"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_piece_keeps_its_status(
    client: httpx.AsyncClient, provider: Provider, *, stream: bool
) -> None:
    """No event has been sent: it is an ordinary error response."""
    provider.then(Rejected(400))
    assert error_of(await ask(client, stream=stream), 400)["code"] == "request_rejected"


async def test_a_stream_that_breaks_ends_with_an_error_and_a_failed_response(
    client: httpx.AsyncClient, provider: Provider
) -> None:
    """Some clients look for the one, and some for the other; numbers go on, and nothing is said to be complete."""
    provider.then(CutStream())
    *events, error, failed = told(await ask(client, stream=True))
    assert kinds(events)[-1] == "output_text.delta"
    assert [event["sequence_number"] for event in (*events, error, failed)] == list(range(len(events) + 2))
    assert (error["type"], error["code"], error["error"]["code"]) == ("error", "answer_cut", "answer_cut")
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "answer_cut", "message": error["message"]}


@pytest.mark.parametrize("stream", [True, False])
async def test_documents_are_cited_in_the_text_and_beside_it(
    client: httpx.AsyncClient, provider: Provider, ingester: Ingester, *, stream: bool
) -> None:
    """The message has the extension fields."""
    await ingester.ingest_files([PROJECT / "corpus" / "bm25.md"])
    provider.then(double.Reply(CITED))
    response = await ask(client, model="documents", input=QUESTION, stream=stream)
    body = told(response)[-1]["response"] if stream else response.json()
    [message] = body["output"]
    [citation] = message["citations"]
    assert f"[{citation['marker']}]" in message["content"][0]["text"]
    assert "Lucene defaults to k1" in citation["quote"]
    assert message["answer_id"]


async def test_documents_take_no_instructions(client: httpx.AsyncClient) -> None:
    """They have their own."""
    refused = await ask(client, model="documents", input=QUESTION, instructions="Be brief.")
    assert error_of(refused, 400)["param"] == "messages"
