"""The ledger on a real Postgres: budgets under a race, accounts that equal the rows, and a database that goes away."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError
from structlog.testing import capture_logs

from app.db.budgets import Reservation, reserve
from app.db.engine import Database, connect
from app.db.ledger import SpendRow, _storable, spend, write
from app.errors import BudgetExceeded, ConfigurationError, DatabaseUnavailable
from app.gateway import ledger as ledger_module
from app.gateway.context import CallContext
from app.gateway.deployments import Deployment
from app.gateway.ledger import Ledger
from app.settings import DeploymentSettings
from app.types import Attempt, Inference, Usage

NOW = datetime.now(UTC)
MODEL = Deployment("chat", "CHAT_2", DeploymentSettings(model="openai/new"))
PATIENCE_SECONDS = 20
COMMITTED = b"COMMIT\0"
FAR_EAST = timezone(timedelta(hours=14))


class Line:
    """A line on loopback to Postgres that can be cut; armed, it cuts itself in place of the answer to a commit."""

    def __init__(self, url: str) -> None:
        self._there = make_url(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self.armed = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where to connect instead."""
        here = self._there.set(host="127.0.0.1", port=self._port, query={"sslmode": "disable"})
        return here.render_as_string(hide_password=False)

    def cut(self) -> None:
        """Break every connection and refuse new ones, until the line is entered again."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._there.query.get("host") or self._there.host), self._there.port or 5432
        if host.startswith("/"):
            there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there = await asyncio.open_connection(host, port)
        both = {writer, there[1]}
        self._writers |= both
        await asyncio.gather(self._pump(reader, there[1], b""), self._pump(there[0], writer, COMMITTED))
        self._writers -= both

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, trigger: bytes) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if self.armed and trigger and trigger in data:
                    self.armed = False
                    self.cut()
                    break
                sink.write(data)
                await sink.drain()
        sink.close()


@pytest.fixture
async def line(database: Database, migrated_url: str) -> AsyncIterator[Line]:
    """A line to the empty database."""
    assert database
    async with Line(migrated_url) as line:
        yield line


@pytest.fixture
async def distant(line: Line) -> AsyncIterator[Database]:
    """The empty database, at the end of the line."""
    async with connect(line.url) as database:
        yield database


@pytest.fixture
async def far_east(database: Database, migrated_url: str) -> AsyncIterator[Database]:
    """The empty database, with sessions in a time zone where it is tomorrow already."""
    assert database
    url = make_url(migrated_url).update_query_dict({"options": "-c timezone=Pacific/Kiritimati"})
    async with connect(url.render_as_string(hide_password=False)) as far:
        yield far


def ledger_of(database: Database, tenant: int | None = None, key: int | None = None) -> Ledger:
    """A ledger with these limits, in 1e-9 US dollars."""
    return Ledger(database, tenant_budget_nanousd=tenant, key_budget_nanousd=key)


def context(tenant: str = "default", key: str = "", seconds: float = 30) -> CallContext:
    """A call that has some seconds left."""
    return CallContext(asyncio.get_running_loop().time() + seconds, tenant=tenant, api_key_id=key)


def attempt(cost: int | None = 0, **changes: Any) -> Attempt:
    """An attempt that cost so much."""
    return replace(Attempt("openai/test", "ok", NOW, 5, Usage(10, 20), cost), **changes)


def inference(*attempts: Attempt, **changes: Any) -> Inference:
    """An inference of the default tenant, without a key."""
    plain = Inference(str(uuid.uuid4()), "request", "default", "", "chat", "ok", NOW, 7, attempts=attempts)
    return replace(plain, **changes)


async def read(database: Database, query: str) -> list[Any]:
    """The rows of a query as tuples, whoever they belong to."""
    async with database.across_tenants() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def count(database: Database, table: str) -> int:
    """How many rows a table has."""
    [(rows,)] = await read(database, f"SELECT count(*) FROM {table}")
    return int(rows)


async def accounts(database: Database) -> dict[tuple[str, date], tuple[int, int]]:
    """What was spent and how many attempts are unpriced, by scope and day."""
    rows = await read(database, "SELECT scope, day, spent_nanousd, unpriced FROM budget_accounts")
    return {(scope, day): (spent, unpriced) for scope, day, spent, unpriced in rows if spent or unpriced}


async def reserved(database: Database) -> set[str]:
    """The reservations that there are."""
    return {str(name) for (name,) in await read(database, "SELECT id FROM budget_reservations")}


async def sums(database: Database) -> dict[tuple[str, date], tuple[int, int]]:
    """The same, added up from the ledger's rows."""
    spent: Counter[tuple[str, date]] = Counter()
    unpriced: Counter[tuple[str, date]] = Counter()
    columns = "inferences.tenant, api_key_id, attempts.started_at, cost_nanousd"
    rows = await read(database, f"SELECT {columns} FROM attempts JOIN inferences ON id = inference_id")
    for tenant, key, started_at, cost in rows:
        for scope in [f"tenant:{tenant}", *([f"key:{key}"] if key else [])]:
            where = (scope, started_at.astimezone(UTC).date())
            spent[where] += cost or 0
            unpriced[where] += cost is None
    return {where: (spent[where], unpriced[where]) for where in spent if spent[where] or unpriced[where]}


