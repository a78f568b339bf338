"""A pace for providers that take so many requests a minute: questions and judges' calls begin evenly spaced.

Knows nothing of what begins.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.errors import AppError


class Pace:
    """So many beginnings a minute, in the order in which they were asked for; None: each at once.

    Belongs to one event loop.
    """

    def __init__(
        self,
        per_minute: float | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0  # seconds
        self._now, self._sleep = now, sleep
        self._next = now()
        self._turns = asyncio.Lock()
        self._ended = False

    async def turn(self) -> None:
        """Wait until it is one's turn to begin.

        Raises:
            AppError: nothing begins any more.

        """
        async with self._turns:
            if self._gap and not self._ended:
                await self._sleep(max(0.0, self._next - self._now()))
                self._next = self._now() + self._gap
            if self._ended:
                raise AppError("not asked, for the run ends early")

    def end(self) -> None:
        """Let nothing begin any more, and nobody wait for it."""
        self._ended = True
