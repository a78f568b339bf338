"""The exact cache: a call that was made before, word for word, is answered without the model, and made once at a time.

Memory comes first, so that a hit costs no query; behind it stands a table that all processes share. Trouble with that
table is a warning and a miss. Knows nothing of how a model is called.
"""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

import structlog

from app.db.cache import read_completion, write_completion
from app.db.engine import Database
from app.gateway.context import CallContext
from app.gateway.deployments import Deployment
from app.types import Completion, Message, Usage

CACHE_VERSION = 1
"""Raise it to forget every entry."""
DATABASE_SECONDS = 0.5
"""Nobody waits longer for the table: the model may be quicker by then."""
# A release that changes what a completion holds does not find what an older one has stored.
SHAPE = [field.name for kind in (Completion, Usage) for field in fields(kind)]

Mode = Literal["off", "on", "read_only", "write_only"]
Result = TypeVar("Result")
Landing = asyncio.Future[Completion | None]
log = structlog.get_logger(__name__)


@dataclass
class Flight:
    """One call on its way: `hit` is what is known already; without one, `keep` what the model says."""

    hit: Completion | None = None
    kept: Completion | None = None

    def keep(self, completion: Completion) -> None:
        """Store it at the end of the flight if it is a whole answer in words; anything else is not stored."""
        odd = completion.finish_reason != "stop" or completion.refusal or completion.tool_calls
        if completion.text.strip() and not odd:
            self.kept = completion


class Cache:
    """Completions by everything that led to them, up to `max_age_seconds` old.

    `read_only` stores nothing, `write_only` finds nothing: it refreshes. Belongs to one event loop.
    """

    def __init__(
        self,
        database: Database,
        *,
        mode: Mode,
        max_age_seconds: float,
        most_entries: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._mode = mode
        self._max_age = max_age_seconds
        self._most_entries = most_entries
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, Completion]] = OrderedDict()  # with the time they expire at
        self._landings: dict[str, Landing] = {}
        self._queries: set[asyncio.Future[Any]] = set()

    def key(
        self,
        context: CallContext,
        deployments: Sequence[Deployment],
        messages: list[Message],
        parameters: dict[str, Any],
    ) -> str | None:
        """What identifies the call; None where it is not to be cached.

        Sampled replies are meant to differ, so above temperature 0 the context has to ask for the cache.
        """
        if self._mode == "off" or not (parameters.get("temperature") == 0 or context.cache_sampled):
            return None
        group = [[d.model, d.settings.api_base, d.parameters] for d in deployments]
        return digest([CACHE_VERSION, SHAPE, context.tenant, group, parameters, messages])

    @asynccontextmanager
    async def flight(self, key: str | None, context: CallContext) -> AsyncIterator[Flight]:
        """Look the call up. The first one of several equal calls makes it, and the others wait for what it keeps.

        Where the first one keeps nothing, all that waited go on at once, each on its own. What is kept is written
        before the flight ends: two milliseconds after a call of seconds, and nothing is left to do at shutdown.

        """
        if key is None:
            yield Flight()
        elif hit := self._recall(key) or await self._follow(key, context):
            yield Flight(hit)
        else:
            async with self._lead(key, context.tenant) as flight:
                yield flight

    @asynccontextmanager
    async def _lead(self, key: str, tenant: str) -> AsyncIterator[Flight]:
        """Have equal calls that come later wait, until something is known or this one ends, however it ends."""
        flight = Flight()
        landing: Landing = asyncio.get_running_loop().create_future()
        if self._mode == "on":
            self._landings.setdefault(key, landing)
        try:
            if found := await self._read(key, tenant):
                flight.hit = found
                self._land(key, landing, found)
            yield flight
        finally:
            kept = None if self._mode == "read_only" else flight.kept
            self._land(key, landing, self._remember(key, kept) if kept else None)
            if kept:
                await self._write(key, tenant, kept)

    async def _follow(self, key: str, context: CallContext) -> Completion | None:
        """What the call under way keeps; None where there is none, it keeps nothing, or it takes too long.

        Half of the time that is left is for waiting: whoever reads an answer slowly holds up nobody else for good.
        """
        if (landing := self._landings.get(key)) is None:
            return None
        done, _ = await asyncio.wait([landing], timeout=max(0.0, context.seconds_left) / 2)
        return landing.result() if done else None

    def _land(self, key: str, landing: Landing, hit: Completion | None) -> None:
        if self._landings.get(key) is landing:
            del self._landings[key]
        if not landing.done():
            landing.set_result(hit)

    def _recall(self, key: str) -> Completion | None:
        """The entry in memory, which is now the one most recently used."""
        expires, hit = self._entries.get(key, (0.0, None))
        if hit is None or expires <= self._clock():
            return None
        self._entries.move_to_end(key)
        return hit

    def _remember(self, key: str, completion: Completion, *, age: float = 0) -> Completion | None:
        """Put it into memory; return it as those get it who ask again."""
        if self._mode == "write_only":
            return None
        hit = replace(completion, cached="exact", cost_nanousd=0, saved_nanousd=completion.cost_nanousd)
        self._entries[key] = (self._clock() + self._max_age - age, hit)
        self._entries.move_to_end(key)
        if len(self._entries) > self._most_entries:
            self._entries.popitem(last=False)
        return hit

    async def _read(self, key: str, tenant: str) -> Completion | None:
        if self._mode == "write_only":
            return None
        try:
            row = await self._in_time(read_completion, tenant, key, self._max_age)
            return self._remember(key, _completion(row.completion), age=row.age_seconds) if row else None
        except Exception as error:  # noqa: BLE001  # whatever the trouble is, the model can still be asked
            log.warning("the cache cannot be read", error=repr(error))
            return None

    async def _write(self, key: str, tenant: str, completion: Completion) -> None:
        raw = json.dumps(asdict(completion)).encode()
        try:
            await self._in_time(write_completion, tenant, key, raw, self._max_age)
        except Exception as error:  # noqa: BLE001  # the caller has an answer, and is to get it
            log.warning("the cache cannot be written", error=repr(error))

    async def _in_time(self, query: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:  # noqa: ANN401  # passed on
        """Run a query, or leave it alone: to cancel it at a database that hangs takes longer than the query may."""

        async def run() -> Result:
            async with self._database.transaction() as connection:
                return await query(connection, *arguments)

        task = asyncio.ensure_future(run())
        self._queries.add(task)
        task.add_done_callback(self._queries.discard)
        done, _ = await asyncio.wait([task], timeout=DATABASE_SECONDS)
        if not done:
            task.cancel()
            raise TimeoutError("the database did not answer in time")
        return task.result()


def digest(value: object) -> str:
    """The sha256 of a JSON value in one fixed form: sorted names, no spaces, ASCII."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _completion(raw: bytes) -> Completion:
    stored = json.loads(raw)
    return Completion(**stored | {"usage": Usage(**stored["usage"]), "tool_calls": ()})
