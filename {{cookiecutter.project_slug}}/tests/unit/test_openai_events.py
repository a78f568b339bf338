"""A response as events: whatever a model says, in whatever order, each item comes whole and by itself."""

import json
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.api.openai.answering import Piece, Reply
from app.api.openai.response_events import NAMES, ResponseEvents
from app.api.openai.response_requests import ResponseRequest
from app.types import TextDelta, ToolCall, ToolCallDelta, Usage

WORDS = st.text(min_size=1, max_size=4)
SAID = st.lists(WORDS | st.tuples(st.integers(0, 2), WORDS), max_size=12)
KINDS = {name: kind for kind, (name, _) in NAMES.items()}


def pieces_of(said: list[Any], refusal: str) -> list[Piece]:
    """Text, or a piece of the call of that number; then the whole, as the gateway puts it together."""
    arguments: dict[int, str] = {}
    pieces: list[Piece] = []
    for piece in said:
        if isinstance(piece, str):
            pieces.append(TextDelta(piece))
            continue
        index, more = piece
        is_first = index not in arguments
        pieces.append(ToolCallDelta(index, f"call_{index}" * is_first, f"tool_{index}" * is_first, more))
        arguments[index] = arguments.get(index, "") + more
    calls = tuple(ToolCall(f"call_{index}", f"tool_{index}", arguments[index]) for index in sorted(arguments))
    text = "".join(piece for piece in said if isinstance(piece, str))
    return [*pieces, Reply(text, "stop", Usage(1, 2), refusal, calls)]


async def coming(pieces: list[Piece]) -> AsyncGenerator[Piece]:
    """As from a model."""
    for piece in pieces:
        yield piece


def data_of(event: bytes) -> dict[str, Any]:
    """What an event says, whose name is its type."""
    name, data = event.decode().strip().split("\n")
    said: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {said['type']}"
    return said


def read(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items, put together from the events alone; each is open by itself, under its own number."""
    items: list[dict[str, Any]] = []
    written = ""
    for event in events[2:-1]:
        assert event["output_index"] == len(items)
        match event["type"].removeprefix("response.").split("."):
            case ["output_item", "added"]:
                item, written = event["item"], ""
            case ["output_item", "done"]:
                assert event["item"]["id"] == item["id"]
                items.append(event["item"])
            case [_, "delta"]:
                assert event["item_id"] == item["id"]
                written += event["delta"]
            case ["content_part", _]:
                assert event["part"]["type"] in NAMES
            case [_, "done"]:
                kind = KINDS[event["type"].removesuffix(".done")]
                assert event[NAMES[kind][1]] == written
    return items


@given(said=SAID, refusal=st.sampled_from(["", "No."]))
async def test_every_piece_is_in_one_item_and_every_item_ends(said: list[Any], refusal: str) -> None:
    """The text and the calls of the items are those of the reply; numbers have no gaps."""
    pieces = pieces_of(said, refusal)
    reply = pieces[-1]
    assert isinstance(reply, Reply)
    response = ResponseEvents(ResponseRequest(model="chat", input="hello"))
    events = [data_of(event) async for event in response.stream(coming(pieces))]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    items = read(events)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"] == items
    parts = [part for item in items for part in item.get("content", ())]
    assert "".join(part.get("text", "") for part in parts) == reply.text
    assert "".join(part.get("refusal", "") for part in parts) == refusal
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in items if "call_id" in item]
    assert sorted(calls) == [(call.id, call.name, call.arguments) for call in reply.tool_calls]
