"""A response as events, in OpenAI's order: one item at a time, each opened, filled and closed.

A model may mix text and calls as it likes. The item that it began with is filled as its pieces come; what belongs to
another one is taken from the whole reply at the end. Knows nothing of who answers.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from itertools import count
from typing import Any

from app.api.errors import ErrorBody
from app.api.openai.answering import Piece, Reply
from app.api.openai.response_objects import Item, blank, ended, items_of, status_of
from app.api.openai.response_requests import ResponseRequest
from app.api.openai.wire import sse
from app.types import TextDelta, ToolCallDelta

# The events of each kind of item: for a piece, for its end, and the field that then holds the whole.
NAMES = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "function_call": ("response.function_call_arguments", "arguments"),
}


class ResponseEvents:
    """The events of one response."""

    def __init__(self, request: ResponseRequest) -> None:
        self._response = blank(request)
        self._numbers = count()
        self._output: list[dict[str, Any]] = []
        self._item: Item | None = None
        self._call: ToolCallDelta | None = None
        self._written = 0  # characters of the text

    async def stream(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[bytes]:
        """The pieces as events, begun with the first piece, so that an error before it is an ordinary error."""
        begun = False
        async with aclosing(pieces) as coming:
            async for piece in coming:
                if not begun:
                    begun = True
                    yield self._event("response.created", response=self._response)
                    yield self._event("response.in_progress", response=self._response)
                for event in self._end(piece) if isinstance(piece, Reply) else self._fill(piece):
                    yield event

    def failed(self, error: ErrorBody) -> bytes:
        """The last events where it did not end well: clients know the one or the other."""
        told = error["error"]
        flat = {name: told[name] for name in ("code", "message", "param")}
        shown = {name: told[name] for name in ("code", "message")}
        response = self._response | {"status": "failed", "error": shown, "output": self._output}
        return self._event("error", **flat, error=told) + self._event("response.failed", response=response)

    def _fill(self, piece: TextDelta | ToolCallDelta) -> Iterator[bytes]:
        if isinstance(piece, ToolCallDelta):
            if self._call is None:
                yield from self._close("completed")
                self._call = piece
                yield from self._open(Item("function_call", "", piece.id, piece.name))
            if piece.index == self._call.index:
                yield from self._write(piece.arguments)
        elif self._call is None:
            if self._item is None:
                yield from self._open(Item("output_text"))
            self._written += len(piece.text)
            yield from self._write(piece.text)

    def _end(self, reply: Reply) -> Iterator[bytes]:
        status = status_of(reply)
        yield from self._close(status, reply.extension)
        for item in self._left(reply):
            text, item.text = item.text, ""
            yield from self._open(item)
            yield from self._write(text)
            yield from self._close(status, reply.extension)
        self._response |= ended(reply, self._output)
        yield self._event(f"response.{status}", response=self._response)

    def _left(self, reply: Reply) -> list[Item]:
        """What no item has said yet."""
        calls = list(reply.tool_calls)
        if self._call:
            calls.pop(next((n for n, call in enumerate(calls) if call.id == self._call.id), 0))
        return items_of(reply.text[self._written :], reply.refusal, calls)

    def _open(self, item: Item) -> Iterator[bytes]:
        self._item = item
        yield self._event("response.output_item.added", output_index=len(self._output), item=item.opened())
        if item.kind != "function_call":
            yield self._event("response.content_part.added", **self._place(item), part=item.part())

    def _write(self, text: str) -> Iterator[bytes]:
        item = self._item
        if item and text:
            item.text += text
            yield self._event(f"{NAMES[item.kind][0]}.delta", **self._place(item), delta=text)

    def _close(self, status: str, extension: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        item = self._item
        if item is None:
            return
        name, whole = NAMES[item.kind]
        place = self._place(item)
        yield self._event(f"{name}.done", **place, **{whole: item.text})
        if item.kind != "function_call":
            yield self._event("response.content_part.done", **place, part=item.part())
        done = item.json(status, extension)
        yield self._event("response.output_item.done", output_index=len(self._output), item=done)
        self._output.append(done)
        self._item = None

    def _place(self, item: Item) -> dict[str, Any]:
        place = {"item_id": item.id, "output_index": len(self._output)}
        return place if item.kind == "function_call" else place | {"content_index": 0}

    def _event(self, name: str, **fields: object) -> bytes:
        return sse({"type": name, "sequence_number": next(self._numbers), **fields}, name)
