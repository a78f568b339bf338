"""The exact cache: what it finds, what it never keeps, and how equal calls at one time become one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from structlog.testing import capture_logs

from app.db.cache import read_completion
from app.db.engine import Database, connect
from app.gateway import cache as module
from app.gateway.cache import Cache, Flight, Mode, digest
from app.gateway.context import CallContext
from app.gateway.deployments import Deployment
from app.settings import DeploymentSettings
from app.types import Completion, ToolCall, Usage

HOUR = 3600
KEY = "k" * 64
HELLO = Completion("Hello.", "openai/m", "stop", Usage(11, 7, 3), 900, notice="A test.")
HIT = replace(HELLO, cached="exact", cost_nanousd=0, saved_nanousd=900)
GROUP = (Deployment("chat", "CHAT", DeploymentSettings(model="openai/m")),)
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Hello?"}]
COLD = {"temperature": 0, "max_tokens": 800}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Clock:
    """A time that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def caller(*, seconds: float = 30, tenant: str = "default", sampled: bool = False) -> CallContext:
    """Somebody who waits so long."""
    return CallContext(asyncio.get_running_loop().time() + seconds, tenant, cache_sampled=sampled)


def opened(database: Database, mode: Mode = "on", **options: Any) -> Cache:
    """A cache as one process has it."""
    return Cache(database, mode=mode, **{"max_age_seconds": HOUR} | options)


async def ask(cache: Cache, completion: Completion | None = None, key: str = KEY) -> Completion | None:
    """One call: what the cache knew. Where it knew nothing, keep `completion`."""
    async with cache.flight(key, caller()) as flight:
        if completion and not flight.hit:
            flight.keep(completion)
        return flight.hit


async def stored(database: Database) -> int:
    """How many rows the table has."""
    async with database.transaction() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM completions_cache")) or 0)


async def make_older(database: Database, seconds: float) -> None:
    """Let time pass in the table."""
    older = text("UPDATE completions_cache SET created_at = created_at - make_interval(secs => :seconds)")
    async with database.transaction() as connection:
        await connection.execute(older, {"seconds": seconds})


@pytest.fixture
async def nowhere() -> AsyncIterator[Database]:
    """A database that is not there."""
    async with connect("postgresql://127.0.0.1:1/app") as database:
        yield database


async def key(database: Database, mode: Mode = "on", **changed: Any) -> str | None:
    """The key of a call that differs from the usual one in what is given."""
    call = {"deployments": GROUP, "messages": ASKED, "parameters": COLD} | changed
    context = call.pop("context", None) or caller()
    return opened(database, mode).key(context, **call)


@pytest.mark.parametrize(
    "changed",
    [
        {"deployments": (replace(GROUP[0], settings=DeploymentSettings(model="openai/n")),)},
        {"deployments": (replace(GROUP[0], settings=DeploymentSettings(model="openai/m", api_base="http://a")),)},
        {"deployments": (replace(GROUP[0], parameters={"abstain_below": 0.5}),)},
        {"deployments": GROUP * 2},
        {"messages": [*ASKED, {"role": "assistant", "content": "Hello."}]},
        {"messages": [{"role": "system", "content": "Hello?"}]},
        {"parameters": COLD | {"max_tokens": 801}},
        {"parameters": COLD | {"seed": 1}},
        {"parameters": COLD | {"tools": [{"type": "function", "function": {"name": "f"}}]}},
        {"parameters": COLD | {"response_format": {"type": "json_object"}}},
    ],
    ids="-".join,
)
async def test_whatever_leads_to_another_answer_makes_another_key(nowhere: Database, changed: dict[str, Any]) -> None:
    """Model, endpoint, fallbacks, messages, parameters, tools and format are all in the key."""
    assert await key(nowhere, **changed) != await key(nowhere)


async def test_another_tenant_has_another_key(nowhere: Database) -> None:
    """The same question of two tenants never meets."""
    assert await key(nowhere, context=caller(tenant="other")) != await key(nowhere)


