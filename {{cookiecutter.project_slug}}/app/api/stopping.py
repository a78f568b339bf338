"""How the server stops: no new work, time for what is open, then an end that each client is told of.

Knows nothing of signals, and nothing of what the work is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request

from app.errors import DeadlineExceeded, ShuttingDown


class Stopping:
    """`begun`: nothing new is taken. `cut`: what is open ends now."""

    def __init__(self) -> None:
        self.begun = False
        self.cut = False
        self._limits: set[asyncio.Timeout] = set()
        self._open = 0
        self._idle = asyncio.Event()
        self._at_begin: list[Callable[[], object]] = []

    def at_begin(self, do: Callable[[], object]) -> None:
        """Have this done at once when it begins."""
        self._at_begin.append(do)

    def begin(self) -> None:
        """Take nothing new from now on."""
        self.begun = True
        for do in self._at_begin:
            do()

    def cut_short(self) -> None:
        """End all that is open."""
        self.cut = True
        for limit in self._limits:
            _end(limit)

    @asynccontextmanager
    async def limited(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        """So many seconds for what is done in here, or less where the server stops.

        Raises:
            ShuttingDown: it stops.
            DeadlineExceeded: the time is over.

        """
        self._open += 1
        try:
            async with asyncio.timeout(seconds) as limit:
                self._limits.add(limit)
                if self.cut:
                    _end(limit)
                try:
                    yield limit
                finally:
                    self.release(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise (ShuttingDown() if self.cut else DeadlineExceeded(f"not done in {seconds:g} seconds")) from None
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def idle(self) -> None:
        """Return when nothing is open: who cancels does not wait until that has tidied up."""
        while self._open:
            self._idle.clear()
            await self._idle.wait()

    def release(self, limit: asyncio.Timeout) -> None:
        """Let what it limits take the time it takes."""
        self._limits.discard(limit)
        if not limit.expired():
            limit.reschedule(None)


def _end(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


async def stopping_of(request: Request) -> Stopping:
    """The one of the application that serves this request."""
    stopping: Stopping = request.app.state.stopping
    return stopping
