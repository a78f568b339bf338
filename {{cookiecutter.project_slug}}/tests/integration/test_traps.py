"""Every trap that litellm sets and the gateway steps around: the real litellm, and providers that misbehave.

One section a trap. Two deployments, `chat` on `first` and `chat_2` on `second`: each test also says who was called.
What the HTTP API makes of a broken stream stands in `test_api.py`, clients of it that leave in `test_disconnect.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from app.db.engine import Database
from app.errors import (
    AnswerCut,
    BudgetExceeded,
    ContentFiltered,
    ContextTooLong,
    DeadlineExceeded,
    DeploymentBusy,
    InvalidOutput,
    ProviderError,
    ProviderGarbled,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from app.gateway.gateway import Gateway, open_gateway
from app.gateway.structured import parse
from app.settings import Settings
from app.types import Completion, Message, TextDelta, ToolCall, ToolCallDelta, Usage
from tests.provider import (
    BAD_GATEWAY,
    CONTENT_FILTER,
    CONTEXT_EXCEEDED,
    QUOTA_EXCEEDED,
    Behaviour,
    CallTools,
    CutStream,
    Drop,
    Garbage,
    GarbledStream,
    Hang,
    NoUsage,
    Provider,
    RateLimited,
    Rejected,
    Reply,
    ServerError,
    StallStream,
    Tool,
    tokens,
)

QUESTION: list[Message] = [{"role": "user", "content": "Which trap is this?"}]
CANARY = "canary-4c07-secret"
BRIEF_SECONDS = 0.4
ONCE = {"max_attempts": 1}
ERROR_EVENT = '{"error": {"message": "The model is overloaded.", "type": "server_error", "code": 529}}'

MakeGateway = Callable[..., Gateway]
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[tuple[Provider, Provider]]:
    """Two providers for the file, after the first calls: those load a lot, and some deadlines below are short."""
    with Provider() as first, Provider() as second:
        gateway = Gateway(Settings(chat={"model": "openai/warm", "api_base": first.url}))
        await gateway.complete(QUESTION)
        await read(gateway)
        yield first, second


@pytest.fixture
def first(servers: tuple[Provider, Provider]) -> Provider:
    """Where `chat` is, with a clean history."""
    servers[0].reset()
    return servers[0]


@pytest.fixture
def second(servers: tuple[Provider, Provider]) -> Provider:
    """Where `chat_2` is, with a clean history; it answers "second"."""
    servers[1].reset()
    servers[1].always(Reply("second"))
    return servers[1]


@pytest.fixture
def settings_with(settings: Settings, first: Provider, second: Provider) -> MakeSettings:
    """Settings for both deployments, or for the first `alone`; takes changes, `chat` and `chat_2` among them."""

    def make(**given: Any) -> Settings:
        roles = {
            "chat": {"model": "openai/one", "api_base": first.url} | given.pop("chat", {}),
            "chat_2": {"model": "openai/two", "api_base": second.url} | given.pop("chat_2", {}),
            "embedding": {"model": "openai/embedding", "api_base": first.url},
        }
        if given.pop("alone", False):
            del roles["chat_2"]
        return settings.model_validate(settings.model_dump() | roles | given)

    return make


@pytest.fixture
def gateway_with(settings_with: MakeSettings) -> MakeGateway:
    """A gateway on both deployments; takes settings."""
    return lambda **given: Gateway(settings_with(**given))


async def read(gateway: Gateway, **given: Any) -> tuple[list[Any], Completion]:
    """The pieces of a stream, and the whole at its end."""
    *pieces, last = [event async for event in gateway.stream(QUESTION, **given)]
    assert isinstance(last, Completion)
    return pieces, last


async def ask(gateway: Gateway, way: str, **given: Any) -> Completion:
    """The reply, asked for whole or as a stream."""
    return await gateway.complete(QUESTION, **given) if way == "complete" else (await read(gateway, **given))[1]


BOTH_WAYS = pytest.mark.parametrize("way", ["complete", "stream"])


# Hidden retries


@pytest.mark.parametrize("way", ["complete", "stream", "embed"])
async def test_no_retry_is_hidden(gateway_with: MakeGateway, first: Provider, way: str) -> None:
    """One attempt is one request, where litellm and the client below it would each make more."""
    first.always(ServerError())
    gateway = gateway_with(**ONCE, alone=True)
    with pytest.raises(ProviderUnavailable):
        await (gateway.embed(["a text"]) if way == "embed" else ask(gateway, way))
    assert first.count.calls == 1


# 429 and Retry-After


@BOTH_WAYS
async def test_retry_after_is_honoured(gateway_with: MakeGateway, first: Provider, second: Provider, way: str) -> None:
    """The same deployment is asked again after what it asks for."""
    first.then(RateLimited(retry_after=0), RateLimited(retry_after=0))
    assert (await ask(gateway_with(), way)).model == "openai/one"
    assert (first.count.calls, second.count.calls) == (3, 0)


@BOTH_WAYS
async def test_a_retry_after_beyond_the_deadline_goes_to_the_next_deployment(
    gateway_with: MakeGateway, first: Provider, second: Provider, way: str
) -> None:
    """Nobody waits for what would come too late."""
    first.then(RateLimited(retry_after=100))
    assert (await ask(gateway_with(deadline_seconds=50), way)).model == "openai/two"
    assert (first.count.calls, second.count.calls) == (1, 1)


# Fallback on 400 and 401


@pytest.mark.parametrize(
    "trouble",
    [
        *[Rejected(status) for status in (408, 409, 425, 429)],
        *[ServerError(status) for status in (500, 502, 503, 529)],
        BAD_GATEWAY,
        Garbage(),
        Drop(),
        Hang(),
        QUOTA_EXCEEDED,
    ],
    ids=lambda trouble: f"{type(trouble).__name__}-{getattr(trouble, 'status', '')}",
)
@BOTH_WAYS
async def test_what_may_work_elsewhere_falls_back(
    gateway_with: MakeGateway, first: Provider, second: Provider, trouble: Behaviour, way: str
) -> None:
    """Rate limits, the provider's own faults, broken connections and silence go to the next deployment."""
    first.then(trouble)
    gateway = gateway_with(**ONCE, chat={"timeout_seconds": BRIEF_SECONDS})
    assert (await ask(gateway, way)).model == "openai/two"
    assert (first.count.calls, second.count.calls) == (1, 1)


