"""The breaker, the retry budget and the slots of one deployment, by a clock that the test turns."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.context import CallContext
from app.gateway.deployments import Deployment
from app.gateway.failures import Failure, Kind
from app.gateway.guard import FIRST_PAUSE_SECONDS, LONGEST_OPEN_SECONDS, RETRY_RESERVE, Breaker, Guard
from app.settings import DeploymentSettings, Settings

TROUBLE = Failure("unavailable", "it is down")


class Clock:
    """Seconds, by hand."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


def breaker(clock: Clock, *, failed: int = 0) -> Breaker:
    """Opens after three failures, for ten seconds."""
    made = Breaker(3, 10, clock)
    for _ in range(failed):
        made.failed(made.admit(), TROUBLE)
    return made


def is_open(made: Breaker) -> bool:
    """Whether it refuses a call now."""
    try:
        made.abandoned(made.admit())
    except Failure:
        return True
    return False


def guard(**given: object) -> Guard:
    """The guard of one deployment."""
    settings = DeploymentSettings.model_validate({"model": "openai/x"} | given)
    return Guard(Deployment("chat", "CHAT", settings), Settings(max_attempts=9))


def context(seconds: float = 60) -> CallContext:
    """A deadline so far away."""
    return CallContext(asyncio.get_running_loop().time() + seconds)


@pytest.mark.parametrize(("failed", "opened"), [(0, False), (2, False), (3, True), (4, True)])
def test_it_opens_after_so_many_failures_in_a_row(clock: Clock, failed: int, opened: bool) -> None:  # noqa: FBT001  # a parameter
    """Fewer failures leave it closed."""
    made = breaker(clock)
    tickets = [made.admit() for _ in range(failed)]
    for ticket in tickets:
        made.failed(ticket, TROUBLE)
    assert is_open(made) is opened


def test_a_success_starts_the_count_again(clock: Clock) -> None:
    """Failures count only in a row."""
    made = breaker(clock, failed=2)
    made.succeeded(made.admit())
    made.failed(made.admit(), TROUBLE)
    assert not is_open(made)


def test_what_is_refused_says_why_and_for_how_long(clock: Clock) -> None:
    """The error holds what happened last, and the seconds that are left."""
    made = breaker(clock, failed=3)
    clock.now += 4
    with pytest.raises(Failure, match="left alone, after: it is down") as caught:
        made.admit()
    assert (caught.value.kind, caught.value.retry_after) == ("busy", 6)


def test_half_open_lets_one_call_through(clock: Clock) -> None:
    """After its time one call may try, and the others wait for what it finds."""
    made = breaker(clock, failed=3)
    clock.now += 10
    trial = made.admit()
    with pytest.raises(Failure):
        made.admit()
    made.succeeded(trial)
    made.admit()
    made.admit()


def test_a_trial_that_fails_opens_it_again(clock: Clock) -> None:
    """One failure is enough then."""
    made = breaker(clock, failed=3)
    clock.now += 10
    made.failed(made.admit(), TROUBLE)
    assert is_open(made)
    clock.now += 10
    assert not is_open(made)


def test_a_trial_that_hangs_is_followed_by_another(clock: Clock) -> None:
    """After the same time again one more may try; the first of them that answers is enough."""
    made = breaker(clock, failed=3)
    clock.now += 10
    hanging = made.admit()
    clock.now += 10
    made.admit()
    with pytest.raises(Failure):
        made.admit()
    made.succeeded(hanging)
    made.admit()


def test_a_trial_that_is_given_up_makes_room_for_another(clock: Clock) -> None:
    """A client who leaves in the middle of a trial does not keep the deployment closed for ever."""
    made = breaker(clock, failed=3)
    clock.now += 10
    made.abandoned(made.admit())
    made.admit()


def test_the_first_token_of_a_trial_is_enough(clock: Clock) -> None:
    """Nobody waits for the end of a long stream; for a deployment that is not on trial it says nothing."""
    made = breaker(clock, failed=2)
    ticket = made.admit()
    made.answering(ticket)
    made.failed(ticket, TROUBLE)
    assert is_open(made)
    clock.now += 10
    made.answering(made.admit())
    assert not is_open(made)


@pytest.mark.parametrize("end", ["succeeded", "answering", "abandoned"])
def test_a_call_from_before_says_nothing_about_a_trial(clock: Clock, end: str) -> None:
    """Its end neither closes the breaker nor lets a second call try."""
    made = breaker(clock)
    before = made.admit()
    for _ in range(3):
        made.failed(made.admit(), TROUBLE)
    clock.now += 10
    made.admit()
    getattr(made, end)(before)
    with pytest.raises(Failure):
        made.admit()