async def passed(*calls: Any) -> int:
    """How many reserved; whoever did not was refused for the budget."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, str | BudgetExceeded) for outcome in outcomes), outcomes
    return sum(isinstance(outcome, str) for outcome in outcomes)


async def test_of_200_parallel_calls_a_limit_of_50_lets_50_pass(database: Database) -> None:
    """Each may cost one of fifty, and all ask at once."""
    async with ledger_of(database, tenant=50) as ledger:
        assert await passed(*(ledger.reserve(context(), 1, MODEL) for _ in range(200))) == 50


async def test_two_processes_share_one_budget(database: Database, migrated_url: str) -> None:
    """Two ledgers on connections of their own let no more pass than one would."""
    async with connect(migrated_url) as other, ledger_of(database, 50) as first, ledger_of(other, 50) as second:
        calls = [ledger.reserve(context(), 1, MODEL) for _ in range(100) for ledger in (first, second)]
        assert await passed(*calls) == 50


async def test_what_was_set_aside_is_exchanged_for_what_it_cost(database: Database) -> None:
    """Recording gives the reservation back, and the next call has the room that is left."""
    async with ledger_of(database, tenant=100) as ledger:
        reservation = await ledger.reserve(context(), 90, MODEL)
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(context(), 30, MODEL)
        ledger.record(inference(attempt(70, reservation=reservation)))
        assert await ledger.reserve(context(), 30, MODEL)
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(context(), 1, MODEL)
    assert await accounts(database) == {("tenant:default", NOW.date()): (70, 0)}


async def test_every_attempt_counts_also_one_that_failed(database: Database) -> None:
    """Failed, cut and unpriced attempts of one inference are settled together; unknown is counted, not zero."""
    tried = (
        attempt(0, outcome="rate_limited", detail="429"),
        attempt(40, outcome="cut", partial=True, usage=Usage(10, 3, 2, estimated=True), first_token_ms=9),
        attempt(None),
    )
    async with ledger_of(database) as ledger:
        ledger.record(inference(*tried, api_key_id="abc", outcome="answer_cut"))
    day = NOW.date()
    assert await accounts(database) == {("tenant:default", day): (40, 1), ("key:abc", day): (40, 1)}
    columns = "number, outcome, detail, partial, estimated, input_tokens, output_tokens, cached_tokens, cost_nanousd"
    assert await read(database, f"SELECT {columns}, first_token_ms FROM attempts ORDER BY number") == [
        (1, "rate_limited", "429", False, False, 10, 20, 0, 0, None),
        (2, "cut", "", True, True, 10, 3, 2, 40, 9),
        (3, "ok", "", False, False, 10, 20, 0, None, None),
    ]
    assert await read(database, "SELECT outcome, api_key_id, cached, duration_ms, started_at FROM inferences") == [
        ("answer_cut", "abc", "", 7, NOW)
    ]


async def test_accounts_always_equal_the_ledger(database: Database, migrated_url: str) -> None:
    """A mix of tenants, keys, days, costs and two ledgers: no deadlock, no reservation left, and the sums agree."""
    chance = random.Random(7)  # noqa: S311  # a mix, not a secret
    keys = ["", *map(str, range(40))]

    async def call(ledger: Ledger) -> None:
        tenant, key = chance.choice("abc"), chance.choice(keys)
        tried = []
        for _ in range(chance.randint(0, 3)):
            reservation = await ledger.reserve(context(tenant, key), 50, MODEL)
            started = NOW - timedelta(hours=chance.randint(0, 48))
            tried.append(attempt(chance.choice([None, 0, 7, 41]), started_at=started, reservation=reservation))
        ledger.record(inference(*tried, tenant=tenant, api_key_id=key))

    async with connect(migrated_url) as other, ledger_of(database, 10**9, 10**9) as one, ledger_of(other, 10**9) as two:
        await asyncio.gather(*(call(ledger) for _ in range(150) for ledger in (one, two)))
    assert await count(database, "inferences") == 300
    assert await count(database, "budget_reservations") == 0
    assert await accounts(database) == await sums(database) != {}


@pytest.mark.parametrize("step", ["reserve", "write"])
async def test_accounts_are_locked_in_one_order(database: Database, step: str) -> None:
    """Whoever has to wait for an account holds those before it and none after it, so nobody waits in a circle."""
    names = random.Random(7).sample(range(100, 1_000), 60)  # noqa: S311  # a mix, not a secret
    scopes = sorted(f"key:{name}" for name in names)
    records = [inference(attempt(1), tenant="~", api_key_id=str(name)) for name in names]
    asked = [Reservation(one.id, "~", {f"key:{one.api_key_id}": 9}, 1, 9) for one in records]
    async with database.across_tenants() as connection:
        await write(connection, records)

    async def work() -> None:
        async with database.across_tenants() as connection:
            if step == "reserve":
                await reserve(connection, NOW.date(), asked)
            else:
                await write(connection, [replace(one, id=str(uuid.uuid4())) for one in records])

    lock = "SELECT scope FROM budget_accounts WHERE scope LIKE 'key:%' "
    async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_SECONDS), database.across_tenants() as connection:
        await connection.execute(text(f"{lock} AND scope = :middle FOR UPDATE"), {"middle": scopes[30]})
        group.create_task(work())
        while not await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            pass
        free = await connection.execute(text(f"{lock} FOR UPDATE SKIP LOCKED"))
        assert sorted(free.scalars()) == scopes[30:]


async def test_the_budgets_of_tenant_and_key_hold_both(database: Database) -> None:
    """A call needs room in both; what one refuses, the other does not count; without a key the tenant's holds alone."""
    async with ledger_of(database, tenant=6, key=3) as ledger:
        assert await passed(*(ledger.reserve(context(key="a"), 1, MODEL) for _ in range(9))) == 3
        assert await passed(*(ledger.reserve(context(key="b"), 1, MODEL) for _ in range(2))) == 2
        assert await passed(*(ledger.reserve(context(), 1, MODEL) for _ in range(9))) == 1
        assert await passed(ledger.reserve(context("other", key="b"), 1, MODEL)) == 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"tenant": 1_500_000_000}, r"tenant default .* TENANT_BUDGET_USD is 1\.5 USD"),
        ({"key": 20}, r"API key abc .* KEY_BUDGET_USD is 0\.00000002 USD"),
    ],
    ids=["tenant", "key"],
)
async def test_a_refusal_says_whose_budget_and_until_when(
    database: Database, limits: dict[str, int], message: str
) -> None:
    """Whose budget, how much it is, where it is set, and the seconds until the next day in UTC."""
    async with ledger_of(database, **limits) as ledger:
        with pytest.raises(BudgetExceeded, match=message) as caught:
            await ledger.reserve(context(key="abc"), 10**10, MODEL)
    assert caught.value.retry_after
    assert 0 < caught.value.retry_after <= 86_400