async def test_a_new_version_has_another_key(nowhere: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising CACHE_VERSION, or changing what a completion holds, forgets every entry."""
    before = await key(nowhere)
    monkeypatch.setattr(module, "CACHE_VERSION", module.CACHE_VERSION + 1)
    raised = await key(nowhere)
    monkeypatch.setattr(module, "SHAPE", [*module.SHAPE, "another"])
    assert len({before, raised, await key(nowhere)}) == 3


async def test_a_call_has_one_key_whoever_asks_and_in_whatever_order(nowhere: Database) -> None:
    """The order of names, the request and the caller's API key change no answer, and so no key."""
    turned = [dict(reversed(message.items())) for message in ASKED]
    other = replace(caller(seconds=1), api_key_id="other")
    same = await key(nowhere, messages=turned, parameters=dict(reversed(COLD.items())), context=other)
    assert same == await key(nowhere)


@given(st.dictionaries(st.text(), json_values), json_values)
def test_equal_values_and_no_others_have_the_same_digest(value: dict[str, Any], other: Any) -> None:
    """Whatever a request holds, its digest depends on the values alone, and any change of them changes it."""
    assert digest(value) == digest(dict(reversed(value.items()))) == digest(json.loads(json.dumps(value)))
    assert digest([value, other]) != digest([value, [other]])
    assert (digest(value) == digest(other)) == (json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True))


@pytest.mark.parametrize("parameters", [{"temperature": 0.1}, {"temperature": None}, {}], ids=str)
async def test_a_sampled_reply_is_cached_only_where_the_caller_says_so(
    nowhere: Database, parameters: dict[str, Any]
) -> None:
    """Replies above temperature 0, and of a provider's own temperature, are meant to differ."""
    assert await key(nowhere, parameters=parameters) is None
    assert await key(nowhere, parameters=parameters, context=caller(sampled=True)) is not None


async def test_switched_off_it_knows_and_keeps_nothing(nowhere: Database) -> None:
    """A call without a key passes by: it finds nothing, waits for nobody, and asks no database."""
    cache = opened(nowhere, "off")
    assert cache.key(caller(sampled=True), GROUP, ASKED, COLD) is None
    for _ in range(2):
        async with cache.flight(None, caller()) as flight:
            assert flight.hit is None
            flight.keep(HELLO)


async def test_a_kept_completion_is_found_again(database: Database) -> None:
    """A hit is the same completion; it says where it comes from, that it cost nothing, and what it saved."""
    cache = opened(database)
    assert await ask(cache, HELLO) is None
    assert await ask(cache) == HIT


async def test_a_hit_in_memory_needs_no_database(database: Database) -> None:
    """What this process has seen, it knows, whatever becomes of the table."""
    cache = opened(database)
    await ask(cache, HELLO)
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM completions_cache"))
    assert await ask(cache) == HIT


async def test_another_process_finds_it_too(database: Database) -> None:
    """The table is shared, and what was found there is in memory from then on."""
    await ask(opened(database), HELLO)
    another = opened(database)
    assert await ask(another) == HIT
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM completions_cache"))
    assert await ask(another) == HIT


async def test_an_unknown_price_stays_unknown(database: Database) -> None:
    """What a call saved is unknown where its price is."""
    cache = opened(database)
    await ask(cache, replace(HELLO, cost_nanousd=None))
    found = await ask(cache)
    assert found
    assert (found.cost_nanousd, found.saved_nanousd) == (0, None)


@pytest.mark.parametrize(
    "words", ["nothing \0 at all", "half a pair \ud800", "naïve 日本"], ids=["nul", "half", "other"]
)
async def test_any_text_survives_the_table(database: Database, words: str) -> None:
    """Also characters that Postgres takes in no text column."""
    await ask(opened(database), replace(HELLO, text=words))
    assert await ask(opened(database)) == replace(HIT, text=words)


async def test_a_row_of_another_tenant_is_not_read(database: Database) -> None:
    """The tenant is compared in the query too, not in the key alone."""
    await ask(opened(database), HELLO)
    async with database.transaction() as connection:
        assert await read_completion(connection, "default", KEY, HOUR)
        assert await read_completion(connection, "other", KEY, HOUR) is None


@pytest.mark.parametrize(
    "odd",
    [
        replace(HELLO, finish_reason="length"),
        replace(HELLO, finish_reason="content_filter"),
        replace(HELLO, finish_reason="tool_calls"),
        replace(HELLO, finish_reason=""),
        replace(HELLO, refusal="I cannot help with that."),
        replace(HELLO, tool_calls=(ToolCall("1", "f", "{}"),)),
        replace(HELLO, text=""),
        replace(HELLO, text=" \n"),
    ],
    ids=["length", "filter", "tools", "unfinished", "refusal", "tool call", "empty", "blank"],
)
async def test_what_is_no_whole_answer_is_never_stored(database: Database, odd: Completion) -> None:
    """Cut, filtered, refused, empty, or something to do in the world: asked again, a model answers again."""
    cache = opened(database)
    await ask(cache, odd)
    assert await ask(cache) is None
    assert await stored(database) == 0


