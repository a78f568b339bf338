"""A shorter way for most of a stream: what is nothing but a piece of text goes past litellm and the SDK below it.

They make some twenty objects of each piece, which takes most of a stream's CPU time, and of which the text is read.
Whatever is more than that (the first piece, tools, a refusal, the finish, the usage) and whatever is wrong goes their
way, so that they see what they need for the end. Only for OpenAI's own format over the SDK's stream; others are left
alone. Knows nothing of what the pieces are for.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

PROVIDERS = frozenset({"openai", "azure"})
END = "[DONE]"


async def shortened(stream: Any) -> AsyncGenerator[Any]:  # noqa: ANN401  # litellm and the SDK ship no usable types
    """What litellm's `stream` gives, but pieces of text as `str`. Raises what litellm raises."""
    if stream.custom_llm_provider in PROVIDERS and hasattr(stream.completion_stream, "_iter_events"):
        async for piece in _Tap(stream.completion_stream).pieces(stream):
            yield piece
    else:
        async for event in stream:
            yield event


class _Tap:
    """Reads the events of the SDK's stream first, and lets it have those that are not text."""

    def __init__(self, sdk: Any) -> None:  # noqa: ANN401  # as above
        self._events = sdk._iter_events()  # noqa: SLF001  # nothing public gives the events before they are objects
        sdk._iter_events = self._rest  # noqa: SLF001  # as above
        self._held: list[Any] = []
        self._is_over = False

    async def pieces(self, stream: Any) -> AsyncGenerator[Any]:  # noqa: ANN401  # as above
        """Text as it comes; of the rest what litellm makes of it."""
        while not self._is_over:
            event = await self._read()
            if text := _text(getattr(event, "data", "")):
                yield text
                continue
            self._held.append(event)
            if not self._is_over:
                yield await anext(stream)
        async for event in stream:
            yield event

    async def _read(self) -> Any:  # noqa: ANN401  # as above
        """The next event; what went wrong instead; or nothing, at the end."""
        try:
            event = await anext(self._events, None)
        except Exception as error:  # noqa: BLE001  # of any kind: it is raised where the SDK reads
            event = error
        self._is_over = getattr(event, "data", END).startswith(END)
        return event

    async def _rest(self) -> AsyncIterator[Any]:
        """What the SDK reads: the event that was held back, and those after it, should it want more at once."""
        while (event := self._held.pop() if self._held else await self._read()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event


def _text(data: str) -> str | None:
    """The text of a piece that is nothing else."""
    try:
        piece = json.loads(data)
        [choice] = piece["choices"]
        delta = dict(choice["delta"])
    except (ValueError, KeyError, TypeError):
        return None
    text, role = delta.pop("content", None), delta.pop("role", "assistant")
    more = any(delta.values()) or piece.get("usage") or piece.get("error") or choice.get("finish_reason")
    is_text = isinstance(text, str) and role == "assistant" and choice.get("index") == 0 and not more
    return text if is_text else None
