"""How much is taken on: so many requests at a time, a short queue before them, and a time and a size for each.

Whoever is turned away is told when to come back. Knows nothing of what the requests want, but that probes do not wait.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.stopping import Stopping
from app.errors import Overloaded, ShuttingDown
from app.settings import Settings

PROBES = frozenset({"/livez", "/readyz"})
MARGIN_SECONDS = 5.0  # beyond DEADLINE_SECONDS, so that what the parts say of their own deadlines comes first
UPLOAD_SECONDS = 300.0
FORM_BYTES = 100_000  # around the file in a form
JSON_BYTES = 1_000_000  # around an attachment in a message
# While JSON is read and checked nobody else is served.
MOST_OPENED = 50_000  # braces and brackets, counted before it is read
MOST_VALUES = 50_000
JSON = re.compile(r"application/(?:[^/]*\+)?json")


class Capacity:
    """Lets MAX_REQUESTS in, has MAX_WAITING wait for WAITING_SECONDS, and turns the others away."""

    def __init__(self, app: ASGIApp, *, settings: Settings, stopping: Stopping) -> None:
        self._app = app
        self._stopping = stopping
        self._places = asyncio.Semaphore(settings.max_requests)
        self._most_waiting, self._seconds = settings.max_waiting, settings.waiting_seconds
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on in its turn.

        Raises:
            Overloaded: there is no room.
            ShuttingDown: nothing new is taken.

        """
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        async with self._place():
            await self._app(scope, receive, send)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._stopping.begun:
            raise ShuttingDown
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    async def _wait(self) -> None:
        if self._waiting >= self._most_waiting:
            raise Overloaded
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded from None
        finally:
            self._waiting -= 1


class TimeLimit:
    """Ends what has not begun to answer in time. A stream has a limit of its own, and so has a form with a file."""

    def __init__(self, app: ASGIApp, *, settings: Settings, stopping: Stopping) -> None:
        self._app = app
        self._stopping = stopping
        self._seconds = settings.deadline_seconds + MARGIN_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on.

        Raises:
            DeadlineExceeded: it took too long.
            ShuttingDown: the server stops.

        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        async with self._stopping.limited(max(self._seconds, UPLOAD_SECONDS * _is_form(scope))) as limit:

            async def answering(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._stopping.release(limit)
                await send(message)

            await self._app(scope, receive, answering)


class BodyLimit:
    """Refuses a larger body in the shape of every error; FastAPI's own limit answers in plain text."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._form_bytes = settings.max_document_bytes + FORM_BYTES
        self._json_bytes = settings.max_attachment_bytes * 4 // 3 + JSON_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count what arrives, unless the announced length is too much already."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._form_bytes if _is_form(scope) else self._json_bytes
        length = Headers(scope=scope).get("content-length", "")
        announced, read, opened = int(length) if length.isdecimal() else 0, 0, 0
        # FastAPI makes a 400 of any other error that reading a body ends with.
        too_large = HTTPException(413, f"the request has more than {most:,} bytes")

        async def limited() -> Message:
            nonlocal read, opened
            if announced > most:
                raise too_large
            message = await receive()
            body = message.get("body", b"")
            read += len(body)
            opened += 0 if _is_form(scope) else body.count(b"{") + body.count(b"[")
            if read > most:
                raise too_large
            if opened > MOST_OPENED:
                raise HTTPException(413, f"the request has more than {MOST_OPENED:,} braces and brackets")
            return message

        await self._app(scope, limited, send)


async def few_values(request: Request) -> None:
    """For every route: JSON has so few values that finding fault with each of them stops nobody else for long.

    As a dependency it comes before the body is checked.

    Raises:
        HTTPException: 413.

    """
    waiting, left = [await json_of(request)], MOST_VALUES
    while waiting:
        value = waiting.pop()
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left -= len(inside)
        if left < 0:
            raise HTTPException(413, f"the request has more than {MOST_VALUES:,} values")
        waiting.extend(one for one in inside if isinstance(one, dict | list))


async def json_of(request: Request) -> object:
    """The body, if it is sent as JSON and is JSON; None where it is not, and then the route says what is wrong."""
    if not JSON.fullmatch(_kind(request.scope)):
        return None
    try:
        return await request.json()
    except (ValueError, RecursionError):
        return None


def _kind(scope: Scope) -> str:
    """The media type of the body, without its parameters."""
    return Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()


def _is_form(scope: Scope) -> bool:
    return _kind(scope) == "multipart/form-data"