@pytest.mark.parametrize(("asked", "waited"), [(3.0, 10), (60.0, 60), (9e9, LONGEST_OPEN_SECONDS)])
def test_a_provider_that_names_its_time_is_left_alone_for_that_long(clock: Clock, asked: float, waited: float) -> None:
    """At least BREAKER_SECONDS, and not for ever."""
    made = breaker(clock, failed=2)
    made.failed(made.admit(), Failure("rate_limited", "slowly", retry_after=asked))
    clock.now += waited - 1
    assert is_open(made)
    clock.now += 1
    assert not is_open(made)


@given(st.lists(st.sampled_from(["unavailable", "rejected", "misconfigured", "ok", "left", "wait"])))
def test_whatever_happens_it_lets_a_call_through_again(events: list[str]) -> None:
    """No history leaves a deployment shut for good."""
    clock = Clock()
    made = Breaker(3, 10, clock)
    for event in events:
        if event == "wait":
            clock.now += 10
            continue
        try:
            ticket = made.admit()
        except Failure:
            continue
        kinds: dict[str, Kind] = {
            "unavailable": "unavailable",
            "rejected": "rejected",
            "misconfigured": "misconfigured",
        }
        if event in kinds:
            made.failed(ticket, Failure(kinds[event], ""))
        else:
            made.succeeded(ticket) if event == "ok" else made.abandoned(ticket)
    clock.now += 10
    made.admit()


async def test_a_call_waits_for_a_slot_and_no_longer_than_its_time() -> None:
    """One call at a time: the second gets the slot when the first is done, or hears that all are taken."""
    made = guard(max_concurrency=1, timeout_seconds=0.05)
    async with made.admitted(context(), first=True):
        with pytest.raises(Failure, match=r"1 calls at a time are under way \(CHAT_MAX_CONCURRENCY\)"):
            async with made.admitted(context(), first=True):
                pass
    async with made.admitted(context(), first=True):
        pass


async def test_a_full_deployment_is_no_failing_one() -> None:
    """That no slot was free does not open the breaker."""
    made = guard(max_concurrency=1, timeout_seconds=0.001)
    async with made.admitted(context(), first=True):
        for _ in range(5):
            with pytest.raises(Failure):
                async with made.admitted(context(), first=True):
                    pass
    assert not is_open(made.breaker)


async def test_a_slot_is_given_back_however_the_call_ends() -> None:
    """An answer, a failure, an error and a cancellation all free it."""
    made = guard(max_concurrency=1, timeout_seconds=0.05)
    for error in (TROUBLE, ValueError(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            async with made.admitted(context(), first=True):
                raise error
    async with made.admitted(context(), first=True):
        pass


async def test_pauses_grow_and_stay_random() -> None:
    """The longest pause doubles from attempt to attempt, and a pause may be anything below."""
    drawn = [[guard().pause(TROUBLE, number, context()) or 0 for _ in range(200)] for number in (1, 2, 3)]
    for number, pauses in enumerate(drawn, 1):
        assert max(pauses) <= FIRST_PAUSE_SECONDS * 2**number
        assert min(pauses) < FIRST_PAUSE_SECONDS * 2**number / 4
    assert all(max(shorter) < max(longer) for shorter, longer in pairwise(drawn))


@pytest.mark.parametrize(
    ("failure", "left", "pause"),
    [
        (Failure("rate_limited", "", retry_after=7), 60, 7),
        (Failure("rate_limited", "", retry_after=0), 60, 0),
        (Failure("rate_limited", "", retry_after=7), 5, None),
        (Failure("rejected", ""), 60, None),
    ],
)
async def test_a_pause_is_what_the_provider_asks_for_within_the_deadline(
    failure: Failure, left: float, pause: float | None
) -> None:
    """Longer than the time that is left, or for nothing: no pause, and no retry."""
    assert guard().pause(failure, 1, context(left)) == pause


async def test_after_so_many_attempts_there_is_no_other() -> None:
    """MAX_ATTEMPTS is 9 here, and the last one spends nothing of the retry budget."""
    made, again = guard(), Failure("rate_limited", "", retry_after=0)
    assert [made.pause(again, 9, context()) for _ in range(20)] == [None] * 20
    assert made.pause(again, 8, context()) == 0


async def test_the_retry_budget_runs_out_and_is_earned_by_calls() -> None:
    """In lasting trouble retries stop after the reserve; five first attempts earn one again."""
    made = guard()
    again = Failure("rate_limited", "", retry_after=0)
    allowed = [made.pause(again, 1, context()) for _ in range(int(RETRY_RESERVE) + 5)]
    assert allowed.count(0) == RETRY_RESERVE
    for _ in range(5):
        async with made.admitted(context(), first=True):
            pass
    assert [made.pause(again, 1, context()) for _ in range(2)] == [0, None]
