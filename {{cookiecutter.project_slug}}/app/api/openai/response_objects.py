"""Replies as POST /v1/responses gives them: the response, and its items. Knows nothing of streams."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.openai.answering import Reply
from app.api.openai.response_requests import ResponseRequest
from app.types import ToolCall, Usage

Kind = Literal["output_text", "refusal", "function_call"]
CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Response(BaseModel):
    """A response. Nothing of it is stored."""

    id: str
    object: Literal["response"] = "response"
    created_at: int = Field(description="seconds since 1970")
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]] = Field(
        description="items of the types message and function_call; a message of `documents` has the extension fields"
        " citations, notice and answer_id"
    )
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    usage: dict[str, Any] | None
    instructions: str | None
    metadata: dict[str, str]
    tools: list[dict[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool
    text: dict[str, Any]
    temperature: float | None
    top_p: float | None
    max_output_tokens: int | None
    previous_response_id: None
    store: Literal[False]
    truncation: Literal["disabled"]


@dataclass
class Item:
    """A part of the output: a message with one part, or a function call; `text` is what it says, or the arguments."""

    kind: Kind
    text: str = ""
    call_id: str = ""
    name: str = ""
    id: str = field(default_factory=lambda: f"item_{uuid.uuid4().hex}")

    def part(self) -> dict[str, Any]:
        """The one part of a message."""
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def opened(self) -> dict[str, Any]:
        """The item, before it says anything."""
        nothing: dict[str, Any] = {"arguments": ""} if self.kind == "function_call" else {"content": []}
        return self.json("in_progress") | nothing

    def json(self, status: str, extension: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The item as it stands."""
        shared = {"id": self.id, "status": status}
        if self.kind == "function_call":
            named = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
            return shared | {"type": "function_call"} | named
        return shared | {"type": "message", "role": "assistant", "content": [self.part()]} | dict(extension or {})


def items_of(text: str, refusal: str, calls: tuple[ToolCall, ...] | list[ToolCall]) -> list[Item]:
    """What is said, as items."""
    said: list[tuple[Kind, str]] = [("output_text", text), ("refusal", refusal)]
    called = [Item("function_call", call.arguments, call.id, call.name) for call in calls]
    return [Item(kind, what) for kind, what in said if what] + called


def status_of(reply: Reply) -> Literal["completed", "incomplete"]:
    """How the response ended."""
    return "incomplete" if reply.finish_reason in CUT else "completed"


def blank(request: ResponseRequest) -> dict[str, Any]:
    """The response before anything is said: what was asked for."""
    given = request.model_dump(by_alias=True, exclude_none=True)
    shown: dict[str, Any] = {
        name: given.get(name) for name in ("instructions", "temperature", "top_p", "max_output_tokens")
    }
    return shown | {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": request.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "metadata": given.get("metadata", {}),
        "tools": given.get("tools", []),
        "tool_choice": given.get("tool_choice", "auto"),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "text": given.get("text") or {"format": {"type": "text"}},
        "previous_response_id": None,
        "store": False,
        "truncation": "disabled",
    }


def ended(reply: Reply, output: list[dict[str, Any]]) -> dict[str, Any]:
    """What the end adds to a response."""
    reason = CUT.get(reply.finish_reason)
    details = {"reason": reason} if reason else None
    return {"status": status_of(reply), "incomplete_details": details, "output": output, "usage": _count(reply.usage)}


def response_of(request: ResponseRequest, reply: Reply) -> dict[str, Any]:
    """The whole response."""
    items = items_of(reply.text, reply.refusal, reply.tool_calls)
    return blank(request) | ended(reply, [item.json(status_of(reply), reply.extension) for item in items])


def _count(usage: Usage) -> dict[str, Any]:
    asked, said = usage.input_tokens, usage.output_tokens
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked + said,
    }