@pytest.mark.parametrize("status", [400, 422])
@BOTH_WAYS
async def test_a_wrong_request_does_not_fall_back(
    gateway_with: MakeGateway, first: Provider, second: Provider, status: int, way: str
) -> None:
    """It would be wrong elsewhere too."""
    first.then(Rejected(status))
    with pytest.raises(ProviderRejected):
        await ask(gateway_with(), way)
    assert (first.count.calls, second.count.calls) == (1, 0)


@pytest.mark.parametrize(("status", "calls"), [(401, 1), (403, 2)])
@BOTH_WAYS
async def test_a_wrong_key_is_an_alarm_and_is_skipped(
    gateway_with: MakeGateway, first: Provider, second: Provider, *, status: int, calls: int, way: str
) -> None:
    """It is logged as an error with the variable to set; after 401 the deployment is left alone at once."""
    first.always(Rejected(status))
    gateway = gateway_with()
    with capture_logs() as logs:
        replies = [await ask(gateway, way) for _ in range(2)]
    assert [reply.model for reply in replies] == ["openai/two"] * 2
    alarms = [entry["variable"] for entry in logs if entry["log_level"] == "error"]
    assert alarms == ["CHAT"] * calls
    assert (first.count.calls, second.count.calls) == (calls, 2)


# Context window exceeded


@BOTH_WAYS
async def test_what_is_too_long_goes_to_who_is_declared_to_read_more(
    gateway_with: MakeGateway, first: Provider, way: str
) -> None:
    """It is the one 400 that another deployment may answer."""
    first.then(CONTEXT_EXCEEDED)
    gateway = gateway_with(chat={"context_tokens": 8_192}, chat_2={"context_tokens": 128_000})
    assert (await ask(gateway, way)).model == "openai/two"
    assert first.count.calls == 1


@BOTH_WAYS
@pytest.mark.parametrize("size", [8_192, None])
async def test_what_is_too_long_goes_to_nobody_else(
    gateway_with: MakeGateway, first: Provider, second: Provider, size: int | None, way: str
) -> None:
    """A deployment of the same or of unknown size is not tried."""
    first.then(CONTEXT_EXCEEDED)
    with pytest.raises(ContextTooLong):
        await ask(gateway_with(chat={"context_tokens": 8_192}, chat_2={"context_tokens": size}), way)
    assert (first.count.calls, second.count.calls) == (1, 0)


# Content filter


@BOTH_WAYS
async def test_a_content_filter_is_told_from_a_wrong_request(
    gateway_with: MakeGateway, first: Provider, second: Provider, way: str
) -> None:
    """Its code makes the difference; another provider is no way around it."""
    first.then(CONTENT_FILTER)
    with pytest.raises(ContentFiltered):
        await ask(gateway_with(), way)
    assert (first.count.calls, second.count.calls) == (1, 0)


