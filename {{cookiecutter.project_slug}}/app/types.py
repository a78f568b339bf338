"""What travels between the steps of the flow: frozen values, no behaviour, no input or output.

This module knows nothing of databases, models or HTTP; every step knows this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

DEFAULT_TENANT = "default"

Fault = Literal["fabricated", "misattributed", "stitched"]
Origin = Literal["file", "upload", "url", "stdin"]
Rating = Literal["up", "down"]
Use = Literal["cited", "read", "found"]
Scope = Literal["chat", "documents:read", "documents:write"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
Message = dict[str, Any]
"""A chat message as providers take it: `{"role": ..., "content": text or a list of parts}`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One source, loaded: Markdown or plain text with its identity.

    `content_hash` is of the bytes it was made from. `page_starts` are the offsets, in characters of `text`, at which
    each page begins; empty where the format has no pages. `metadata` is what a question may be limited to.
    """

    source: str
    title: str
    text: str
    media_type: str
    content_hash: str
    origin: Origin = "file"
    metadata: Mapping[str, str] = field(default_factory=dict)
    page_starts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document's text: `text == document.text[start:end]`, offsets in characters.

    `page` counts from 1; None where the format has no pages. `context` is what a model wrote to place the chunk in its
    document: it is searched, and never shown or cited.
    """

    ordinal: int
    start: int
    end: int
    heading: str
    text: str
    page: int | None = None
    context: str = ""

    @property
    def searched(self) -> str:
        """What is embedded, and what the keyword search finds."""
        return "\n".join(filter(None, [self.context, self.heading, self.text]))


@dataclass(frozen=True, slots=True)
class Filter:
    """What a search is limited to: documents with all of this metadata, below this path; empty limits nothing."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    source_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that retrieval found, with every score that led to it (None: that side did not find it).

    `text == document.text[start:end]`; with its neighbours it may be more than the chunk. `use` says what became of
    it: cited in the answer, read by the model and not cited, or found and left out.
    """

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
    rerank: float | None = None
    page: int | None = None
    use: Use = "found"


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
    page: int | None = None


@dataclass(frozen=True, slots=True)
class RejectedCitation:
    """A citation that the model gave and the check refused, with the kind of fault."""

    marker: int
    quote: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; `cached_tokens` are a part of the input, `estimated` where the provider did not count."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model wants called; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's whole reply. `cost_nanousd` is in 1e-9 US dollars; None means that the price is unknown.

    `cached` says that it came from the exact cache; then it cost nothing, and `saved_nanousd` is what it cost before.
    """

    text: str
    model: str
    finish_reason: str
    usage: Usage
    cost_nanousd: int | None
    notice: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    cached: Literal["", "exact"] = ""
    saved_nanousd: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per text, in order."""

    vectors: list[list[float]]
    model: str
    usage: Usage
    cost_nanousd: int | None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of an answer's text, ready to show."""

    text: str


@dataclass(frozen=True, slots=True)
class Pulse:
    """The model is at work, and has nothing to show yet."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the tool call number `index`; id and name come with its first piece."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of one deployment, as the ledger keeps it.

    `outcome` is "ok", "cancelled" or the kind of the failure, and `detail` what is known of it, without secrets. The
    cost is in 1e-9 US dollars: None means that the price is unknown, and 0 that nothing was to be paid. `reservation`
    is what the budget set aside for this attempt and takes back when the attempt is written.
    """

    model: str
    outcome: str
    started_at: datetime
    duration_ms: int
    usage: Usage = Usage()
    cost_nanousd: int | None = 0
    partial: bool = False
    first_token_ms: int | None = None
    detail: str = ""
    reservation: str | None = None


@dataclass(frozen=True, slots=True)
class Inference:
    """One call of the gateway with all its attempts: what was asked of which role, for whom, and how it ended.

    `outcome` is "ok", "cancelled" or the code of the error that the caller got.
    """

    id: str
    request_id: str
    tenant: str
    api_key_id: str
    role: str
    outcome: str
    started_at: datetime
    duration_ms: int
    cached: Literal["", "exact", "semantic"] = ""
    saved_nanousd: int | None = None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """A question of a conversation, and what was answered."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is kept: whose it is, and the conversation that it belongs to, if any.

    An owner is the name of an API key; empty where the server needs none.
    """

    owner: str = ""
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application says to a question, and everything needed to check and repeat it.

    `reason` says why it abstained; empty where it did not. `standalone` is the question as it was searched for: as it
    was asked, or with what a conversation said before it.
    """

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
    reason: str = ""
    standalone: str = ""
    conversation_id: str | None = None
    citations: tuple[Citation, ...] = ()
    rejected: tuple[RejectedCitation, ...] = ()
    passages: tuple[Passage, ...] = field(default=(), repr=False)
