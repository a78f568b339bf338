"""What travels between the steps of the flow: frozen values, no behaviour, no input or output.

This module knows nothing of databases, models or HTTP; every step knows this module.
"""

from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["fabricated", "misattributed", "stitched"]
Message = dict[str, str]
"""A chat message as providers take it: `{"role": ..., "content": ...}`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One source, loaded: Markdown or plain text with its identity."""

    source: str
    title: str
    text: str
    media_type: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document's text: `text == document.text[start:end]`, offsets in characters."""

    ordinal: int
    start: int
    end: int
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that retrieval found, with every score that led to it (None: that side did not find it)."""

    chunk_id: int
    source: str
    title: str
    heading: str
    start: int
    end: int
    text: str
    score: float
    keyword: float | None = None
    dense: float | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A quote that stands verbatim in the stored document, at characters `start` to `end` of its text."""

    marker: int
    chunk_id: int
    source: str
    title: str
    heading: str
    quote: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RejectedCitation:
    """A citation that the model gave and the check refused, with the kind of fault."""

    marker: int
    quote: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; `estimated` when the provider did not count them."""

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's whole reply. `cost_nanousd` is in 1e-9 US dollars; None means that the price is unknown."""

    text: str
    model: str
    finish_reason: str
    usage: Usage
    cost_nanousd: int | None
    notice: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of an answer's text, ready to show."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application says to a question, and everything needed to check and repeat it."""

    id: str
    question: str
    text: str
    abstained: bool
    model: str
    notice: str
    prompt_hash: str
    usage: Usage
    cost_nanousd: int | None
    latency_ms: int
    citations: tuple[Citation, ...] = ()
    rejected: tuple[RejectedCitation, ...] = ()
    passages: tuple[Passage, ...] = field(default=(), repr=False)