# Refusal


@BOTH_WAYS
async def test_a_refusal_is_kept_and_never_cached(
    settings_with: MakeSettings, database: Database, first: Provider, way: str
) -> None:
    """It is no empty answer, and the next one who asks may get another."""
    first.then(*[Reply("", refusal="I will not.")] * 2)
    async with open_gateway(settings_with(cache_mode="on"), database) as gateway:
        replies = [await ask(gateway, way) for _ in range(3)]
    assert [(reply.text, reply.refusal.strip()) for reply in replies[:2]] == [("", "I will not.")] * 2
    assert (replies[2].refusal, first.count.calls) == ("", 3)


# Cut stream


@pytest.mark.parametrize("dropped", [False, True], ids=["ended", "dropped"])
async def test_a_stream_without_a_finish_is_an_error_and_marked_partial(
    gateway_with: MakeGateway, first: Provider, second: Provider, *, dropped: bool
) -> None:
    """After its first token nobody else goes on with it, and what was heard is in the ledger's row."""
    first.then(CutStream("one two three", dropped=dropped))
    gateway = gateway_with()
    context = gateway.context()
    events = gateway.stream(QUESTION, context=context)
    assert [await anext(events), await anext(events)] == [TextDelta("one "), TextDelta("two ")]
    with pytest.raises(AnswerCut):
        await anext(events)
    [attempt] = context.inferences[0].attempts
    assert (attempt.outcome, attempt.partial, attempt.usage.estimated) == ("cut", True, True)
    assert attempt.usage.output_tokens > 0
    assert (first.count.calls, second.count.calls) == (1, 0)


@pytest.mark.parametrize("event", ['{"id": "chatcmpl-1", "choi', ERROR_EVENT, "<html>"], ids=["cut", "error", "html"])
async def test_garbage_in_the_middle_of_a_stream_is_an_error(
    gateway_with: MakeGateway, first: Provider, second: Provider, event: str
) -> None:
    """Though the stream then ends as it should: what stood there is lost."""
    first.then(GarbledStream(event=event))
    with pytest.raises(AnswerCut):
        await read(gateway_with())
    assert (first.count.calls, second.count.calls) == (1, 0)


# The provider dies before the first token


@pytest.mark.parametrize(
    "death",
    [
        Drop(),
        CutStream(after=0, dropped=True),
        CutStream(after=0),
        GarbledStream(after=0),
        GarbledStream(after=0, event=ERROR_EVENT),
    ],
    ids=["no byte", "dropped", "ended", "garbled", "error event"],
)
async def test_a_death_before_the_first_token_falls_back(
    gateway_with: MakeGateway, first: Provider, second: Provider, death: Behaviour
) -> None:
    """Headers and the opening chunk are no token: the reader sees one whole answer of one model."""
    first.then(death)
    pieces, reply = await read(gateway_with(**ONCE))
    assert (pieces, reply.text, reply.model) == ([TextDelta("second ")], "second ", "openai/two")
    assert (first.count.calls, second.count.calls) == (1, 1)


# Stall in the middle of a stream


async def test_a_stall_ends_after_the_idle_time_and_closes_the_connection(
    gateway_with: MakeGateway, first: Provider, second: Provider
) -> None:
    """It is a timeout, 504, and no failed connection; and nobody else goes on."""
    first.then(StallStream())
    with pytest.raises(DeadlineExceeded, match="CHAT_IDLE_SECONDS") as caught:
        await read(gateway_with(deadline_seconds=10, chat={"idle_seconds": BRIEF_SECONDS}))
    assert caught.value.status == 504
    await first.until(lambda count: (count.open, count.disconnects) == (0, 1))
    assert (first.count.calls, second.count.calls) == (1, 0)


# The client leaves


@pytest.mark.parametrize(
    "behaviour", [Reply("tick " * 9_999, pause=0.01), StallStream(after=1)], ids=["drip", "silent"]
)
async def test_a_reader_who_leaves_closes_the_connection(
    gateway_with: MakeGateway, first: Provider, behaviour: Behaviour
) -> None:
    """Nobody pays for what nobody reads; the ledger's row says that it was cancelled."""
    first.then(behaviour)
    gateway = gateway_with()
    context = gateway.context()
    async with aclosing(gateway.stream(QUESTION, context=context)) as events:
        await anext(events)
        assert first.count.open == 1
    await first.until(lambda count: (count.open, count.disconnects) == (0, 1))
    [attempt] = context.inferences[0].attempts
    assert (attempt.outcome, attempt.partial) == ("cancelled", True)


