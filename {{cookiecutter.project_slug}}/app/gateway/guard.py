"""What protects a deployment from us, and us from it: a circuit breaker, a retry budget, a limit of calls at a time.

One guard a deployment, in memory: each process learns for itself. Knows nothing of what is called.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from app.gateway.context import CallContext
from app.gateway.deployments import Deployment
from app.gateway.failures import Failure
from app.settings import Settings

FIRST_PAUSE_SECONDS = 0.25
# A retry costs one, a first attempt earns a fifth: of a provider's lasting trouble retries make a fifth more, not
# three times as much. The reserve lets a process that has just started retry too.
RETRY_EARNED, RETRY_RESERVE = 0.2, 10.0
LONGEST_OPEN_SECONDS = 300.0


class Breaker:
    """Closed, then open after so many failures in a row, then half open: one call at a time is let through to try.

    Each call has a ticket. Opening makes older tickets void: what a call learns that began before then says nothing
    about now.
    """

    def __init__(self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = failures, seconds, clock
        self._failures = 0
        self._shut_until = 0.0
        self._ticket = 0
        self._last = ""

    def admit(self) -> int:
        """Let one call through, with its ticket.

        Raises:
            Failure: of kind busy; the breaker is open, or another call is trying.

        """
        if self._failures >= self._most:
            wait = self._shut_until - self._clock()
            if wait > 0:
                raise Failure("busy", f"left alone, after: {self._last}", retry_after=max(1.0, wait))
            self._shut_until = self._clock() + self._seconds  # a trial that hangs is followed by another
        return self._ticket

    def answering(self, ticket: int) -> None:
        """The first token has come: enough for a trial, the others need not wait for the last."""
        if self._failures >= self._most:
            self.succeeded(ticket)

    def succeeded(self, ticket: int) -> None:
        """It answers: closed again."""
        if ticket == self._ticket:
            self._failures = 0

    def failed(self, ticket: int, failure: Failure) -> None:
        """Count it as the table says. A provider that names its time is left alone for that long."""
        if failure.consequence.breaker == "ignores":
            self.abandoned(ticket)
        elif ticket == self._ticket:
            self._failures = self._most if failure.consequence.breaker == "opens" else self._failures + 1
            self._last = failure.detail
            if self._failures >= self._most:
                self._ticket += 1
                pause = min(max(self._seconds, failure.retry_after or 0), LONGEST_OPEN_SECONDS)
                self._shut_until = self._clock() + pause

    def abandoned(self, ticket: int) -> None:
        """The call ended without saying anything about the deployment; another one may try."""
        if ticket == self._ticket:
            self._shut_until = self._clock()


class RetryBudget:
    """How many retries a deployment's recent first attempts have earned."""

    def __init__(self) -> None:
        self._left = RETRY_RESERVE

    def earn(self) -> None:
        """A first attempt was made."""
        self._left = min(RETRY_RESERVE, self._left + RETRY_EARNED)

    def spend(self) -> bool:
        """Take one retry; False where none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Guard:
    """One deployment's breaker, retry budget and slots."""

    def __init__(self, deployment: Deployment, settings: Settings) -> None:
        self.deployment = deployment
        self.breaker = Breaker(settings.breaker_failures, settings.breaker_seconds)
        self._most_attempts = settings.max_attempts
        self._retries = RetryBudget()
        self._slots = asyncio.Semaphore(deployment.settings.max_concurrency)

    @asynccontextmanager
    async def admitted(self, context: CallContext, *, first: bool) -> AsyncIterator[Callable[[], None]]:
        """Hold a slot, and tell the breaker how it ended; what is given is to be called at each sign of life.

        Raises:
            Failure: of kind busy; the breaker is open, or no slot became free in time.

        """
        ticket = self.breaker.admit()
        try:
            async with self._slot(context):
                if first:
                    self._retries.earn()
                yield partial(self.breaker.answering, ticket)
        except Failure as failure:
            self.breaker.failed(ticket, failure)
            raise
        except BaseException:
            self.breaker.abandoned(ticket)
            raise
        self.breaker.succeeded(ticket)

    @asynccontextmanager
    async def _slot(self, context: CallContext) -> AsyncIterator[None]:
        wait = min(self.deployment.settings.timeout_seconds, max(0.0, context.seconds_left))
        try:
            async with asyncio.timeout(wait if self._slots.locked() else None):
                await self._slots.acquire()
        except TimeoutError:
            most = f"{self.deployment.settings.max_concurrency} calls at a time"
            raise Failure("busy", f"{most} are under way ({self.deployment.variable}_MAX_CONCURRENCY)") from None
        try:
            yield
        finally:
            self._slots.release()

    def pause(self, failure: Failure, number: int, context: CallContext) -> float | None:
        """Seconds before attempt `number + 1`: what the provider asks for, else exponential with full jitter.

        None where another attempt makes no sense: it is no such failure, there were enough, the wait would outlast
        the deadline, or the retry budget is used up.
        """
        if failure.consequence.retry == "no" or number >= self._most_attempts:
            return None
        seconds = failure.retry_after
        if seconds is None:
            seconds = random.uniform(0, FIRST_PAUSE_SECONDS * 2**number)  # noqa: S311  # jitter, not a secret
        if seconds >= context.seconds_left or not self._retries.spend():
            return None
        return seconds
