"""The table of failures, walked: each kind is provoked over HTTP, and what follows is what its row says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.errors import (
    AnswerCut,
    ContentFiltered,
    ContextTooLong,
    DeadlineExceeded,
    DeploymentBusy,
    ProviderError,
    ProviderGarbled,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from app.gateway.context import CallContext
from app.gateway.failures import CONSEQUENCES, Consequence, Kind, classify
from app.gateway.gateway import Gateway
from app.settings import Settings
from app.types import Message
from tests.provider import (
    Behaviour,
    CutStream,
    Garbage,
    Hang,
    Provider,
    RateLimited,
    Rejected,
    ServerError,
    StallStream,
)

QUESTION: list[Message] = [{"role": "user", "content": "How tall is a giraffe?"}]
ATTEMPTS = 2
# Short where a silence is to be noticed, and long enough for a first answer elsewhere.
PATIENCE: dict[str, Any] = {"timeout_seconds": 5.0, "idle_seconds": 0.3}
IMPATIENCE = PATIENCE | {"timeout_seconds": 0.3}
TROUBLE: dict[Kind, Behaviour] = {
    "rate_limited": RateLimited(retry_after=0),
    "quota": RateLimited(text="You exceeded your current quota", code="insufficient_quota"),
    "unavailable": ServerError(503, retry_after=0),
    "timeout": Hang(),
    "stalled": StallStream(),
    "garbled": Garbage('{"choices": []}'),
    "cut": CutStream(),
    "forbidden": Rejected(403),
    "misconfigured": Rejected(401),
    "context": Rejected(400, code="context_length_exceeded", text="This model's maximum context length is 10 tokens"),
    "filtered": Rejected(400, code="content_filter"),
    "rejected": Rejected(400),
}
IN_A_STREAM = {"stalled", "cut"}


@dataclass
class Chain:
    """A first choice in trouble and a fallback in good health."""

    first: Provider
    second: Provider

    def gateway(self, kind: str, **given: Any) -> Gateway:
        """The two as the chat role; the second reads more than the first."""
        limits = IMPATIENCE if kind == "timeout" else PATIENCE
        usual: dict[str, Any] = {
            "chat": {"model": "openai/first", "api_base": self.first.url, "context_tokens": 10, **limits},
            "chat_2": {"model": "openai/second", "api_base": self.second.url, "context_tokens": 20},
            "max_attempts": ATTEMPTS,
        }
        return Gateway(Settings(**(usual | given)))


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[Chain]:
    """Two providers, called once: the first call loads a lot."""
    with Provider() as first, Provider() as second:
        chain = Chain(first, second)
        await ask(chain.gateway(""), "complete")
        yield chain


@pytest.fixture
def chain(servers: Chain) -> Chain:
    """The two, with a clean history."""
    servers.first.reset()
    servers.second.reset()
    return servers


async def ask(gateway: Gateway, how: str) -> CallContext:
    """Ask, and give what the ledger would know."""
    context = gateway.context()
    if how == "stream":
        _ = [event async for event in gateway.stream(QUESTION, context=context)]
    else:
        await gateway.complete(QUESTION, context=context)
    return context


def how(kind: Kind) -> str:
    """Whether it takes a stream for this to happen."""
    return "stream" if kind in IN_A_STREAM else "complete"


def test_every_kind_is_provoked_here_or_just_below() -> None:
    """No row of the table goes without a test: two kinds need no provider, and have a test of their own."""
    assert TROUBLE.keys() | {"unreachable", "busy"} == CONSEQUENCES.keys()


EXPECTED = {
    # kind: is it tried again, is the next one asked, what does the breaker do, what does the caller get
    "rate_limited": ("yes", "yes", "counts", ProviderRateLimited),
    "quota": ("no", "yes", "opens", ProviderRateLimited),
    "unavailable": ("yes", "yes", "counts", ProviderUnavailable),
    "unreachable": ("yes", "yes", "counts", ProviderUnavailable),
    "timeout": ("no", "yes", "counts", DeadlineExceeded),
    "stalled": ("no", "no", "counts", DeadlineExceeded),
    "garbled": ("yes", "yes", "counts", ProviderGarbled),
    "cut": ("no", "no", "counts", AnswerCut),
    "forbidden": ("no", "yes", "counts", ProviderMisconfigured),
    "misconfigured": ("no", "yes", "opens", ProviderMisconfigured),
    "context": ("no", "larger context", "ignores", ContextTooLong),
    "filtered": ("no", "no", "ignores", ContentFiltered),
    "rejected": ("no", "no", "ignores", ProviderRejected),
    "busy": ("no", "yes", "ignores", DeploymentBusy),
}


def test_the_table_says_what_was_decided() -> None:
    """A changed cell is a changed policy, and is changed here too."""
    rows = {kind: (row.retry, row.fall_back, row.breaker, row.error) for kind, row in CONSEQUENCES.items()}
    assert rows == EXPECTED


@pytest.mark.parametrize("kind", TROUBLE)
async def test_retries_and_fallbacks_are_those_of_the_table(chain: Chain, kind: Kind) -> None:
    """The first choice is called once, or MAX_ATTEMPTS times; the second only where the row says so."""
    row = CONSEQUENCES[kind]
    chain.first.always(TROUBLE[kind])
    if row.fall_back == "no":
        with pytest.raises(row.error):
            await ask(chain.gateway(kind), how(kind))
    else:
        context = await ask(chain.gateway(kind), how(kind))
        outcomes = [attempt.outcome for attempt in context.inferences[0].attempts]
        assert outcomes == [kind] * (ATTEMPTS if row.retry == "yes" else 1) + ["ok"]
    assert len(chain.first.requests) == (ATTEMPTS if row.retry == "yes" else 1)
    assert len(chain.second.requests) == (0 if row.fall_back == "no" else 1)


@pytest.mark.parametrize("kind", TROUBLE)
async def test_what_is_raised_is_the_error_of_the_table(chain: Chain, kind: Kind) -> None:
    """With nobody left to ask, the caller gets the row's error, with a status that a client understands."""
    chain.first.always(TROUBLE[kind])
    chain.second.always(TROUBLE[kind])
    gateway = chain.gateway(kind, chat_2=None, max_attempts=1)
    with pytest.raises(ProviderError) as caught:
        await ask(gateway, how(kind))
    assert type(caught.value) is CONSEQUENCES[kind].error