@pytest.mark.parametrize("way", ["complete", "stream", "embed"])
async def test_a_caller_who_is_cancelled_closes_the_connection(
    gateway_with: MakeGateway, first: Provider, way: str
) -> None:
    """Also before the first byte, and where no stream was asked for."""
    first.then(Hang())
    gateway = gateway_with()
    asking = asyncio.ensure_future(gateway.embed(["a text"]) if way == "embed" else ask(gateway, way))
    await first.until(lambda count: count.open == 1)
    asking.cancel()
    await first.until(lambda count: (count.open, count.disconnects) == (0, 1))
    with pytest.raises(asyncio.CancelledError):
        await asking


# Usage missing


@BOTH_WAYS
async def test_usage_is_asked_for_and_where_it_is_missing_estimated_and_flagged(
    gateway_with: MakeGateway, first: Provider, way: str
) -> None:
    """Unknown is not zero: neither the tokens nor what they cost."""
    first.then(Reply(), NoUsage())
    gateway = gateway_with(chat={"input_price": 1, "output_price": 2})
    counted, guessed = await ask(gateway, way), await ask(gateway, way)
    assert counted.usage == Usage(11, 7)
    assert guessed.usage.estimated
    assert min(guessed.usage.input_tokens, guessed.usage.output_tokens) > 0
    assert guessed.cost_nanousd == guessed.usage.input_tokens * 1_000 + guessed.usage.output_tokens * 2_000


# The cost of a local model


@BOTH_WAYS
async def test_the_price_is_the_configured_models_and_not_that_of_the_name_in_the_reply(
    gateway_with: MakeGateway, first: Provider, way: str
) -> None:
    """The reply names a model with a list price; without a price of one's own the cost is unknown, not zero."""
    first.always(Reply(usage=tokens(1_000, 100, cached=400)))
    priced = {"input_price": 1, "cached_input_price": 0.5, "output_price": 2}
    assert (await ask(gateway_with(chat=priced), way)).cost_nanousd == 600 * 1_000 + 400 * 500 + 100 * 2_000
    assert (await ask(gateway_with(), way)).cost_nanousd is None


# Tool-call fragments


async def test_interleaved_fragments_of_two_tool_calls_become_two_calls(
    gateway_with: MakeGateway, first: Provider
) -> None:
    """Each piece passes with its index, and the whole has both, as it has where no stream was asked for."""
    tools = (Tool(), Tool("get_time", '{"zone": "Europe/Oslo"}', "call_2"))
    first.always(CallTools(tools=tools))
    gateway = gateway_with()
    pieces, streamed = await read(gateway)
    whole = await gateway.complete(QUESTION)
    wanted = tuple(ToolCall(tool.id, tool.name, tool.arguments) for tool in tools)
    assert streamed.tool_calls == whole.tool_calls == wanted
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert [p.index for p in pieces if isinstance(p, ToolCallDelta)][:4] == [0, 1, 0, 1]


@pytest.mark.parametrize(("way", "error"), [("complete", ProviderGarbled), ("stream", AnswerCut)])
async def test_tool_arguments_that_are_no_json_are_an_error(
    gateway_with: MakeGateway, first: Provider, way: str, error: type[ProviderError]
) -> None:
    """They are looked at when they are complete, before anybody calls a tool with them."""
    first.then(CallTools(tools=(Tool(arguments='{"city": Oslo'),)))
    with pytest.raises(error):
        await ask(gateway_with(**ONCE, alone=True), way)


@BOTH_WAYS
async def test_a_tool_call_that_the_limit_of_tokens_cut_is_not_asked_for_again(
    gateway_with: MakeGateway, first: Provider, way: str
) -> None:
    """The same limit would cut it again, and each time is paid for; the finish says that it is not whole."""
    first.then(CallTools(finish="length", tools=(Tool(arguments='{"city": "Os'),)))
    reply = await ask(gateway_with(), way)
    assert (reply.finish_reason, reply.tool_calls[0].arguments) == ("length", '{"city": "Os')
    assert first.count.calls == 1


# Malformed structured output


async def test_malformed_output_is_repaired_a_few_times_and_then_an_error_with_its_text(
    gateway_with: MakeGateway, first: Provider
) -> None:
    """The model is shown its mistake; after MAX_REPAIRS the raw text is kept. All within one context."""

    class City(BaseModel):
        name: str

    gateway = gateway_with(max_repairs=1)
    first.then(Reply("no JSON"), Reply('{"name": "Oslo"}'), *[Reply('{"town": "Oslo"}')] * 9)
    assert (await parse(gateway, QUESTION, City)).value == City(name="Oslo")
    with pytest.raises(InvalidOutput) as caught:
        await parse(gateway, QUESTION, City)
    assert (caught.value.raw, first.count.calls) == ('{"town": "Oslo"}', 4)