async def test_a_call_that_fails_stores_nothing(database: Database) -> None:
    """The error goes to its caller, and the next one asks the model."""
    cache = opened(database)
    with pytest.raises(ZeroDivisionError):
        async with cache.flight(KEY, caller()):
            raise ZeroDivisionError
    assert await ask(cache) is None
    assert await stored(database) == 0


async def test_who_leaves_after_the_last_piece_leaves_it_stored(database: Database) -> None:
    """A stream's client that goes as soon as it has everything does not undo what was kept."""
    cache = opened(database)

    async def stream() -> AsyncIterator[str]:
        async with cache.flight(KEY, caller()) as flight:
            flight.keep(HELLO)
            yield "Hello."

    async with aclosing(stream()) as pieces:  # type: ignore[type-var]  # an async generator, typed as what it yields
        assert await anext(pieces) == "Hello."
    assert await ask(opened(database)) == HIT


async def test_an_entry_lives_as_long_as_it_may(database: Database) -> None:
    """In memory, up to its maximum age and not longer."""
    clock = Clock()
    cache = opened(database, clock=clock)
    await ask(cache, HELLO)
    await make_older(database, HOUR)
    clock.now += HOUR - 1
    assert await ask(cache) == HIT
    clock.now += 1
    assert await ask(cache) is None


async def test_the_age_counts_from_the_first_call(database: Database) -> None:
    """An entry that another process finds late does not begin a new life in its memory."""
    await ask(opened(database), HELLO)
    await make_older(database, HOUR - 60)
    clock = Clock()
    another = opened(database, clock=clock)
    assert await ask(another) == HIT
    await make_older(database, 60)
    clock.now += 60
    assert await ask(another) is None


async def test_an_entry_in_the_table_grows_too_old(database: Database) -> None:
    """The age is judged when it is read: a shorter maximum holds for what is there already."""
    await ask(opened(database), HELLO)
    await make_older(database, 60)
    assert await ask(opened(database, max_age_seconds=59)) is None
    assert await ask(opened(database, max_age_seconds=90)) == HIT


async def test_a_new_answer_takes_the_old_one_s_place(database: Database) -> None:
    """After its time a call is made again, and the newer answer is found from then on."""
    await ask(opened(database), HELLO)
    await make_older(database, HOUR)
    await ask(opened(database), replace(HELLO, text="Hello again."))
    assert await ask(opened(database)) == replace(HIT, text="Hello again.")


async def test_whoever_writes_removes_what_is_too_old(database: Database) -> None:
    """Nobody needs to come by and clean; what may still be found stays."""
    cache = opened(database)
    for n in range(3):
        await ask(cache, HELLO, key=f"old {n}")
    await make_older(database, HOUR)
    await ask(cache, HELLO, key="new")
    await ask(cache, HELLO, key="newer")
    assert await stored(database) == 2


async def test_memory_keeps_what_was_used_last(database: Database) -> None:
    """Of three entries where two have room, the one unused for longest goes."""
    cache = opened(database, most_entries=2)
    await ask(cache, HELLO, key="a")
    await ask(cache, HELLO, key="b")
    assert await ask(cache, key="a")
    await ask(cache, HELLO, key="c")
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM completions_cache"))
    assert [bool(await ask(cache, key=name)) for name in "abc"] == [True, False, True]


async def test_read_only_finds_and_stores_nothing(database: Database) -> None:
    """What is there is found; what is new is kept neither in the table nor in memory."""
    await ask(opened(database), HELLO)
    cache = opened(database, "read_only")
    assert await ask(cache) == HIT
    await ask(cache, HELLO, key="new")
    assert await ask(cache, key="new") is None
    assert await stored(database) == 1


async def test_write_only_stores_and_finds_nothing(database: Database) -> None:
    """It refreshes: each call is made, and its answer takes the old one's place."""
    await ask(opened(database), HELLO)
    cache = opened(database, "write_only")
    assert await ask(cache, replace(HELLO, text="Fresh.")) is None
    assert await ask(cache) is None
    assert await ask(opened(database)) == replace(HIT, text="Fresh.")