async def test_an_unknown_price_is_refused_where_a_budget_applies(database: Database) -> None:
    """Nobody can say whether the call fits, so it is not made, and the message says what to set."""
    async with ledger_of(database, key=100) as ledger:
        assert await ledger.reserve(context(), None, MODEL) is None
        with pytest.raises(ConfigurationError, match=r"openai/new .* CHAT_2_INPUT_PRICE and CHAT_2_OUTPUT_PRICE$"):
            await ledger.reserve(context(key="abc"), None, MODEL)


async def test_the_database_is_asked_only_for_a_budget() -> None:
    """Without a limit, without the key it holds for, or with nothing to pay, the database may be away."""
    async with connect("postgresql://127.0.0.1:1/app") as nowhere:
        async with ledger_of(nowhere) as ledger:
            assert await ledger.reserve(context(key="abc"), None, MODEL) is None
        async with ledger_of(nowhere, tenant=0, key=5) as ledger:
            assert await ledger.reserve(context(), 0, MODEL) is None
            with pytest.raises(DatabaseUnavailable):
                await ledger.reserve(context(), 1, MODEL)
        async with ledger_of(nowhere, key=5) as ledger:
            assert await ledger.reserve(context(), 1, MODEL) is None


async def test_a_limit_set_at_noon_knows_the_morning(database: Database) -> None:
    """Accounts are kept where no limit is set."""
    async with ledger_of(database) as morning:
        morning.record(inference(attempt(8), api_key_id="abc"))
    async with ledger_of(database, key=10) as noon:
        assert await passed(*(noon.reserve(context(key="abc"), 1, MODEL) for _ in range(9))) == 2