# Budget race


async def test_a_budget_holds_against_calls_at_one_time(
    settings_with: MakeSettings, database: Database, first: Provider, second: Provider
) -> None:
    """Each of 20 calls may cost 100 dollars, and does: a budget of 500 lets five through, whoever comes first."""
    first.always(Reply(usage=tokens(1, 100)))
    priced = {"input_price": 0, "output_price": 1_000_000}
    settings = settings_with(chat=priced, chat_2=priced, tenant_budget_usd=500, max_output_tokens=100)
    async with open_gateway(settings, database) as gateway:
        ended = await asyncio.gather(*(gateway.complete(QUESTION) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(end, Completion) for end in ended) == 5
    assert sum(isinstance(end, BudgetExceeded) for end in ended) == 15
    assert (first.count.calls, second.count.calls) == (5, 0)


# Key leak


@pytest.mark.parametrize("status", [400, 401, 429, 500])
@BOTH_WAYS
async def test_a_key_in_the_providers_text_is_seen_by_nobody(
    gateway_with: MakeGateway, first: Provider, status: int, way: str
) -> None:
    """Neither in the error and what it came from, nor in the log, nor in the ledger's row."""
    first.always(Rejected(status, f"Incorrect API key provided: {CANARY}."))
    gateway = gateway_with(**ONCE, alone=True, chat={"api_key": CANARY})
    context = gateway.context()
    with capture_logs() as logs, pytest.raises(ProviderError, match=r"\[redacted\]") as caught:
        await ask(gateway, way, context=context)
    assert first.requests[0].headers["authorization"] == f"Bearer {CANARY}"
    seen = [repr(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__), *map(repr, logs)]
    assert CANARY not in "".join([*seen, repr(context.inferences)])


# Cooldown


async def test_a_single_deployment_is_left_alone_and_tried_again(gateway_with: MakeGateway, first: Provider) -> None:
    """Open after some failures, with 503 and Retry-After and no call; half open later, and closed by one success."""
    first.then(ServerError(), ServerError())
    gateway = gateway_with(**ONCE, alone=True, breaker_failures=2, breaker_seconds=BRIEF_SECONDS)
    for error in (ProviderUnavailable, ProviderUnavailable, DeploymentBusy):
        with pytest.raises(error) as caught:
            await gateway.complete(QUESTION)
    assert (caught.value.status, first.count.calls) == (503, 2)
    assert caught.value.retry_after
    async with asyncio.timeout(20):
        while not await answers(gateway):
            await asyncio.sleep(BRIEF_SECONDS / 10)  # until the time of the breaker is over
    assert first.count.calls == 3


async def answers(gateway: Gateway) -> bool:
    """Whether the gateway does, or has nobody to ask."""
    try:
        await gateway.complete(QUESTION)
    except DeploymentBusy:
        return False
    return True


# Cache


async def test_equal_calls_are_one_and_a_hit_costs_nothing(
    settings_with: MakeSettings, database: Database, first: Provider
) -> None:
    """Eight at a time ask the model once; the ninth, a stream, is a hit with its text, and says what it saved."""
    first.then(Reply("cached", pause=0.05))
    settings = settings_with(cache_mode="on", chat={"input_price": 1, "output_price": 2})
    async with open_gateway(settings, database) as gateway:
        replies = await asyncio.gather(*(gateway.complete(QUESTION) for _ in range(8)))
        pieces, hit = await read(gateway)
    assert {reply.text for reply in replies} == {"cached"}
    assert (pieces, hit.cached, hit.cost_nanousd) == ([TextDelta("cached")], "exact", 0)
    assert (hit.saved_nanousd, first.count.calls) == (11 * 1_000 + 7 * 2_000, 1)


async def test_a_rate_limit_of_all_is_told_with_its_wait(
    gateway_with: MakeGateway, first: Provider, second: Provider
) -> None:
    """Where nobody is left to ask, the last one's Retry-After reaches the caller."""
    first.then(RateLimited(retry_after=200))
    second.then(RateLimited(retry_after=100))
    with pytest.raises(ProviderRateLimited) as caught:
        await gateway_with(deadline_seconds=50).complete(QUESTION)
    assert caught.value.retry_after == 100