class Upstream:
    """A model that answers when it is told to, and counts."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.calls = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.says: Completion | Exception = HELLO

    async def call(self, seconds: float = 30) -> Completion | None:
        """One call through the cache, as the gateway makes it."""
        async with self.cache.flight(KEY, caller(seconds=seconds)) as flight:
            return flight.hit or await self._answer(flight)

    async def _answer(self, flight: Flight) -> Completion:
        self.calls += 1
        self.asked.set()
        await self.may_answer.wait()
        if isinstance(self.says, Exception):
            raise self.says
        flight.keep(self.says)
        return self.says

    async def first_and_others(self, others: int) -> list[asyncio.Task[Completion | None]]:
        """Begin a call, and when it has reached the model, as many equal ones; give all of them, the first first."""
        first = asyncio.create_task(self.call())
        await self.asked.wait()
        following = [asyncio.create_task(self.call()) for _ in range(others)]
        await asyncio.sleep(0)  # each takes its first step, up to where it waits
        return [first, *following]

    async def all_at_the_model(self, calls: int) -> None:
        """Return when so many calls wait for the model at the same time."""
        while self.calls < calls:
            self.asked.clear()
            await self.asked.wait()


@pytest.fixture
def upstream(database: Database) -> Upstream:
    """A model behind a cache."""
    return Upstream(opened(database))


async def test_equal_calls_at_one_time_are_one(upstream: Upstream) -> None:
    """Of eight callers one asks the model; all get its answer, and seven paid nothing."""
    callers = await upstream.first_and_others(7)
    upstream.may_answer.set()
    assert await asyncio.gather(*callers) == [HELLO, *[HIT] * 7]
    assert upstream.calls == 1


async def test_callers_who_come_together_before_the_table_was_read_are_one(upstream: Upstream) -> None:
    """Already the look-up is made once."""
    upstream.may_answer.set()
    answers = await asyncio.gather(*(upstream.call() for _ in range(8)))
    assert sorted(answer.cached for answer in answers if answer) == ["", *["exact"] * 7]
    assert upstream.calls == 1


async def test_different_calls_do_not_wait_for_each_other(upstream: Upstream) -> None:
    """While one call is under way, another one goes its own way."""
    callers = await upstream.first_and_others(0)
    assert await ask(upstream.cache, HELLO, key="another") is None
    assert not callers[0].done()
    upstream.may_answer.set()
    assert await callers[0] == HELLO


@pytest.mark.parametrize("mode", ["read_only", "write_only"])
async def test_calls_that_share_nothing_do_not_wait(database: Database, mode: Mode) -> None:
    """Where the first answer would not be found by the others, they do not wait for it."""
    upstream = Upstream(opened(database, mode))
    async with asyncio.timeout(30):
        callers = await upstream.first_and_others(3)
        await upstream.all_at_the_model(4)
    upstream.may_answer.set()
    assert await asyncio.gather(*callers) == [HELLO] * 4


async def test_when_the_first_fails_all_others_go_on_at_once(upstream: Upstream) -> None:
    """The error is the first one's alone; the others ask together, not one after the other."""
    upstream.says = ZeroDivisionError()
    first, *others = await upstream.first_and_others(7)
    upstream.may_answer.set()
    with pytest.raises(ZeroDivisionError):
        await first
    upstream.may_answer.clear()
    upstream.says = HELLO
    async with asyncio.timeout(30):
        await upstream.all_at_the_model(1 + 7)
    upstream.may_answer.set()
    assert await asyncio.gather(*others) == [HELLO] * 7


async def test_when_the_first_is_cancelled_all_others_go_on_at_once(upstream: Upstream) -> None:
    """Its caller has gone; the others are still there, and none of them is cancelled."""
    first, *others = await upstream.first_and_others(7)
    first.cancel()
    async with asyncio.timeout(30):
        await upstream.all_at_the_model(1 + 7)
    upstream.may_answer.set()
    assert await asyncio.gather(*others) == [HELLO] * 7
    assert first.cancelled()


async def test_when_the_first_may_not_be_kept_all_others_go_on_at_once(upstream: Upstream) -> None:
    """A cut answer is one caller's bad luck."""
    upstream.says = replace(HELLO, finish_reason="length")
    first, *others = await upstream.first_and_others(7)
    upstream.may_answer.set()
    assert await first == upstream.says
    upstream.may_answer.clear()
    async with asyncio.timeout(30):
        await upstream.all_at_the_model(1 + 7)
    upstream.may_answer.set()
    assert await asyncio.gather(*others) == [upstream.says] * 7


