"""The ledger: budgets are reserved before a call and settled after it, and every attempt is written down.

One task commits for everybody: what came while it was busy goes together in the next batch. Records go first, so a
budget is always asked after everything that is known has been settled. Reserving waits for its batch; recording
never does. Knows nothing of models but their names, and of the database only what to call.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Self

import structlog

from app.db.budgets import Reservation, reserve
from app.db.engine import Database
from app.db.ledger import write
from app.errors import BudgetExceeded, DatabaseUnavailable
from app.gateway.context import CallContext
from app.gateway.deployments import Deployment, price_unknown
from app.gateway.prices import NANO
from app.types import Inference

LINGER_SECONDS = 0.25  # how long records wait for company
REST_SECONDS = 0.02  # after a batch, so that under load more calls share the next one, and one call alone never waits
LONGEST_PAUSE_SECONDS = 30  # between two tries while the database is away
BATCH_ROWS = 500
BATCH_SECONDS = 10
EXIT_SECONDS = 15
MOST_WAITING = 100_000  # inferences: an hour at 28 calls a second
MARGIN_SECONDS = 60  # a reservation outlives its call's deadline by as much

Waiter = tuple[Reservation | None, asyncio.Future[str]]
log = structlog.get_logger()


class Ledger:
    """Reserves and records while it is entered; leaving it writes what is left.

    A limit is in 1e-9 US dollars a day (UTC) and holds for each tenant, or each API key; None sets no limit. The
    accounts are kept either way, so that a limit set at noon knows the morning.
    """

    def __init__(
        self, database: Database, *, tenant_budget_nanousd: int | None, key_budget_nanousd: int | None
    ) -> None:
        self._database = database
        self._tenant_budget = tenant_budget_nanousd
        self._key_budget = key_budget_nanousd
        self._records: deque[Inference] = deque()
        self._waiters: list[Waiter] = []
        self._abandoned: list[str] = []
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._pause = LINGER_SECONDS
        self._closed = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            with suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(EXIT_SECONDS):
                    await self.flush()
                    while self._records or self._waiters:  # came meanwhile, from streams that are being closed
                        await self.flush()
        finally:
            self._closed = True
            self._task.cancel()
            await asyncio.wait([self._task])
            for inference in self._records:
                _lose(inference, "the database was away until the end")

    async def reserve(self, context: CallContext, amount_nanousd: int | None, deployment: Deployment) -> str | None:
        """Set aside the most that a call can cost; None where no budget applies or nothing is to be paid.

        The name that comes back belongs into the attempt's `reservation`. It is given back when that attempt is
        recorded, and by itself a minute after the context's deadline.

        Raises:
            BudgetExceeded: the day's budget of the tenant or of the key has no room for it.
            ConfigurationError: a budget applies, and the amount is None: unknown.
            DatabaseUnavailable: nobody can tell, so the call must not be made.

        """
        limits = self._limits(context)
        if not limits or amount_nanousd == 0:
            return None
        if amount_nanousd is None:
            raise price_unknown(deployment)
        seconds = max(context.seconds_left, 0) + MARGIN_SECONDS
        reservation = Reservation(str(uuid.uuid4()), context.tenant, limits, amount_nanousd, seconds)
        try:
            refused = await self._next_batch(reservation)
        except asyncio.CancelledError:
            self.release(reservation.id)  # the batch may be under way, or done
            raise
        if refused:
            raise _exceeded(refused, limits[refused])
        return reservation.id

    def record(self, inference: Inference) -> None:
        """Write this down soon, and settle its attempts; never waits and never fails.

        While the database is away the newest 100,000 wait for it: those that matter for today's budgets. What there
        is no room for goes to the log, whole.
        """
        if self._closed:
            _lose(inference, "the ledger was closed")
            return
        self._records.append(inference)
        self._work.set()
        if len(self._records) == BATCH_ROWS:
            self._urgent.set()
        elif len(self._records) > MOST_WAITING:
            _lose(self._records.popleft(), "too many wait for the database")

    def release(self, reservation: str) -> None:
        """Give back, with the next batch, what was set aside for nothing."""
        self._abandoned.append(reservation)
        self._work.set()

    async def flush(self) -> None:
        """Wait until everything recorded so far is written.

        Raises:
            DatabaseUnavailable: it could not be written now; it is kept, and tried again.

        """
        await self._next_batch()

    def _limits(self, context: CallContext) -> dict[str, int]:
        """Limit by scope, of the budgets that apply."""
        limits: dict[str, int] = {}
        if self._tenant_budget is not None:
            limits[f"tenant:{context.tenant}"] = self._tenant_budget
        if self._key_budget is not None and context.api_key_id:
            limits[f"key:{context.api_key_id}"] = self._key_budget
        return limits

    async def _next_batch(self, reservation: Reservation | None = None) -> str:
        """Start a batch and wait for its end; the scope that refuses the reservation, or nothing."""
        waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiters.append((reservation, waiter))
        self._work.set()
        self._urgent.set()
        return await waiter

    async def _run(self) -> None:
        """One batch after the other: at once, or nearly, if somebody waits for it, else after a pause."""
        while True:
            await self._work.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._urgent.wait()
            self._work.clear()
            self._urgent.clear()
            await self._batch()
            await asyncio.sleep(REST_SECONDS)

    async def _batch(self) -> None:
        waiters, self._waiters = self._waiters, []
        try:
            await self._write()
            refusals = await self._reserve([r for r, waiter in waiters if r and not waiter.done()])
        except Exception as error:  # noqa: BLE001  # it belongs to those who wait; the task goes on
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._work.set()
            log.warning("ledger_batch_failed", reason=str(error), waiting=len(self._records))
            _answer(waiters, error)
        else:
            self._pause = LINGER_SECONDS
            _answer(waiters, refusals)

    async def _write(self) -> None:
        """Write all records; those of a batch that fails keep their place. Abandoned reservations expire anyway."""
        abandoned, self._abandoned = self._abandoned, []
        for _ in range(0, len(self._records) + len(abandoned), BATCH_ROWS):
            rows = [self._records.popleft() for _ in range(min(BATCH_ROWS, len(self._records)))]
            try:
                await self._write_rows(rows, abandoned)
            except BaseException:
                self._records.extendleft(reversed(rows))
                raise

    async def _write_rows(self, rows: Sequence[Inference], released: Sequence[str]) -> None:
        """Write the rows together, or, where the database refuses one of them, without that one."""
        try:
            async with _in_time(), self._database.across_tenants() as connection:
                await write(connection, rows, released)
        except (TypeError, ValueError) as error:
            if len(rows) < 2:  # noqa: PLR2004  # nothing left to divide
                for row in rows:
                    _lose(row, str(error))
                return
            middle = len(rows) // 2
            await self._write_rows(rows[:middle], released)
            await self._write_rows(rows[middle:], released)

    async def _reserve(self, wanted: Sequence[Reservation]) -> dict[str, str]:
        if not wanted:
            return {}
        async with _in_time(), self._database.across_tenants() as connection:
            return await reserve(connection, datetime.now(UTC).date(), wanted)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(BATCH_SECONDS):
            yield
    except TimeoutError:
        raise DatabaseUnavailable(f"the database did not answer within {BATCH_SECONDS} seconds") from None


def _answer(waiters: Sequence[Waiter], outcome: dict[str, str] | Exception) -> None:
    """Tell everybody who has not left the refusal by the reservation's id, or what went wrong."""
    for reservation, waiter in waiters:
        if waiter.done():
            continue
        if isinstance(outcome, Exception):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome.get(reservation.id, "") if reservation else "")


def _lose(inference: Inference, reason: str) -> None:
    """What cannot be written leaves its trace in the log."""
    log.error("ledger_row_lost", reason=reason, inference=asdict(inference))


def _exceeded(scope: str, limit: int) -> BudgetExceeded:
    kind, _, name = scope.partition(":")
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    setting, whose = ("TENANT_BUDGET_USD", "tenant") if kind == "tenant" else ("KEY_BUDGET_USD", "API key")
    return BudgetExceeded(
        f"today's budget of the {whose} {name} has no room for this call: "
        f"{setting} is {Decimal(limit) / NANO:f} USD a day (UTC)",
        retry_after=(midnight - now).total_seconds(),
    )
