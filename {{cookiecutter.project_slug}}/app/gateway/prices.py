"""What a deployment costs and takes: the settings' word first, else litellm's tables. Money in integers of 1e-9 USD.

Knows nothing of budgets.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.gateway.deployments import Deployment
from app.types import Message, Usage

NANO = 1_000_000_000
MILLION = 1_000_000
# UTF-8 bytes a token: about four characters of English, and one of Chinese, with something to spare.
BYTES_PER_TOKEN = 3
CHARACTERS_PER_TOKEN = 4
# What providers count for a large picture, roughly; a reservation should rather be too high.
TOKENS_PER_ATTACHMENT = 2_000
TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class Facts:
    """A deployment's limits and abilities, and its prices in USD per million tokens; None where nobody knows."""

    context_tokens: int | None = None
    json_schema: bool = False
    images: bool = False
    audio: bool = False
    input_price: float | None = None
    cached_input_price: float | None = None
    output_price: float | None = None

    @property
    def priced(self) -> bool:
        """Whether a call's cost can be known."""
        return self.input_price is not None and self.output_price is not None

    def cost(self, usage: Usage) -> int | None:
        """1e-9 USD for these tokens; None where a price is unknown."""
        if self.input_price is None or self.output_price is None:
            return None
        cached_price = self.input_price if self.cached_input_price is None else self.cached_input_price
        fresh = usage.input_tokens - usage.cached_tokens
        dollars = (
            fresh * self.input_price + usage.cached_tokens * cached_price + usage.output_tokens * self.output_price
        )
        return round(dollars * NANO / MILLION)


def facts(deployment: Deployment, known: Mapping[str, object]) -> Facts:
    """Put the settings before what litellm knows of the model, which is per token."""
    settings = deployment.settings

    def price(ours: float | None, name: str) -> float | None:
        theirs = known.get(name)
        return ours if ours is not None else theirs * MILLION if isinstance(theirs, int | float) else None

    def able(ours: bool | None, name: str) -> bool:  # noqa: FBT001  # a setting that may be unset
        return bool(known.get(name)) if ours is None else ours

    reads = known.get("max_input_tokens")
    own_price = settings.input_price is not None
    return Facts(
        context_tokens=settings.context_tokens or (reads if isinstance(reads, int) else None),
        json_schema=able(settings.json_schema, "supports_response_schema"),
        images=able(settings.images, "supports_vision"),
        audio=able(settings.audio, "supports_audio_input"),
        input_price=price(settings.input_price, "input_cost_per_token"),
        cached_input_price=settings.cached_input_price
        if own_price
        else price(settings.cached_input_price, "cache_read_input_token_cost"),
        output_price=price(settings.output_price, "output_cost_per_token"),
    )


def to_nanousd(dollars: float | None) -> int | None:
    """Dollars of a setting as whole 1e-9 USD; None stays None."""
    return None if dollars is None else round(dollars * NANO)


def estimate_tokens(text: str) -> int:
    """A guess where a provider did not count: four characters a token, as English has it."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def largest_usage(messages: list[Message], parameters: Mapping[str, Any]) -> Usage:
    """What a call may use at most, for a reservation: a guess that is rather too high."""
    asked = sum(_size(parameters.get(name)) for name in ("tools", "response_format"))
    for message in messages:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [part.get("text") for part in content]
        asked += sum(TOKENS_PER_ATTACHMENT if text is None else TOKENS_PER_MESSAGE + _size(text) for text in parts)
        asked += _size(message.get("tool_calls"))
    return Usage(asked, max(parameters.get(name, 0) for name in ("max_tokens", "max_completion_tokens")))


def _size(value: object) -> int:
    """Tokens of a text, or of something as JSON."""
    if not value:
        return 0
    text = value if isinstance(value, str) else json.dumps(value)
    return len(text.encode(errors="ignore")) // BYTES_PER_TOKEN