async def test_a_new_day_has_a_new_budget(far_east: Database) -> None:
    """Costs belong to the UTC day in which their attempt started, whatever time zone it or the database has."""
    midnight = datetime.combine(NOW.date(), datetime.min.time(), UTC)
    late = attempt(90, started_at=(midnight - timedelta(milliseconds=1)).astimezone(FAR_EAST))
    early = attempt(4, started_at=midnight.astimezone(FAR_EAST))
    async with ledger_of(far_east, tenant=10) as ledger:
        ledger.record(inference(late, early, started_at=late.started_at))
        assert await passed(*(ledger.reserve(context(), 1, MODEL) for _ in range(9))) == 6
    yesterday = NOW.date() - timedelta(days=1)
    spent = {("tenant:default", yesterday): (90, 0), ("tenant:default", NOW.date()): (4, 0)}
    assert await accounts(far_east) == await sums(far_east) == spent
    async with far_east.across_tenants() as connection:
        days = [[row.day for row in await spend(connection, since)] for since in (yesterday, NOW.date())]
    assert days == [[yesterday, NOW.date()], [NOW.date()]]


async def test_what_yesterday_set_aside_is_not_todays(database: Database) -> None:
    """A call that is under way over midnight has its room in the day in which it began."""
    async with ledger_of(database, tenant=10) as ledger:
        await ledger.reserve(context(), 10, MODEL)
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE budget_reservations SET day = day - 1"))
        assert await ledger.reserve(context(), 10, MODEL)


async def test_a_leaked_reservation_stops_counting_and_is_removed(database: Database) -> None:
    """What a killed process set aside counts until a minute after its call's deadline, then not, and goes."""
    async with ledger_of(database, tenant=10) as ledger:
        await ledger.reserve(context(seconds=30), 10, MODEL)  # and never recorded
        [(seconds,)] = await read(database, "SELECT extract(epoch FROM expires_at - now()) FROM budget_reservations")
        assert 60 < seconds <= 90
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(context(), 1, MODEL)
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE budget_reservations SET expires_at = now()"))
        assert await ledger.reserve(context(), 9, MODEL)
        assert await count(database, "budget_reservations") == 2
        ledger.record(inference())
        await ledger.flush()
        assert await read(database, "SELECT amount_nanousd FROM budget_reservations") == [(9,)]


async def test_whoever_leaves_in_the_midst_of_a_batch_leaves_no_reservation(database: Database) -> None:
    """The batch commits after the caller has gone, and the next one gives back what it set aside."""
    async with ledger_of(database, tenant=100) as ledger, asyncio.timeout(PATIENCE_SECONDS):
        kept = await ledger.reserve(context(), 1, MODEL)
        async with database.transaction() as connection:
            await connection.execute(text("SELECT FROM budget_accounts FOR UPDATE"))
            gone, stays = (asyncio.create_task(ledger.reserve(context(), 50, MODEL)) for _ in range(2))
            while not await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                pass
            gone.cancel()
        await asyncio.wait([gone])
        await ledger.flush()
        assert await reserved(database) == {kept}
        assert gone.cancelled()
        with pytest.raises(BudgetExceeded):
            await stays


async def test_whenever_a_caller_leaves_its_reservation_goes_too(database: Database) -> None:
    """Cancelled at any moment, from before its batch until after: what stays belongs to who got an answer."""
    kept = set()
    async with ledger_of(database, tenant=10**6) as ledger:
        for ticks in range(0, 400, 7):
            task = asyncio.create_task(ledger.reserve(context(), 1, MODEL))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                kept.add(task.result())
        await ledger.flush()
        assert await reserved(database) == kept


async def test_leaving_writes_what_is_left(database: Database) -> None:
    """More than one batch is recorded at once, and nothing is lost at the end."""
    async with ledger_of(database) as ledger:
        for _ in range(1_200):
            ledger.record(inference(attempt(3)))
    assert await count(database, "inferences") == await count(database, "attempts") == 1_200
    assert await accounts(database) == {("tenant:default", NOW.date()): (3_600, 0)}


