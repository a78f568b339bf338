"""`Idempotency-Key`: a request that is sent again is not done again, but answered with what was answered first.

Who names a key wants the work done once whether or not it stays to hear of it: StopWhenClientLeaves lets such work
finish, and the answer waits for the next try. Not kept is what another try may better: no rights, nothing there yet,
a limit, 5xx, and a stream that broke. Knows nothing of what the work is.
"""

import asyncio
import hashlib
import json
from datetime import timedelta

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import public
from app.api.security import Caller
from app.db import idempotency
from app.db.engine import Database
from app.db.idempotency import Claim, Kept, Place
from app.errors import AppError, InvalidInput, TooLargeToKeep
from app.settings import Settings

log = structlog.get_logger(__name__)
LONGEST_KEY = 255
MOST_BYTES = 1_000_000
DEAD_AFTER_SECONDS = 60  # beyond DEADLINE_SECONDS, so that nobody is taken for dead who may still be answering
KEPT_HEADERS = ("content-type", "location")
LASTING = {*range(200, 300), 400, 413, 415, 422}  # what was done, and what is wrong with the request itself


def has_key(scope: Scope) -> bool:
    """Whether this request is to be done once."""
    is_post = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith("/v1/")
    return is_post and "idempotency-key" in Headers(scope=scope)


class Idempotency:
    """Does what has a key once."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._dead_after = timedelta(seconds=settings.deadline_seconds + DEAD_AFTER_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do it, or answer as it was answered.

        Raises:
            InvalidInput: the key is none.
            KeyReused: it was used for another request.
            StillRunning: the first request is under way.

        """
        if not has_key(scope):
            await self._app(scope, receive, send)
            return
        caller, database = scope["state"]["caller"], scope["app"].state.services.database
        place = Place(caller.tenant, caller.owner, _key(scope))
        database = database.for_tenant(caller.tenant)
        if (sent := await _body(receive)) is None:
            return
        async with database.transaction() as connection:
            fingerprint = _fingerprint(scope, caller, sent)
            claimed = await idempotency.claim(connection, place, fingerprint, dead_after=self._dead_after)
        if isinstance(claimed, Kept):
            headers = claimed.headers | {"Idempotent-Replayed": "true"}
            await Response(claimed.body, claimed.status, headers)(scope, receive, send)
        else:
            await self._do(claimed, database, scope, _again(sent, receive), send)

    async def _do(self, claimed: Claim, database: Database, scope: Scope, receive: Receive, send: Send) -> None:
        """Have it done, and keep the answer before the client has all of it."""
        answer = _Answer()

        async def told(message: Message) -> None:
            answer.hear(message)
            if answer.is_whole:
                kept = None if scope["state"].get("broken") else answer.kept()
                await asyncio.shield(asyncio.ensure_future(_settle(database, claimed, kept)))
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            if not answer.is_whole:
                await asyncio.shield(asyncio.ensure_future(_settle(database, claimed, None)))


class _Answer:
    """A response as it passes by."""

    def __init__(self) -> None:
        self.is_whole = False
        self._start: Message = {}
        self._body = bytearray()
        self._is_small = True

    def hear(self, message: Message) -> None:
        """Take the next part."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body = message.get("body", b"")
        self._is_small = self._is_small and len(self._body) + len(body) <= MOST_BYTES
        if self._is_small:
            self._body += body
        self.is_whole = not message.get("more_body")

    def kept(self) -> Kept | None:
        """What another try is answered with; nothing where another try may go better."""
        status = self._start["status"]
        if status not in LASTING:
            return None
        if not self._is_small:
            error = TooLargeToKeep()
            return Kept(error.status, {"content-type": "application/json"}, json.dumps(public(error)).encode())
        headers = Headers(raw=self._start["headers"])
        return Kept(status, {name: headers[name] for name in KEPT_HEADERS if name in headers}, bytes(self._body))


async def _settle(database: Database, claimed: Claim, answer: Kept | None) -> None:
    """Write down how it ended. The client gets its answer even where that fails."""
    try:
        async with database.transaction() as connection:
            await (
                idempotency.keep(connection, claimed, answer) if answer else idempotency.give_up(connection, claimed)
            )
    except AppError as error:
        log.error("an idempotency key stays taken for a while", detail=error.message)  # noqa: TRY400  # not a fault of ours


def _key(scope: Scope) -> str:
    key = Headers(scope=scope)["idempotency-key"]
    if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidInput(f"an Idempotency-Key has 1 to {LONGEST_KEY} printable ASCII characters")
    return key


async def _body(receive: Receive) -> bytes | None:
    """The whole body; nothing where the client left before its end."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
    return None


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then whatever comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _fingerprint(scope: Scope, caller: Caller, body: bytes) -> str:
    """What makes two requests the same. A form's boundary is made anew by each try, and says nothing.

    The scopes belong to it: what is kept was done for a key that may do it, and another of its name may not.
    """
    kind, _, boundary = Headers(scope=scope).get("content-type", "").partition("boundary=")
    said = body.replace(boundary.strip('"').encode(), b"") if boundary else body
    target = [scope["method"], scope["path"], scope["query_string"].decode("latin-1"), kind, *sorted(caller.scopes)]
    return hashlib.sha256("\n".join(target).encode() + b"\n" + said).hexdigest()
