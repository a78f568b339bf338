"""What a provider sent, as litellm hands it over: read piece by piece, and not believed.

Tokens are counted by those who charge for them, so a count that cannot be true is replaced by a guess that says so.
Knows nothing of prices.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from app.gateway.failures import Failure
from app.gateway.prices import estimate_tokens, largest_usage
from app.types import Message, Pulse, TextDelta, ToolCall, ToolCallDelta, Usage

MOST_TOKENS = 100_000_000
# litellm reports any finish it does not know as "stop", and keeps the provider's word for it aside.
GOOD_FINISHES = {None, "stop", "eos", "end_turn", "stop_sequence", "STOP", "COMPLETE", "complete", "finished", "done"}

Piece = TextDelta | ToolCallDelta | Pulse


@dataclass
class Said:
    """What has come of a reply so far."""

    text: str = ""
    refusal: str = ""
    calls: dict[int, ToolCall] = field(default_factory=dict)

    def hear(self, delta: Any) -> list[Piece]:  # noqa: ANN401  # litellm ships no types
        """Take the next piece of a stream; a piece without anything to show is a pulse."""
        pieces: list[Piece] = []
        self.refusal += refusal(delta)
        if delta.content:
            self.text += delta.content
            pieces.append(TextDelta(delta.content))
        for call in delta.tool_calls or ():
            known = self.calls.get(call.index, ToolCall("", "", ""))
            more = ToolCallDelta(call.index, call.id or "", call.function.name or "", call.function.arguments or "")
            self.calls[call.index] = ToolCall(
                known.id or more.id, known.name or more.name, known.arguments + more.arguments
            )
            pieces.append(more)
        return pieces or [Pulse()]

    def hear_whole(self, message: Any) -> None:  # noqa: ANN401  # as above
        """Take a reply that did not stream."""
        self.text, self.refusal = message.content or "", refusal(message)
        for index, call in enumerate(message.tool_calls or ()):
            self.calls[index] = ToolCall(call.id or "", call.function.name or "", call.function.arguments or "")

    def tool_calls(self, finish: str) -> tuple[ToolCall, ...]:
        """The calls in order; only what was cut at the limit of tokens may be less than a JSON object.

        Raises:
            Failure: of kind garbled.

        """
        calls = tuple(self.calls[index] for index in sorted(self.calls))
        if finish != "length" and not all(_is_object(call.arguments) for call in calls):
            raise Failure("garbled", "a tool was called with what is no JSON object")
        return calls

    def usage(self, counted: Any, messages: list[Message]) -> Usage:  # noqa: ANN401  # litellm's usage, or None
        """The provider's count, or a guess that says so."""
        text = self.text + self.refusal + "".join(call.arguments for call in self.calls.values())
        asked, said = _tokens(counted, "prompt_tokens"), _tokens(counted, "completion_tokens")
        if not asked or said is None or (text and not said):
            most = largest_usage(messages, {"max_tokens": 0})
            return Usage(most.input_tokens, estimate_tokens(text), estimated=True)
        cached = _tokens(getattr(counted, "prompt_tokens_details", None), "cached_tokens") or 0
        return Usage(asked, said, min(cached, asked))


def refusal(message: Any) -> str:  # noqa: ANN401  # a message or a delta
    """The model's own refusal, which litellm puts aside."""
    aside = getattr(message, "provider_specific_fields", None) or {}
    said = getattr(message, "refusal", None) or aside.get("refusal")
    return said if isinstance(said, str) else ""


def finish_of(choice: Any) -> str:  # noqa: ANN401  # litellm's choice of a whole reply
    """Why the model ended: litellm's word, but where that hides one which it does not know.

    Raises:
        Failure: of kind garbled; it did not end well.

    """
    aside = getattr(choice, "provider_specific_fields", None) or {}
    native = aside.get("native_finish_reason")
    if choice.finish_reason == "stop" and native not in GOOD_FINISHES:
        raise Failure("garbled", f"the reply ended with {native!r:.40}")
    return str(choice.finish_reason)


def embedded(reply: Any, texts: list[str]) -> tuple[list[list[float]], Usage, bool]:  # noqa: ANN401  # as above
    """One vector per text, in order; the tokens, and whether the provider counted them.

    Raises:
        Failure: of kind garbled; vectors are missing, out of order, or no vectors.

    """
    items = sorted(reply.data or (), key=lambda item: item["index"])
    vectors = [item["embedding"] for item in items if item["embedding"]]
    if [item["index"] for item in items] != list(range(len(texts))) or len(vectors) != len(texts):
        raise Failure("garbled", f"{len(vectors)} vectors came for {len(texts)} texts")
    if len({len(vector) for vector in vectors}) != 1 or not all(_is_vector(vector) for vector in vectors):
        raise Failure("garbled", "what came is no list of vectors")
    counted = _tokens(getattr(reply, "usage", None), "prompt_tokens")
    if counted:
        return vectors, Usage(counted), True
    return vectors, Usage(sum(map(estimate_tokens, texts)), estimated=True), False


def _is_vector(numbers: list[Any]) -> bool:
    """Whether all are finite numbers: there are half a million in a large ingest, and a sum is the quickest test."""
    try:
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def _tokens(counted: Any, name: str) -> int | None:  # noqa: ANN401  # as above
    """A number of tokens that can be true; None for anything else."""
    number = getattr(counted, name, None)
    return number if isinstance(number, int) and 0 <= number <= MOST_TOKENS else None


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments or "{}"), dict)
    except (ValueError, RecursionError):
        return False
