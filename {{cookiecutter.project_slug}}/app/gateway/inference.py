"""One call of the gateway while it is under way: who asks what of whom, and what the ledger will know of it.

Knows nothing of policy: it is told what happens.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from app.gateway.context import CallContext
from app.gateway.deployments import Deployment
from app.gateway.failures import Failure
from app.gateway.parts import Input
from app.gateway.prices import CHARACTERS_PER_TOKEN, Facts
from app.types import Attempt, Completion, Embeddings, Inference, Pulse, TextDelta, ToolCallDelta, Usage

Event = TextDelta | ToolCallDelta | Pulse | Completion | Embeddings
# Silence, garbage and what was cut may have cost something. For everything else nobody sends a bill.
CHARGED = frozenset({"timeout", "stalled", "garbled", "cut", "cancelled"})


def _milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)


@dataclass
class OpenAttempt:
    """One call of one deployment under way."""

    inference: "OpenInference"
    deployment: Deployment
    facts: Facts
    reservation: str | None = None
    outcome: str = "cancelled"
    detail: str = ""
    usage: Usage | None = None
    cost_nanousd: int | None = None
    first_token_ms: int | None = None
    heard: int = 0
    began: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def hear(self, event: TextDelta | ToolCallDelta | Completion | Embeddings) -> None:
        """Note an event as it passes."""
        if isinstance(event, Completion | Embeddings):
            self.outcome, self.usage, self.cost_nanousd = "ok", event.usage, event.cost_nanousd
            self.inference.outcome = "ok"
            return
        if self.first_token_ms is None:
            self.first_token_ms = _milliseconds(self.began)
        self.heard += len(event.text if isinstance(event, TextDelta) else event.arguments)

    @contextmanager
    def noted(self, release: Callable[[str], None]) -> Iterator[None]:
        """Keep what became of it. A failure after the first token is another kind: nobody may go on with the answer.

        What was reserved is released at once where nothing is to be paid, and else with the ledger's row.
        """
        try:
            yield
        except Failure as failure:
            self.outcome, self.detail = failure.kind, failure.detail
            if failure.kind == "context":
                self.inference.too_long_for = self.facts.context_tokens or math.inf
            if failure.kind != "stalled" and self.first_token_ms is not None:
                self.outcome = "cut"
                raise Failure("cut", failure.detail) from None
            raise
        finally:
            closed = self._closed()
            self.inference.attempts.append(closed)
            if closed.reservation and closed.cost_nanousd == 0:
                release(closed.reservation)

    def _closed(self) -> Attempt:
        """What the ledger keeps. What a broken call used is a guess: the question, and what was heard of the answer."""
        usage, cost = self.usage, self.cost_nanousd
        if usage is None:
            free = self.outcome not in CHARGED and not self.heard
            usage = (
                Usage()
                if free
                else Usage(self.inference.largest.input_tokens, -(-self.heard // CHARACTERS_PER_TOKEN), estimated=True)
            )
            cost = 0 if free else self.facts.cost(usage)
        return Attempt(
            model=self.deployment.model,
            outcome=self.outcome,
            started_at=self.started_at,
            duration_ms=_milliseconds(self.began),
            usage=usage,
            cost_nanousd=cost,
            partial=self.outcome != "ok" and self.heard > 0,
            first_token_ms=self.first_token_ms,
            detail=self.detail,
            reservation=self.reservation,
        )


@dataclass
class OpenInference:
    """What was asked, and the attempts so far."""

    role: str
    context: CallContext
    deployments: tuple[Deployment, ...]
    largest: Usage
    needed: frozenset[Input] = frozenset()
    outcome: str = "cancelled"
    cached: Literal["", "exact", "semantic"] = ""
    saved_nanousd: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    too_long_for: float = 0
    began: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def served_from_cache(self, which: Literal["exact", "semantic"], saved_nanousd: int | None) -> None:
        """Nobody was called."""
        self.cached, self.saved_nanousd, self.outcome = which, saved_nanousd, "ok"

    def close(self) -> Inference:
        """What the ledger keeps."""
        return Inference(
            id=str(uuid.uuid4()),
            request_id=self.context.request_id,
            tenant=self.context.tenant,
            api_key_id=self.context.api_key_id,
            role=self.role,
            outcome=self.outcome,
            started_at=self.started_at,
            duration_ms=_milliseconds(self.began),
            cached=self.cached,
            saved_nanousd=self.saved_nanousd,
            attempts=tuple(self.attempts),
        )
