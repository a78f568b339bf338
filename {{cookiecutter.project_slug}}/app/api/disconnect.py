"""A client that leaves ends the work for it at once: what was begun is cancelled, so that nobody pays for the rest.

Cancelling unwinds the gateway, which closes the connection to the model. Knows nothing of what the work is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from functools import partial

from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class StopWhenClientLeaves:
    """Runs the application beside a watch over the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._working: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or cancel and await the answering: then there is nobody to answer, and nothing to report."""
        if scope["type"] == "http":
            await self._answer(scope, _Client(receive, send))
        else:
            await self._app(scope, partial(self._last, receive), send)

    async def _answer(self, scope: Scope, client: "_Client") -> None:
        async def work() -> None:
            await self._app(scope, client.receive, client.send)

        working, leaving = asyncio.create_task(work()), asyncio.create_task(client.leaving())
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.wait({working, leaving})
        if not working.cancelled():
            working.result()

    async def _last(self, receive: Receive) -> Message:
        """A server that stops cancels what is late, and does not wait until that has tidied up. The parts must."""
        message = await receive()
        if message["type"] == "lifespan.shutdown" and self._working:
            await asyncio.wait(self._working)
        return message


class _Client:
    """The two ways of one connection, as the application uses them, and the client's end of it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._asked = asyncio.Event()
        self._answered = False

    async def receive(self) -> Message:
        """The request; after its end nothing, since who is told of a disconnect by cancelling need not ask."""
        if self._asked.is_set():
            await _for_ever()
        message = await self._receive()
        if not message.get("more_body"):
            self._asked.set()
        return message

    async def send(self, message: Message) -> None:
        """The response."""
        self._answered = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)

    async def leaving(self) -> None:
        """Return when the client has gone; never where it has its whole answer, whatever is still to be done."""
        await self._asked.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._answered:
            await _for_ever()


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


class EventStream(StreamingResponse):
    """Server-sent events: `first`, which has been awaited already, and then the `rest`, which is closed in the end.

    A client that has not read them after so many `seconds` is left, so that it does not keep a model's place.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], *, seconds: float) -> None:
        super().__init__(_joined(first, rest), headers={"Cache-Control": "no-store"})
        self._rest = rest
        self._seconds = seconds

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Send them. StopWhenClientLeaves watches; starlette's own watch would cancel the closing too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds), aclosing(self._rest):
                await self.stream_response(send)


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in rest:
        yield event