async def test_a_full_batch_does_not_wait_for_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows as are written at once go at once."""
    monkeypatch.setattr(ledger_module, "LINGER_SECONDS", 3_600)
    async with ledger_of(database) as ledger, asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(ledger_module.BATCH_ROWS):
            ledger.record(inference())
        while not await count(database, "inferences"):
            pass


async def test_what_comes_while_the_last_batch_is_written_is_not_lost(database: Database) -> None:
    """Whenever a record comes, it is written, or, when the ledger was closed already, logged."""
    records = [inference() for _ in range(300)]

    async def keep_recording(ledger: Ledger) -> None:
        for one in records:
            ledger.record(one)
            await asyncio.sleep(0)

    with capture_logs() as logs:
        async with ledger_of(database) as ledger:
            recording = asyncio.create_task(keep_recording(ledger))
            await asyncio.sleep(0)
        await recording
    assert {entry["reason"] for entry in logs} <= {"the ledger was closed"}
    assert await count(database, "inferences") + len(logs) == 300


async def test_records_are_written_without_being_asked_for(database: Database) -> None:
    """Nobody waits and nobody flushes: the rows are there soon."""
    async with ledger_of(database) as ledger, asyncio.timeout(PATIENCE_SECONDS):
        ledger.record(inference(attempt(3)))
        while not await count(database, "inferences"):
            pass


async def test_records_wait_while_the_database_is_away(
    database: Database, line: Line, distant: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush says that it is away, nothing is lost, and the ledger tries again by itself until it is back."""
    monkeypatch.setattr(ledger_module, "LONGEST_PAUSE_SECONDS", 0.02)
    async with ledger_of(distant, tenant=100) as ledger, asyncio.timeout(PATIENCE_SECONDS):
        reservation = await ledger.reserve(context(), 60, MODEL)
        line.cut()
        ledger.record(inference(attempt(7, reservation=reservation)))
        ledger.record(inference(attempt(None)))
        with pytest.raises(DatabaseUnavailable):
            await ledger.flush()
        with pytest.raises(DatabaseUnavailable):
            await ledger.reserve(context(), 1, MODEL)
        async with line:
            while await count(database, "inferences") < 2:
                pass
            await ledger.flush()
    assert await accounts(database) == {("tenant:default", NOW.date()): (7, 1)}
    assert await count(database, "budget_reservations") == 0


async def test_a_batch_whose_commit_was_not_confirmed_counts_once(
    database: Database, line: Line, distant: Database
) -> None:
    """The line breaks between the commit and its answer: the rows are written again and change nothing."""
    async with ledger_of(distant) as ledger:
        ledger.record(inference(attempt(7), attempt(5)))
        line.armed = True
        with pytest.raises(DatabaseUnavailable):
            await ledger.flush()
        assert await count(database, "attempts") == 2
        async with line:
            ledger.record(inference(attempt(100)))
            await ledger.flush()
    assert await count(database, "attempts") == 3
    assert await accounts(database) == {("tenant:default", NOW.date()): (112, 0)}


async def test_a_database_that_does_not_answer_is_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch has a time limit, and its records are kept for the next."""
    monkeypatch.setattr(ledger_module, "BATCH_SECONDS", 0.1)
    async with ledger_of(database) as ledger:
        ledger.record(inference())
        async with database.transaction() as connection:
            await connection.execute(text("LOCK TABLE inferences"))
            with pytest.raises(DatabaseUnavailable, match="did not answer"):
                await ledger.flush()
        monkeypatch.undo()
        await ledger.flush()
    assert await count(database, "inferences") == 1


async def test_what_cannot_be_written_at_the_end_is_logged_row_by_row(line: Line, distant: Database) -> None:
    """The log holds every inference with its attempts, also one that comes after the end."""
    lost = [inference(attempt(7)), inference(attempt(None)), inference()]
    with capture_logs() as logs:
        async with ledger_of(distant) as ledger:
            line.cut()
            for one in lost[:2]:
                ledger.record(one)
        ledger.record(lost[2])
    rows = [entry for entry in logs if entry["log_level"] == "error"]
    assert [row["inference"]["id"] for row in rows] == [one.id for one in lost]
    assert rows[0]["inference"]["attempts"][0]["cost_nanousd"] == 7
    assert "away" in rows[0]["reason"]


async def test_when_too_many_wait_the_oldest_go_to_the_log(
    database: Database, line: Line, distant: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is bounded, and the newest stay, which today's budgets need."""
    monkeypatch.setattr(ledger_module, "MOST_WAITING", 3)
    records = [inference(attempt(7)) for _ in range(5)]
    with capture_logs() as logs:
        async with ledger_of(distant) as ledger:
            line.cut()
            for one in records[:3]:
                ledger.record(one)
            with pytest.raises(DatabaseUnavailable):
                await ledger.flush()
            for one in records[3:]:
                ledger.record(one)
            async with line:
                await ledger.flush()
    lost = [entry["inference"]["id"] for entry in logs if entry["log_level"] == "error"]
    assert lost == [one.id for one in records[:2]]
    assert {str(id_) for (id_,) in await read(database, "SELECT id FROM inferences")} == {one.id for one in records[2:]}


