"""Replies as POST /v1/chat/completions gives them: whole, or in chunks. Knows nothing of who answers."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.openai.answering import Asked, Piece, Reply, asked_for
from app.api.openai.requests import ChatRequest
from app.api.openai.wire import sse
from app.types import Citation, TextDelta, ToolCallDelta, Usage


class CalledFunction(BaseModel):
    """What is to be called. `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class CalledTool(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Extension(BaseModel):
    """What this server adds to OpenAI's format; only where there is something to say."""

    citations: list[Citation] | None = Field(None, description="of `documents`: what stands behind each [n]")
    notice: str | None = Field(None, description="for the reader: what is special about this reply")
    answer_id: str | None = Field(None, description="of `documents`: names the answer, for feedback")


class AssistantMessage(Extension):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None
    tool_calls: list[CalledTool] | None = None


class Choice(BaseModel):
    """The one reply."""

    index: Literal[0] = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: str = Field(description="stop, length, tool_calls or content_filter")


class CachedTokens(BaseModel):
    """What of the input the provider had read before."""

    cached_tokens: int


class TokenCount(BaseModel):
    """Tokens, as the provider counted them, or as we guessed where it did not."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class ChatCompletion(BaseModel):
    """A whole reply."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[Choice]
    usage: TokenCount


def from_chat(request: ChatRequest) -> Asked:
    """The request as both models take it. Raises ModelNotFound."""
    given = request.model_dump(exclude_none=True, by_alias=True)
    if given.get("response_format") == {"type": "text"}:
        del given["response_format"]
    return asked_for(request.model, [message.for_gateway() for message in request.messages], given)


def completion_of(reply: Reply, model: str) -> dict[str, Any]:
    """The body of the response, a ChatCompletion."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": reply.refusal or None}
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    choice = {"index": 0, "message": message | reply.extension, "logprobs": None, "finish_reason": reply.finish_reason}
    return _envelope("chat.completion", model) | {"choices": [choice], "usage": _count(reply.usage)}


async def chunks_of(pieces: AsyncGenerator[Piece], model: str, *, include_usage: bool) -> AsyncGenerator[bytes]:
    """The pieces as server-sent events, and the end."""
    envelope = _envelope("chat.completion.chunk", model) | ({"usage": None} if include_usage else {})

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse(envelope | {"choices": [choice]})

    opening = {"role": "assistant", "content": ""}
    async with aclosing(pieces) as events:
        async for piece in events:
            if opening:
                yield chunk(opening)
                opening = {}
            if not isinstance(piece, Reply):
                yield chunk(_delta(piece))
                continue
            if piece.refusal:
                yield chunk({"refusal": piece.refusal})
            yield chunk(piece.extension, piece.finish_reason)
            if include_usage:
                yield sse(envelope | {"choices": [], "usage": _count(piece.usage)})
    yield b"data: [DONE]\n\n"


def _delta(piece: TextDelta | ToolCallDelta) -> dict[str, Any]:
    if isinstance(piece, TextDelta):
        return {"content": piece.text}
    fragment: dict[str, Any] = {"index": piece.index, "function": {"arguments": piece.arguments}}
    if piece.id or piece.name:
        fragment |= {"id": piece.id, "type": "function"}
        fragment["function"]["name"] = piece.name
    return {"tool_calls": [fragment]}


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _count(usage: Usage) -> dict[str, Any]:
    asked, said = usage.input_tokens, usage.output_tokens
    details = {"cached_tokens": usage.cached_tokens}
    return {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": details,
    }
