"""What an API key, and all keys of a tenant, may ask for: requests and tokens a minute, and streams at a time.

Every process on the database counts together. Where nobody can count, nobody is served. Money is the gateway's. Knows
nothing of what the routes do, but that the models they call are noted on the request's context.
"""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import response_to
from app.api.overload import json_of
from app.api.security import Caller
from app.api.streaming import READING_SECONDS
from app.db.engine import Database
from app.db.limits import Level, Pour, lease, pour, release
from app.errors import DatabaseUnavailable, RateLimited

if TYPE_CHECKING:
    from app.api.deps import Work

MARGIN_SECONDS = 60  # a lease outlives the longest stream by as much
SECOND = 1_000  # milliseconds
KINDS = ("requests", "tokens")
RATE_HEADERS = tuple(f"x-ratelimit-{what}-{kind}" for kind in KINDS for what in ("limit", "remaining", "reset"))
log = structlog.get_logger(__name__)


class RateLimits:
    """Refuses what is over a limit, and tells each caller with a key how much is left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request, pass it on, then count its tokens: a bucket in debt makes the next request wait.

        Raises:
            DatabaseUnavailable: nobody can count.

        """
        levels: list[Level] = []

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_headers(levels))
            elif not message.get("more_body"):
                await _release(scope)  # before the end is told: the client's next stream finds room
            await send(message)

        if not _caller(scope).key_id:
            await self._app(scope, receive, send)
            return
        try:
            await _count(scope, levels)
        except RateLimited as error:
            await response_to(error)(scope, receive, told)
            return
        try:
            await self._app(scope, receive, told)
        finally:
            await _release(scope)
            await _charge_tokens(scope)


async def one_stream(request: Request) -> None:
    """For every route: a request that asks for a stream, by a true `stream` in its JSON, gets a lease or is refused.

    As a dependency it has the body that was read for the route, and comes before the work. RateLimits gives it back.

    Raises:
        RateLimited: the key or the tenant has as many streams as it may.
        DatabaseUnavailable: nobody can count.

    """
    limits = _limits(request.scope, "streams")
    if not limits or not await _asks_for_a_stream(request):
        return
    database, lease_id = _database(request.scope), str(uuid.uuid4())
    longest = request.app.state.services.settings.deadline_seconds + READING_SECONDS + MARGIN_SECONDS
    request.state.lease = lease_id
    async with database.transaction() as connection:
        if not await lease(connection, database.tenant, lease_id, limits, seconds=longest):
            raise RateLimited("too many streams are open: KEY_STREAMS and TENANT_STREAMS limit them", retry_after=1)


async def _release(scope: Scope) -> None:
    """Give the lease back, if there is one, and only once."""
    if not (lease_id := scope["state"].pop("lease", "")):
        return
    try:
        async with _database(scope).transaction() as connection:
            await release(connection, lease_id, _limits(scope, "streams"))
    except DatabaseUnavailable:
        log.warning("a stream counts until its lease ends: the database is away", lease=lease_id)


async def _asks_for_a_stream(request: Request) -> bool:
    """Whatever any route could take for true."""
    body = await json_of(request)
    return isinstance(body, dict) and bool(body.get("stream"))


def _caller(scope: Scope) -> Caller:
    """Who asks; outside of /v1 nobody in particular."""
    caller: Caller = scope.get("state", {}).get("caller") or Caller()
    return caller


def _database(scope: Scope) -> Database:
    database: Database = scope["app"].state.services.database
    return database.for_tenant(_caller(scope).tenant)


def _limits(scope: Scope, name: str) -> dict[str, int]:
    """What the settings KEY_... and TENANT_... of this name allow the caller; nothing limits who has no key."""
    caller = _caller(scope)
    if not caller.key_id:
        return {}
    whose = {"key": caller.key_id, "tenant": caller.tenant}
    limits = {kind: getattr(scope["app"].state.services.settings, f"{kind}_{name}") for kind in whose}
    return {f"{kind}:{whose[kind]}": limit for kind, limit in limits.items() if limit}


def _pours(scope: Scope, kind: str, amount: int) -> list[Pour]:
    limits = _limits(scope, f"{kind}_per_minute")
    return [Pour(whose, kind, limit, amount) for whose, limit in limits.items()]


async def _count(scope: Scope, levels: list[Level]) -> None:
    """One request more, unless a bucket would run over; `levels` tells how full each is in either case."""
    pours = [*_pours(scope, "requests", 1), *_pours(scope, "tokens", 0)]
    if not pours:
        return
    database = _database(scope)
    async with database.transaction() as connection:
        levels += await pour(connection, database.tenant, pours)
        fullest = max(levels, key=lambda level: level.overdue)
        if fullest.overdue > 0:
            whose = "tenant" if fullest.scope.startswith("tenant:") else "API key"
            raise RateLimited(
                f"too many {fullest.kind}: this {whose} may have {fullest.per_minute:,} a minute",
                retry_after=fullest.overdue,
            )


async def _charge_tokens(scope: Scope) -> None:
    """What all calls for this request used, failed ones too; where that cannot be written the client has its answer."""
    work: Work | None = scope["state"].get("work")
    attempts = [attempt for inference in work.context.inferences for attempt in inference.attempts] if work else []
    used = sum(attempt.usage.input_tokens + attempt.usage.output_tokens for attempt in attempts)
    pours = _pours(scope, "tokens", used)
    if not (used and pours):
        return
    database = _database(scope)
    try:
        async with database.transaction() as connection:
            await pour(connection, database.tenant, pours)
    except DatabaseUnavailable:
        log.error("tokens were not counted: the database is away", tokens=used)  # noqa: TRY400  # no fault of ours


def _headers(levels: Sequence[Level]) -> dict[str, str]:
    """OpenAI's names; of a key's limit and its tenant's the one of which less is left."""
    headers = {}
    for kind in KINDS:
        if of_kind := [level for level in levels if level.kind == kind]:
            least = min(of_kind, key=lambda level: level.remaining)
            headers[f"x-ratelimit-limit-{kind}"] = str(least.per_minute)
            headers[f"x-ratelimit-remaining-{kind}"] = str(least.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = _duration(least.seconds)
    return headers


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 8.64s, 6m0s."""
    milliseconds = max(0, round(seconds * SECOND))
    if milliseconds < SECOND:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60 * SECOND)
    return f"{f'{minutes}m' if minutes else ''}{rest / SECOND:g}s"