async def test_those_who_went_on_are_led_again(upstream: Upstream) -> None:
    """Whoever comes after a failed first call waits for one that is under way by then, though another one has ended."""
    first, second, third = await upstream.first_and_others(2)
    first.cancel()
    async with asyncio.timeout(30):
        await upstream.all_at_the_model(3)
    third.cancel()
    await asyncio.wait([third])
    fourth = asyncio.create_task(upstream.call())
    await asyncio.sleep(0)
    upstream.may_answer.set()
    assert list(await asyncio.gather(second, fourth)) == [HELLO, HIT]
    assert upstream.calls == 3


async def test_one_who_waits_and_leaves_harms_nobody(upstream: Upstream) -> None:
    """Neither the first caller nor the others that wait."""
    first, second, third = await upstream.first_and_others(2)
    second.cancel()
    await asyncio.wait([second])
    assert second.cancelled()
    upstream.may_answer.set()
    assert list(await asyncio.gather(first, third)) == [HELLO, HIT]
    assert upstream.calls == 1


async def test_who_has_waited_half_of_the_time_asks_alone(upstream: Upstream) -> None:
    """A first one that does not end holds up nobody for good."""
    [first] = await upstream.first_and_others(0)
    second = asyncio.create_task(upstream.call(seconds=0.02))
    async with asyncio.timeout(30):
        await upstream.all_at_the_model(2)
    upstream.may_answer.set()
    assert list(await asyncio.gather(first, second)) == [HELLO, HELLO]


async def test_a_database_that_hangs_is_not_waited_for(
    database: Database, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call goes on without the table after a moment, and what was begun there is left alone."""
    monkeypatch.setattr("app.gateway.cache.DATABASE_SECONDS", 0.05)
    async with connect(migrated_url) as blocking, blocking.transaction() as connection:
        await connection.execute(text("LOCK TABLE completions_cache IN ACCESS EXCLUSIVE MODE"))
        cache = opened(database)
        async with asyncio.timeout(10):
            assert await ask(cache, HELLO) is None
    assert await ask(cache) == HIT


async def test_what_the_table_knew_is_not_held_up(database: Database) -> None:
    """Of two that look together, one that is slow to take the stored answer does not keep it from the other."""
    await ask(opened(database), HELLO)
    cache, other_has_it = opened(database), asyncio.Event()

    async def slow() -> None:
        async with cache.flight(KEY, caller()) as flight:
            assert flight.hit == HIT
            await other_has_it.wait()

    async def quick() -> None:
        assert await ask(cache) == HIT
        other_has_it.set()

    async with asyncio.timeout(30):
        await asyncio.gather(slow(), quick())


async def test_without_a_database_calls_are_made_and_memory_works(nowhere: Database) -> None:
    """Trouble is a warning each time, for the reading and for the writing, and never an error of the call."""
    cache = opened(nowhere)
    with capture_logs() as logs:
        assert await ask(cache, HELLO) is None
        assert await ask(cache) == HIT
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("warning", "the cache cannot be read"),
        ("warning", "the cache cannot be written"),
    ]
    assert "DatabaseUnavailable" in logs[0]["error"]


async def test_a_database_that_does_not_answer_is_not_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody locks the table, a call goes on after a moment; afterwards everything works again."""
    monkeypatch.setattr(module, "DATABASE_SECONDS", 0.1)
    cache = opened(database)
    async with database.transaction() as connection:
        await connection.execute(text("LOCK TABLE completions_cache IN ACCESS EXCLUSIVE MODE"))
        with capture_logs() as logs:
            assert await ask(cache, HELLO) is None
    assert [entry["event"] for entry in logs] == ["the cache cannot be read", "the cache cannot be written"]
    monkeypatch.undo()
    await ask(opened(database), HELLO)
    assert await ask(opened(database)) == HIT


async def test_a_row_that_cannot_be_understood_is_a_miss(database: Database) -> None:
    """Whatever stands in the table, the model can still be asked; the answer takes the row's place."""
    await ask(opened(database), HELLO)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE completions_cache SET completion = 'no JSON'"))
    with capture_logs() as logs:
        assert await ask(opened(database), HELLO) is None
    assert [entry["event"] for entry in logs] == ["the cache cannot be read"]
    assert await ask(opened(database)) == HIT
