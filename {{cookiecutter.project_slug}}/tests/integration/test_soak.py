"""Many calls through the whole gateway while a third of what its two providers do is wrong, and what is left after.

`make test` runs a few hundred; the template's `make soak-gateway` runs ten thousand of the same.
"""

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field

import psutil
from sqlalchemy import text

from app.db.engine import Database
from app.errors import AppError
from app.gateway.gateway import Gateway, open_gateway
from app.settings import Settings
from app.types import Completion, Message
from tests.provider import (
    CONTENT_FILTER,
    FAULTS,
    QUOTA_EXCEEDED,
    Behaviour,
    Call,
    CutStream,
    Hang,
    NoUsage,
    Provider,
    Reply,
    Rule,
    StallStream,
    tokens,
)

FAULT_SHARE = 0.3
# What takes a whole timeout is one fault of many, so that a soak takes minutes and not hours.
QUICK = (*FAULTS, *FAULTS, NoUsage(), CONTENT_FILTER, QUOTA_EXCEEDED)
STREAM_FAULTS = (*QUICK, Hang(), StallStream())
WHOLE_FAULTS = (*(fault for fault in QUICK if not isinstance(fault, CutStream)), Hang())
BREAKER_SECONDS = 0.05
# Longer than a trial takes under this load: a client that comes back at once only hears that again.
COMES_BACK_SECONDS = 0.4
INPUT_NANOUSD, OUTPUT_NANOUSD = 1_000, 4_000  # a token
PRICES = {"input_price": INPUT_NANOUSD / 1_000, "output_price": OUTPUT_NANOUSD / 1_000}  # USD a million tokens
MESSAGES: list[Message] = [{"role": "user", "content": "What does a circuit breaker do?"}]
# What was estimated after a failure is left out of the sums: no provider has counted it.
LEDGER = text("""
    SELECT (SELECT count(*) FROM inferences), count(*), coalesce(sum(input_tokens) FILTER (WHERE NOT estimated), 0),
        coalesce(sum(output_tokens) FILTER (WHERE NOT estimated), 0),
        coalesce(sum(cost_nanousd) FILTER (WHERE NOT estimated), 0), (SELECT count(*) FROM budget_reservations)
    FROM attempts
""")


@dataclass
class Soak:
    """How it went: outcomes by name, the longest call in seconds, memory after a fifth of the calls and after all."""

    outcomes: Counter[str] = field(default_factory=Counter)
    longest: float = 0
    attempts: int = 0
    early_megabytes: float = 0
    late_megabytes: float = 0


async def soak(database: Database, *, calls: int, at_a_time: int, timeout_seconds: float) -> Soak:
    """Make the calls, whole and streamed in turn, and check everything but memory, which only thousands can show.

    Raises:
        AssertionError: a call ended in no answer and no error of ours, or too late; ledger and providers do not
            agree; or a task, a call upstream or a reservation was left.

    """
    report = Soak()
    with Provider() as first, Provider() as second:
        settings = _settings(first, second, timeout_seconds)
        await _load(settings, first, second)
        before = asyncio.all_tasks()
        async with open_gateway(settings, database) as gateway:
            await _all_calls(gateway, report, calls, at_a_time)
        providers = first, second
        for provider in providers:
            await provider.until(lambda count: count.open == 0)
        left = asyncio.all_tasks() - before
    assert not left, left
    assert report.longest < settings.deadline_seconds + 1
    await _check_ledger(database, report, calls, providers)
    return report


def _settings(first: Provider, second: Provider, timeout_seconds: float) -> Settings:
    """Two deployments; a breaker that opens now and then, and a deadline that two hanging calls do not reach."""
    limits = {"timeout_seconds": timeout_seconds, "idle_seconds": timeout_seconds, "max_concurrency": 40, **PRICES}
    return Settings(
        chat={"model": "openai/first", "api_base": first.url, **limits},
        chat_2={"model": "openai/second", "api_base": second.url, **limits},
        deadline_seconds=timeout_seconds * 3,
        breaker_seconds=BREAKER_SECONDS,
        tenant_budget_usd=1_000,
    )


async def _load(settings: Settings, *providers: Provider) -> None:
    """Make the first calls, which load modules for seconds, before time counts; then have the providers misbehave."""
    patient = settings.model_copy(update={"chat": settings.chat.model_copy(update={"timeout_seconds": 60.0})})
    gateway = Gateway(patient)
    for number in range(2):
        await _call(gateway, number, seconds=60)
    for seed, provider in enumerate(providers):
        provider.reset()
        provider.always(_misbehaviour(seed))


def _misbehaviour(seed: int) -> Rule:
    """A fault in FAULT_SHARE of the calls, and answers that differ in what they cost in the others."""
    dice = random.Random(seed)  # noqa: S311  # repeatable, not secret

    def behave(call: Call) -> Behaviour:
        if dice.random() < FAULT_SHARE:
            return dice.choice(STREAM_FAULTS if call.body.get("stream") else WHOLE_FAULTS)
        return Reply(usage=tokens(dice.randint(1, 900), dice.randint(1, 90)))

    return behave


async def _all_calls(gateway: Gateway, report: Soak, calls: int, at_a_time: int) -> None:
    numbers = iter(range(calls))
    clock = asyncio.get_running_loop().time

    async def caller() -> None:
        for number in numbers:
            began = clock()
            outcome = await _call(gateway, number)
            report.outcomes[outcome] += 1
            report.longest = max(report.longest, clock() - began)
            if outcome == "deployment_busy":  # or all that are left would be turned away before the breaker closes
                await asyncio.sleep(COMES_BACK_SECONDS)
            if number == calls // 5:
                report.early_megabytes = _megabytes()

    await asyncio.gather(*(caller() for _ in range(at_a_time)))
    report.late_megabytes = _megabytes()


async def _call(gateway: Gateway, number: int, seconds: float | None = None) -> str:
    """Make one call; "ok" where one provider's whole answer came, or the code of the error."""
    context = gateway.context(seconds=seconds)
    try:
        if number % 2:
            async with aclosing(gateway.stream(MESSAGES, context=context)) as events:
                *_, last = [event async for event in events]
        else:
            last = await gateway.complete(MESSAGES, context=context)
    except AppError as error:
        return error.code
    assert isinstance(last, Completion)
    assert last.text.strip() == Reply.text
    return "ok"


async def _check_ledger(database: Database, report: Soak, calls: int, providers: tuple[Provider, ...]) -> None:
    """Each call is there with all its attempts, and the money is what the providers say."""
    counts = [provider.count for provider in providers]
    report.attempts = sum(count.calls for count in counts)
    asked, said = sum(count.input_tokens for count in counts), sum(count.output_tokens for count in counts)
    async with database.transaction() as connection:
        ledger = tuple((await connection.execute(LEDGER)).one())
    cost = asked * INPUT_NANOUSD + said * OUTPUT_NANOUSD
    expected = calls, report.attempts, asked, said, cost, 0
    assert ledger == expected, f"the ledger has {ledger}, the providers {expected}"


def _megabytes() -> float:
    megabytes: float = psutil.Process().memory_info().rss / 1e6
    return megabytes


async def test_every_call_ends_well_or_in_an_error_of_ours_and_leaves_nothing(database: Database) -> None:
    """While a third of what providers do is wrong, calls end in time, the ledger agrees, and nothing is left behind."""
    report = await soak(database, calls=300, at_a_time=16, timeout_seconds=1.5)
    assert report.outcomes["ok"] > 200
    assert len(report.outcomes) > 1
    assert report.attempts > 300