async def test_a_row_that_cannot_be_stored_does_not_stop_the_others(database: Database) -> None:
    """It goes to the log alone; a record that comes twice counts once."""
    wrong: Any = {"set"}
    twice = inference(attempt(1))
    bad = [inference(id="no-uuid"), inference(attempt(5, usage=Usage(2**31))), inference(attempt(wrong))]
    with capture_logs() as logs:
        async with ledger_of(database) as ledger:
            for one in [*bad, *(inference(attempt(1)) for _ in range(9)), twice, twice]:
                ledger.record(one)
    assert [entry["inference"]["id"] for entry in logs] == [one.id for one in bad]
    assert await count(database, "inferences") == 10
    assert await accounts(database) == {("tenant:default", NOW.date()): (10, 0)}


async def test_text_that_postgres_refuses_is_stored_without_it(database: Database) -> None:
    """NUL and half a surrogate pair, from a provider or a client, cost no row."""
    async with ledger_of(database) as ledger:
        ledger.record(inference(attempt(detail="a\0b \\u0000 \\\0 \ud800 \U0001f600"), request_id="\udfffx\0"))
    assert await read(database, "SELECT request_id, detail FROM inferences JOIN attempts ON inference_id = id") == [
        ("?x", "ab \\u0000 \\ ? \U0001f600")
    ]


@given(st.lists(st.text(st.sampled_from('\0\\u0d8"\n\ud800\udc00é') | st.characters())))
def test_storable_text_changes_nothing_else(texts: list[str]) -> None:
    """Only NUL and unpaired surrogates are replaced, whatever stands around them."""
    expected = [one.replace("\0", "").encode(errors="replace").decode() for one in texts]
    assert json.loads(_storable(json.dumps(texts, ensure_ascii=False))) == expected


async def test_a_name_that_postgres_refuses_stops_one_batch_only(database: Database) -> None:
    """Such a tenant cannot reserve; the ledger goes on for the others."""
    async with ledger_of(database, tenant=5) as ledger:
        with pytest.raises(DataError):
            await ledger.reserve(context("\0"), 1, MODEL)
        assert await ledger.reserve(context(), 1, MODEL)


async def test_the_report_of_spending(database: Database) -> None:
    """By day, tenant, role and model; a cache hit is a row without a model; days before are left out."""
    yesterday = NOW - timedelta(days=1)
    estimated = Usage(1, 2, 1, estimated=True)
    records = [
        inference(attempt(7), attempt(None, model="other", usage=estimated)),
        inference(attempt(0, outcome="timeout", usage=Usage()), attempt(9)),
        inference(attempt(5), role="judge", tenant="b", api_key_id="key"),
        inference(cached="exact", saved_nanousd=11),
        inference(cached="semantic"),
        inference(attempt(1), started_at=yesterday),
        inference(attempt(3, started_at=yesterday), started_at=yesterday),
        inference(cached="exact", saved_nanousd=13, started_at=yesterday),
        inference(outcome="budget_exceeded"),
    ]
    async with database.across_tenants() as connection:
        await write(connection, records)
        today = await spend(connection, NOW.date())
        both = await spend(connection, yesterday.date())
    day = NOW.date()
    assert today == [
        SpendRow(day, "b", "judge", "openai/test", 1, 10, 0, 20, 5, 0, 0, 0, 0),
        SpendRow(day, "default", "chat", "", 0, 0, 0, 0, 0, 0, 0, 2, 11),
        SpendRow(day, "default", "chat", "openai/test", 4, 30, 0, 60, 17, 0, 0, 0, 0),
        SpendRow(day, "default", "chat", "other", 1, 1, 1, 2, 0, 1, 1, 0, 0),
    ]
    assert [(row.model, row.cost_nanousd, row.saved_nanousd) for row in both[:2]] == [
        ("", 0, 13),
        ("openai/test", 3, 0),
    ]
    assert both[2:] == today
