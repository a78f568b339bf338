"""A client that leaves ends the work for it at once: what was begun is cancelled, so that nobody pays for the rest.

Cancelling unwinds the gateway, which closes the connection to the model. What has an Idempotency-Key is finished: who
sent it will ask again. Knows nothing of what the work is.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.idempotency import has_key


class StopWhenClientLeaves:
    """Runs the application beside a watch over the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or cancel and await the answering: then there is nobody to answer, and nothing to report."""
        if scope["type"] != "http" or has_key(scope):
            await self._app(scope, receive, send)
        else:
            await self._answer(scope, _Client(receive, send))

    async def _answer(self, scope: Scope, client: "_Client") -> None:
        async def work() -> None:
            await self._app(scope, client.receive, client.send)

        working, leaving = asyncio.create_task(work()), asyncio.create_task(client.leaving())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.wait({working, leaving})
        if not working.cancelled():
            working.result()


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
