"""Server-sent events with an end that is always told: whole, an error, or that the server stops.

While nothing comes, a comment goes out now and then, so that nobody between takes the connection for dead. An error
before the first byte is an ordinary error response; later it is the last event. Knows nothing of what is sent.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from app.api.errors import ErrorBody, public, report
from app.api.stopping import stopping_of

PING_SECONDS = 10.0
READING_SECONDS = 30.0  # a client may take so much longer to read than the model to write
LAST_EVENT_SECONDS = 1.0  # to get the last event onto the wire of a client that may not read

Ending = Callable[[ErrorBody], bytes]
"""Makes the last event of a stream that did not end well."""


class EventStream(StreamingResponse):
    """`events` as they come, closed in the end. They take so many `seconds`.

    A client that has not read them READING_SECONDS later is left, so that it does not keep a model's place.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], *, ending: Ending, seconds: float) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events
        self._ending = ending
        self._seconds = seconds + READING_SECONDS

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Send them. StopWhenClientLeaves watches; starlette's own watch would cancel the closing too."""
        request = Request(scope)
        stopping = await stopping_of(request)
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        wire = _Wire(send, start)
        try:
            async with aclosing(self._events), stopping.limited(self._seconds), wire.kept_alive():
                async for event in self._events:
                    await wire.write(event)
        except Exception as error:
            if not wire.begun:
                raise
            request.state.broken = True
            report(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_EVENT_SECONDS):
                    await wire.write(self._ending(public(error)))
                    await wire.end()
        else:
            await wire.end()


class _Wire:
    """The way to the client; its response begins with the first byte."""

    def __init__(self, send: Send, start: Message) -> None:
        self._send = send
        self._start = start
        self._turn = asyncio.Lock()
        self._writes = 0

    @property
    def begun(self) -> bool:
        """Whether the client has the beginning of a response."""
        return self._writes > 0

    async def write(self, data: bytes) -> None:
        """Send it at once."""
        async with self._turn:
            if not self.begun:
                self._writes = 1
                await self._send(self._start)
            self._writes += 1
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Nothing comes any more."""
        if not self.begun:
            await self._send(self._start)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Comments, as long as nothing else is written."""
        pinging = asyncio.create_task(self._ping())
        try:
            yield
        finally:
            pinging.cancel()
            await asyncio.wait([pinging])

    async def _ping(self) -> None:
        while True:
            before = self._writes
            await asyncio.sleep(PING_SECONDS)
            if self._writes == before:
                await self.write(KEEPALIVE_COMMENT)