@pytest.mark.parametrize("kind", TROUBLE)
async def test_the_breaker_does_what_the_table_says(chain: Chain, kind: Kind) -> None:
    """After one failure it is open or closed, after BREAKER_FAILURES of a counted kind it is open."""
    chain.first.always(TROUBLE[kind])
    gateway = chain.gateway(kind, chat_2=None, max_attempts=1, breaker_failures=2)
    expected = {"opens": [False, True, True], "counts": [False, False, True], "ignores": [False, False, False]}
    refused = []
    for _ in range(3):
        with pytest.raises(ProviderError) as caught:
            await ask(gateway, how(kind))
        refused.append(isinstance(caught.value, DeploymentBusy))
    assert refused == expected[CONSEQUENCES[kind].breaker]


async def test_an_address_where_nobody_listens_is_passed_by(chain: Chain) -> None:
    """Unreachable: tried again, and then the next one is asked."""
    gateway = chain.gateway("", chat={"model": "openai/first", "api_base": "http://127.0.0.1:9/v1"})
    context = await ask(gateway, "complete")
    outcomes = [attempt.outcome for attempt in context.inferences[0].attempts]
    assert outcomes == ["unreachable", "unreachable", "ok"]


async def test_a_deployment_whose_breaker_is_open_is_passed_by_without_a_call(chain: Chain) -> None:
    """Busy: the next one answers, and the first hears nothing of it."""
    chain.first.always(Rejected(401))
    gateway = chain.gateway("")
    await ask(gateway, "complete")
    context = await ask(gateway, "complete")
    assert [attempt.model for attempt in context.inferences[0].attempts] == ["openai/second"]
    assert len(chain.first.requests) == 1


async def test_all_breakers_open_is_503_with_a_time_to_come_back(chain: Chain) -> None:
    """The wait is that of the deployment which may be tried first."""
    chain.first.always(Rejected(401))
    chain.second.always(Rejected(401))
    gateway = chain.gateway("", breaker_seconds=20)
    with pytest.raises(ProviderError):
        await ask(gateway, "complete")
    with pytest.raises(DeploymentBusy) as caught:
        await ask(gateway, "complete")
    assert caught.value.status == 503
    assert 0 < (caught.value.retry_after or 0) <= 20
    assert "not right: CHAT_API_KEY, CHAT_MODEL, CHAT_API_BASE" in caught.value.message


async def test_too_much_text_goes_only_to_a_deployment_that_is_declared_to_read_more(chain: Chain) -> None:
    """A second choice that reads no more than the first is not asked."""
    chain.first.always(TROUBLE["context"])
    smaller = {"model": "openai/second", "api_base": chain.second.url, "context_tokens": 10}
    with pytest.raises(CONSEQUENCES["context"].error):
        await ask(chain.gateway("", chat_2=smaller), "complete")
    assert chain.second.requests == []


@pytest.mark.parametrize("row", CONSEQUENCES.values(), ids=list(CONSEQUENCES))
def test_a_row_makes_sense(row: Consequence) -> None:
    """What is retried may also fall back and is counted; what a client sees is an error of a provider."""
    if row.retry == "yes":
        assert (row.fall_back, row.breaker) == ("yes", "counts")
    assert issubclass(row.error, ProviderError)
    assert row.error.status in {400, 502, 503, 504}


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (None, "", "unreachable"),
        (400, "", "rejected"),
        (400, "code content_filter", "filtered"),
        (400, "ContentPolicyViolationError", "filtered"),
        (400, "Your credit balance is too low", "quota"),
        (400, "ContextWindowExceededError", "context"),
        (413, "prompt is too long", "context"),
        (413, "", "rejected"),
        (401, "insufficient_quota", "misconfigured"),
        (402, "", "quota"),
        (403, "", "forbidden"),
        (403, "Your input was flagged by our moderation", "filtered"),
        (404, "", "misconfigured"),
        (408, "", "unavailable"),
        (409, "", "unavailable"),
        (418, "", "rejected"),
        (422, "", "rejected"),
        (425, "", "unavailable"),
        (429, "", "rate_limited"),
        (429, "insufficient_quota", "quota"),
        (500, "content_filter", "unavailable"),
        (529, "", "unavailable"),
    ],
)
def test_status_and_code_say_the_kind(status: int | None, said: str, kind: Kind) -> None:
    """The status decides, but where a plain refusal has a telling code."""
    assert classify(status, said) == kind
