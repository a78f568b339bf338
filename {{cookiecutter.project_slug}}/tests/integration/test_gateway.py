"""The gateway against a real HTTP endpoint, through litellm: what it retries, what it counts, what it hides."""

import asyncio
import socket
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.db.engine import Database
from app.errors import (
    AnswerCut,
    BudgetExceeded,
    ConfigurationError,
    DeadlineExceeded,
    InvalidInput,
    ProviderError,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from app.gateway.gateway import ChatEvent, Gateway, open_gateway
from app.rag.abstention import ABSTENTION
from app.rag.ingest import Ingester
from app.rag.pipeline import Pipeline
from app.settings import ChatSettings, Settings
from app.types import Completion, Message, TextDelta, ToolCallDelta, Usage
from tests.provider import (
    Behaviour,
    CallTools,
    CutStream,
    Garbage,
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

QUESTION: list[Message] = [{"role": "user", "content": "What is the canary question?"}]
FENCED: list[Message] = [{"role": "user", "content": "<question>\nWhat is BM25?\n</question>"}]
CANARY = "canary-7d41-secret"
BRIEF_SECONDS = 0.5
PATIENCE_SECONDS = 10

MakeGateway = Callable[..., Gateway]


def online(url: str | None, **given: Any) -> Gateway:
    """A gateway whose two roles are played by a provider."""
    chat = {"model": "openai/test-model", "api_base": url} | given.pop("chat", {})
    embedding = {"model": "openai/test-embedding", "api_base": url} | given.pop("embedding", {})
    return Gateway(Settings(chat=chat, embedding=embedding, **given))


async def collect(events: AsyncGenerator[ChatEvent]) -> tuple[str, Completion]:
    """The pieces of a stream joined, and its last event."""
    *pieces, last = [event async for event in events]
    assert isinstance(last, Completion)
    return "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)), last


async def call(gateway: Gateway, role: str) -> object:
    """Do what `role` does: complete, stream or embed."""
    if role == "embed":
        return await gateway.embed(["a text"])
    return await (gateway.complete(QUESTION) if role == "complete" else collect(gateway.stream(QUESTION)))


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Provider]:
    """One provider for the whole file, after the first calls: those load a lot, and some deadlines below are short."""
    with Provider() as running:
        for role in ("complete", "stream", "embed"):
            await call(online(running.url), role)
        yield running


@pytest.fixture
def provider(server: Provider) -> Provider:
    """The provider with a clean history."""
    server.reset()
    return server


@pytest.fixture
def gateway_with(provider: Provider) -> MakeGateway:
    """Makes a gateway on the provider; takes settings."""
    return partial(online, provider.url)


ROLES = pytest.mark.parametrize("role", ["complete", "stream", "embed"])


async def test_a_completion_has_text_finish_and_the_configured_models_name(gateway_with: MakeGateway) -> None:
    """A completion carries what came back, under the name that was configured."""
    reply = await gateway_with().complete(QUESTION)
    assert (reply.text, reply.finish_reason) == ("Hello from the test model.", "stop")
    assert (reply.model, reply.notice) == ("openai/test-model", "")


async def test_a_call_carries_the_messages_the_limits_and_no_key_of_somebody_else(
    gateway_with: MakeGateway, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request holds messages, max_tokens and temperature 0; a key in the environment stays there."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    await gateway_with(max_output_tokens=77).complete(QUESTION)
    [request] = provider.requests
    assert request.body["messages"] == QUESTION
    assert (request.body["model"], request.body["max_tokens"], request.body["temperature"]) == ("test-model", 77, 0)
    assert CANARY not in str(request.headers)


@pytest.mark.parametrize("role", ["complete", "stream"])
async def test_a_model_that_takes_no_temperature_answers_without_one(
    gateway_with: MakeGateway, provider: Provider, role: str
) -> None:
    """A reasoning model gets no temperature, its limit under the name it knows, and one request."""
    assert await call(gateway_with(chat={"model": "openai/o3-mini"}), role)
    [request] = provider.requests
    assert "temperature" not in request.body
    assert request.body["max_completion_tokens"] == 800


async def test_a_stream_gives_pieces_and_then_the_whole(gateway_with: MakeGateway, provider: Provider) -> None:
    """The pieces of a stream join to the text of its completion, which comes last."""
    provider.then(Reply("one two three"))
    text, completion = await collect(gateway_with().stream(QUESTION))
    assert text == completion.text == "one two three "
    assert (completion.finish_reason, completion.usage) == ("stop", Usage(11, 7))


async def test_embeddings_come_in_order_and_in_batches(gateway_with: MakeGateway, provider: Provider) -> None:
    """Each text gets its own vector, and 130 texts take two requests."""
    vectors = await gateway_with().embed(["x" * n for n in range(1, 131)])
    assert [vector[0] for vector in vectors] == list(range(1, 131))
    assert [len(request.body["input"]) for request in provider.requests] == [128, 2]


async def test_usage_is_what_the_provider_counted(gateway_with: MakeGateway) -> None:
    """The provider's count is taken as it is."""
    assert (await gateway_with().complete(QUESTION)).usage == Usage(11, 7, estimated=False)


@pytest.mark.parametrize("role", ["complete", "stream"])
async def test_a_missing_usage_is_estimated_and_says_so(
    gateway_with: MakeGateway, provider: Provider, role: str
) -> None:
    """Where the provider does not count, a guess of four characters a token is flagged as one."""
    provider.then(NoUsage("fifteen letters", finish="length"))
    reply = await call(gateway_with(), role)
    completion = reply[1] if isinstance(reply, tuple) else reply
    assert isinstance(completion, Completion)
    assert completion.usage == Usage(len(QUESTION[0]["content"]) // 3 + 4, 4, estimated=True)
    assert completion.finish_reason == "length"


async def test_the_price_goes_by_the_configured_model(gateway_with: MakeGateway) -> None:
    """A known model costs its list price for the counted tokens, whatever name comes back."""
    reply = await gateway_with(chat={"model": "openai/gpt-4o-mini"}).complete(QUESTION)
    assert reply.cost_nanousd == 11 * 150 + 7 * 600


async def test_an_unknown_price_is_none_and_not_zero(gateway_with: MakeGateway) -> None:
    """A model without a price has an unknown cost."""
    assert (await gateway_with().complete(QUESTION)).cost_nanousd is None


@ROLES
@pytest.mark.parametrize(
    "trouble",
    [
        RateLimited(retry_after=0),
        ServerError(retry_after=0),
        Rejected(408, retry_after=0),
        ServerError(503, retry_after=0),
    ],
    ids=lambda trouble: str(trouble.status),
)
async def test_a_passing_trouble_is_tried_again(
    gateway_with: MakeGateway, provider: Provider, trouble: Behaviour, role: str
) -> None:
    """After a rate limit or a fault on the provider's side the second attempt answers."""
    provider.then(trouble)
    assert await call(gateway_with(), role)
    assert len(provider.requests) == 2


@ROLES
async def test_attempts_are_counted_and_none_is_hidden(
    gateway_with: MakeGateway, provider: Provider, role: str
) -> None:
    """The provider sees MAX_ATTEMPTS requests and not one more, and the last error is raised."""
    provider.then(*[ServerError(retry_after=0)] * 9)
    with pytest.raises(ProviderUnavailable, match=r"\(500\)"):
        await call(gateway_with(max_attempts=2), role)
    assert len(provider.requests) == 2


@ROLES
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ProviderRejected),
        (422, ProviderRejected),
        (401, ProviderMisconfigured),
        (403, ProviderMisconfigured),
        (404, ProviderMisconfigured),
    ],
)
async def test_a_refused_request_is_not_tried_again(
    gateway_with: MakeGateway, provider: Provider, role: str, status: int, error: type[ProviderError]
) -> None:
    """Our own mistake, or a wrong key, is raised after one request."""
    provider.then(Rejected(status))
    with pytest.raises(error, match=rf"\({status}\)"):
        await call(gateway_with(), role)
    assert len(provider.requests) == 1


async def test_a_longer_retry_after_than_the_deadline_is_not_waited_for(
    gateway_with: MakeGateway, provider: Provider
) -> None:
    """A provider that asks for more time than is left is given up at once, and its wish is passed on."""
    provider.then(RateLimited(retry_after=100))
    with pytest.raises(ProviderRateLimited) as caught:
        await gateway_with(deadline_seconds=50).complete(QUESTION)
    assert (caught.value.retry_after, len(provider.requests)) == (100, 1)


@pytest.mark.parametrize("unusable", [None, "inf", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
async def test_an_unusable_retry_after_counts_as_none(
    gateway_with: MakeGateway, provider: Provider, unusable: str | None
) -> None:
    """Only a finite number of seconds is taken from Retry-After."""
    provider.then(RateLimited(retry_after=unusable))
    with pytest.raises(ProviderRateLimited) as caught:
        await gateway_with(max_attempts=1).complete(QUESTION)
    assert caught.value.retry_after is None


@ROLES
async def test_a_key_never_stands_in_an_error(gateway_with: MakeGateway, provider: Provider, role: str) -> None:
    """A provider that repeats the key in its refusal does not bring it into our error or its traceback."""
    chat, embedding = f"{CANARY}-chat", f"{CANARY}-embedding"
    key = embedding if role == "embed" else chat
    provider.then(Rejected(401, f"Incorrect API key provided: {key}. Find yours in the console."))
    gateway = gateway_with(chat={"api_key": chat}, embedding={"api_key": embedding})
    variable = "EMBEDDING" if role == "embed" else "CHAT"
    with pytest.raises(ProviderMisconfigured, match=rf"\[redacted\].*not right: {variable}_API_KEY, ") as caught:
        await call(gateway, role)
    assert provider.requests[0].headers["authorization"] == f"Bearer {key}"
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("role", ["complete", "stream"])
async def test_what_was_asked_does_not_stand_in_an_error(
    gateway_with: MakeGateway, provider: Provider, role: str
) -> None:
    """An error's text is fit for a log: it does not repeat the prompt."""
    provider.then(ServerError(503))
    with pytest.raises(ProviderUnavailable) as caught:
        await call(gateway_with(max_attempts=1), role)
    assert "canary question" not in str(caught.value)


@ROLES
async def test_a_provider_that_hangs_is_left_at_the_deadline(
    gateway_with: MakeGateway, provider: Provider, role: str
) -> None:
    """Silence ends at DEADLINE_SECONDS, in one attempt, with the model's name."""
    provider.then(Hang())
    with pytest.raises(DeadlineExceeded, match=r"openai/test-\w+ did not answer in time \(DEADLINE_SECONDS\)"):
        await call(gateway_with(deadline_seconds=BRIEF_SECONDS), role)
    assert len(provider.requests) == 1


async def test_a_stream_that_stalls_is_left_at_the_deadline(gateway_with: MakeGateway, provider: Provider) -> None:
    """Silence in the middle of a stream ends at the deadline too, and the connection is closed."""
    stalled = StallStream()
    provider.then(stalled)
    with pytest.raises(DeadlineExceeded):
        await collect(gateway_with(deadline_seconds=BRIEF_SECONDS).stream(QUESTION))
    assert await asyncio.to_thread(stalled.left.wait, PATIENCE_SECONDS)


@pytest.mark.parametrize("dropped", [False, True], ids=["ended", "dropped"])
async def test_a_cut_stream_is_an_error_and_not_tried_again(
    gateway_with: MakeGateway, provider: Provider, *, dropped: bool
) -> None:
    """A stream that ends without a finish raises after its pieces; two answers are never glued together."""
    provider.then(CutStream(dropped=dropped))
    events = gateway_with().stream(QUESTION)
    assert [await anext(events), await anext(events)] == [TextDelta("Hello "), TextDelta("from ")]
    with pytest.raises(AnswerCut):
        await anext(events)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("dropped", [False, True], ids=["ended", "dropped"])
async def test_a_stream_that_fails_before_its_first_piece_is_tried_again(
    gateway_with: MakeGateway, provider: Provider, *, dropped: bool
) -> None:
    """Nothing has been shown yet, so another attempt may answer."""
    provider.then(CutStream(after=0, dropped=dropped), Reply("whole"))
    text, _ = await collect(gateway_with().stream(QUESTION))
    assert (text, len(provider.requests)) == ("whole ", 2)


async def test_a_reader_who_leaves_ends_the_call(gateway_with: MakeGateway, provider: Provider) -> None:
    """Closing the stream after its first piece closes the connection, so that nobody pays for the rest."""
    stalled = StallStream(after=1)
    provider.then(stalled)
    async with aclosing(gateway_with().stream(QUESTION)) as events:
        assert await anext(events) == TextDelta("Hello ")
        assert not stalled.left.is_set()
    assert await asyncio.to_thread(stalled.left.wait, PATIENCE_SECONDS)


@pytest.mark.parametrize("body", ["<html>", "null", "[]", "{}", '{"choices": []}'])
async def test_a_reply_that_is_no_reply_is_tried_again(
    gateway_with: MakeGateway, provider: Provider, body: str
) -> None:
    """What cannot be read as a completion is the provider's fault."""
    provider.then(Garbage(body))
    assert (await gateway_with().complete(QUESTION)).text == "Hello from the test model."
    assert len(provider.requests) == 2


@pytest.mark.parametrize("body", ["{}", '{"data": []}', '{"data": [{"index": 0}]}'])
async def test_a_missing_vector_is_an_error(gateway_with: MakeGateway, provider: Provider, body: str) -> None:
    """A reply with too few vectors is refused before anything is stored."""
    provider.then(Garbage(body))
    with pytest.raises(ProviderError, match="0 vectors came for 1 texts"):
        await gateway_with(max_attempts=1).embed(["a text"])


async def test_a_provider_that_is_not_there_is_unavailable(gateway_with: MakeGateway) -> None:
    """Nobody listens on the port: the error says which model."""
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    with pytest.raises(ProviderUnavailable, match="openai/test-model at"):
        await gateway_with(chat={"api_base": f"http://127.0.0.1:{port}/v1"}, max_attempts=1).complete(QUESTION)


async def test_offline_models_take_the_same_path_and_say_what_they_are(gateway: Gateway) -> None:
    """The extractive model completes, streams and costs nothing, and its notice tells a reader about it."""
    completion = await gateway.complete(FENCED)
    text, streamed = await collect(gateway.stream(FENCED))
    assert completion.text == text == streamed.text == "NOT IN THE DOCUMENTS"
    assert (completion.cost_nanousd, completion.usage) == (0, Usage(5, 4))
    assert "no language model was used" in completion.notice
    assert [len(vector) for vector in await gateway.embed(["a", ""])] == [256, 256]


async def test_a_deployment_says_whether_it_is_offline(gateway: Gateway, gateway_with: MakeGateway) -> None:
    """Each role's deployment tells its provider, and only a chat model that is none has a notice."""
    assert gateway.deployments()[0].is_offline
    assert gateway.deployments("embedding")[0].notice == ""
    other = gateway_with(chat={"api_key": CANARY}).deployments()[0]
    assert (other.provider, other.is_offline, other.notice, other.secrets) == ("openai", False, "", (CANARY,))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"chat": {"model": "openai/gpt-4o"}}, "set CHAT_API_KEY"),
        ({"chat": {"model": "azure/x", "api_base": "http://127.0.0.1"}}, "set CHAT_API_KEY"),
        ({"embedding": {"model": "gemini/x"}}, "set EMBEDDING_API_KEY"),
        ({"chat": {"model": "gpt-4o"}}, "CHAT_MODEL is 'gpt-4o'; write provider/model"),
        ({"embedding": {"model": "small"}}, "EMBEDDING_MODEL is 'small'; write provider/model"),
        ({"chat": {"model": "offline/gpt"}}, "CHAT_MODEL is 'offline/gpt'; the offline one is offline/extractive"),
        ({"embedding": {"model": "offline/x"}}, "EMBEDDING_MODEL is 'offline/x'; the offline one is offline/static"),
        ({"chat_2": {"model": "openai/gpt-4o"}}, "set CHAT_2_API_KEY"),
        (
            {"chat_2": {"model": "ollama_chat/x"}},
            "CHAT_MODEL=offline/extractive and CHAT_2_MODEL=ollama_chat/x: an off",
        ),
        ({"embedding_2": {"model": "ollama/x"}}, "EMBEDDING_MODEL=offline/static and EMBEDDING_2_MODEL=ollama/x: an"),
        ({"embedding": {"model": "ollama/x"}, "embedding_2": {"model": "ollama/y"}}, "must be the same model"),
    ],
)
def test_a_deployment_that_cannot_work_is_refused_before_a_call(given: dict[str, Any], told: str) -> None:
    """A missing key or a wrong name is found when the gateway is made; the error says which variable to set."""
    with pytest.raises(ConfigurationError, match=told):
        Gateway(Settings(**given))


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE", "GROQ_API_BASE", "AZURE_OPENAI_ENDPOINT"])
async def test_no_variable_sends_the_key_elsewhere(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Only the settings say where a key goes: an address from the environment receives nothing."""
    monkeypatch.setenv(variable, provider.url)
    unnamed = online(None, chat={"api_key": "sk-canary"}, embedding={"api_key": "sk-canary"}, max_attempts=1)
    with pytest.raises(ProviderError):
        await unnamed.complete(QUESTION)
    assert provider.requests == []


async def test_an_address_where_nobody_listens_is_named() -> None:
    """The message says where the model was looked for, and which setting says so."""
    nowhere = online("http://127.0.0.1:9/v1", max_attempts=1)
    with pytest.raises(ProviderUnavailable, match=r"127\.0\.0\.1:9/v1 cannot be reached.*CHAT_API_BASE"):
        await nowhere.complete(QUESTION)


def test_an_own_endpoint_needs_no_key(gateway_with: MakeGateway) -> None:
    """An OpenAI-compatible server at an address of one's own is used without a key."""
    assert gateway_with().deployments()[0].api_key is None


async def test_quotes_of_a_real_endpoint_are_checked_on_the_way(
    provider: Provider, database: Database, settings: Settings, tmp_path: Path
) -> None:
    """Through the whole pipeline a quote that stands in the passage is kept, and an invented one is dropped."""
    settings = settings.model_copy(update={"chat": ChatSettings(model="openai/test-model", api_base=provider.url)})
    gateway = Gateway(settings)
    source = tmp_path / "tea.md"
    source.write_text("# Tea\n\nGreen tea is brewed at eighty degrees for two minutes.\n")
    async with Ingester(database, gateway, settings) as ingester:
        await ingester.ingest_files([source])
    provider.then(
        Reply('At 80. [1: "brewed at eighty degrees"] Boiling is best. [1: "tea loves boiling water"]'),
        Reply('Boiling is best. [1: "tea loves boiling water"]'),
    )
    pipeline = Pipeline(database, gateway, settings)
    kept, dropped = await pipeline.ask("How hot is green tea?"), await pipeline.ask("How hot?")
    assert [(c.quote, c.source) for c in kept.citations] == [("brewed at eighty degrees", str(source))]
    assert [(r.quote, r.fault) for r in kept.rejected] == [("tea loves boiling water", "fabricated")]
    assert kept.text == "At 80. [1] Boiling is best."
    assert (dropped.abstained, dropped.text, dropped.citations) == (True, ABSTENTION, ())
    assert "eighty degrees for two minutes" in provider.requests[0].body["messages"][1]["content"]


async def test_one_deadline_covers_all_calls_of_an_answer(gateway_with: MakeGateway, provider: Provider) -> None:
    """What the first call used up is not there for the second: it ends at once, and asks nobody."""
    gateway = gateway_with(max_attempts=1)
    context = gateway.context(seconds=BRIEF_SECONDS)
    provider.then(Hang())
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await gateway.complete(QUESTION, context=context)
    assert len(provider.requests) == 1


async def test_the_context_knows_what_all_calls_cost(gateway_with: MakeGateway, provider: Provider) -> None:
    """Embedding, a failed attempt and the answer add up; one unknown price makes the sum unknown."""
    gateway = gateway_with(chat={"model": "openai/gpt-4o-mini"}, embedding={"model": "openai/text-embedding-3-small"})
    context = gateway.context(tenant="acme", api_key_id="key-1")
    await gateway.embed(["a text"], context=context)
    provider.then(ServerError(retry_after=0))
    await gateway.complete(QUESTION, context=context)
    assert context.cost_nanousd == 11 * 20 + 11 * 150 + 7 * 600
    assert [(i.role, i.tenant, i.api_key_id) for i in context.inferences] == [
        ("embedding", "acme", "key-1"),
        ("chat", "acme", "key-1"),
    ]
    await gateway_with().complete(QUESTION, context=context)
    assert context.cost_nanousd is None


async def test_cached_tokens_have_the_providers_lower_price(gateway_with: MakeGateway, provider: Provider) -> None:
    """Tokens that the provider had read before are counted apart and cost less."""
    provider.then(Reply(usage=tokens(100, 10, cached=40)))
    reply = await gateway_with(chat={"model": "openai/gpt-4o-mini"}).complete(QUESTION)
    assert reply.usage == Usage(100, 10, cached_tokens=40)
    assert reply.cost_nanousd == 60 * 150 + 40 * 75 + 10 * 600


async def test_prices_of_the_settings_win(gateway_with: MakeGateway) -> None:
    """A price per million tokens that the settings name is taken before litellm's."""
    chat = {"model": "openai/gpt-4o-mini", "input_price": 1, "output_price": 2}
    assert (await gateway_with(chat=chat).complete(QUESTION)).cost_nanousd == 11 * 1_000 + 7 * 2_000


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
RAIN = Tool(name="weather", arguments='{"city": "Cork"}')


async def test_tool_calls_pass_through(gateway_with: MakeGateway, provider: Provider) -> None:
    """The tools go out as they are, and the calls come back with their arguments."""
    provider.then(CallTools(tools=(RAIN,)))
    reply = await gateway_with().complete(QUESTION, parameters={"tools": [WEATHER], "tool_choice": "auto"})
    assert provider.requests[0].body["tools"] == [WEATHER]
    assert [(c.name, c.arguments) for c in reply.tool_calls] == [("weather", '{"city": "Cork"}')]
    assert reply.finish_reason == "tool_calls"


async def test_pieces_of_a_tool_call_join_to_the_call(gateway_with: MakeGateway, provider: Provider) -> None:
    """In a stream they come as deltas, and whole in the completion."""
    provider.then(CallTools(tools=(RAIN,)))
    events = [event async for event in gateway_with().stream(QUESTION, parameters={"tools": [WEATHER]})]
    pieces = [event for event in events if isinstance(event, ToolCallDelta)]
    assert "".join(piece.arguments for piece in pieces) == '{"city": "Cork"}'
    assert isinstance(events[-1], Completion)
    assert events[-1].tool_calls[0].name == pieces[0].name == "weather"


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE: list[Message] = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]}
]


async def test_a_picture_goes_to_a_deployment_that_takes_pictures(
    gateway_with: MakeGateway, provider: Provider
) -> None:
    """The first choice does not, so nobody asks it."""
    seeing = {"model": "openai/seeing", "api_base": provider.url, "images": True}
    reply = await gateway_with(chat_2=seeing).complete(PICTURE)
    assert reply.model == "openai/seeing"
    assert provider.requests[0].body["messages"] == PICTURE


@pytest.mark.parametrize("role", ["complete", "stream"])
async def test_a_picture_that_nobody_takes_is_refused(gateway_with: MakeGateway, provider: Provider, role: str) -> None:
    """The error names the setting, and no call is made."""
    with pytest.raises(InvalidInput, match="CHAT_IMAGES=true"):
        await (gateway_with().complete(PICTURE) if role == "complete" else collect(gateway_with().stream(PICTURE)))
    assert provider.requests == []


async def test_a_role_that_nobody_plays_is_an_error_that_names_the_setting(gateway_with: MakeGateway) -> None:
    """The judge has no model unless one is set."""
    with pytest.raises(ConfigurationError, match="set JUDGE_MODEL"):
        await gateway_with().complete(QUESTION, role="judge")
    assert (await gateway_with(judge={"model": "offline/extractive"}).complete(FENCED, role="judge")).cost_nanousd == 0


async def test_a_cached_answer_is_replayed_as_a_stream(provider: Provider, database: Database) -> None:
    """The second time nobody is called: one piece, then the completion, marked, at no cost."""
    settings = Settings(chat={"model": "openai/gpt-4o-mini", "api_base": provider.url}, cache_mode="on")
    async with open_gateway(settings, database) as gateway:
        first = await gateway.complete(QUESTION)
        text, again = await collect(gateway.stream(QUESTION))
    assert (text, again.text) == (first.text, first.text)
    assert (again.cached, again.cost_nanousd, again.saved_nanousd) == ("exact", 0, first.cost_nanousd)
    assert len(provider.requests) == 1


def test_the_deployments_of_a_role_stand_in_the_order_of_their_numbers(gateway_with: MakeGateway) -> None:
    """First the one without a number; the variables that describe it are told by the deployment."""
    gateway = gateway_with(chat_3={"model": "ollama_chat/third"}, chat_2={"model": "ollama_chat/second"})
    order = [(deployment.variable, deployment.model) for deployment in gateway.deployments()]
    assert order == [("CHAT", "openai/test-model"), ("CHAT_2", "ollama_chat/second"), ("CHAT_3", "ollama_chat/third")]


@pytest.mark.parametrize("model", ["groq/x", "mistral/x", "deepseek/x"])
async def test_no_variable_redirects_any_provider(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Every provider has a variable of its own for its address; none of them is obeyed."""
    name = model.partition("/")[0].upper()
    for ending in ("API_BASE", "BASE_URL", "API_BASE_URL"):
        monkeypatch.setenv(f"{name}_{ending}", provider.url)
    key = {"api_key": "sk-canary"}
    elsewhere = online(None, chat={"model": model} | key, embedding=key, max_attempts=1, deadline_seconds=5)
    with pytest.raises(ProviderError):
        await elsewhere.complete(QUESTION)
    assert provider.requests == []


@pytest.mark.parametrize("trouble", [RateLimited(retry_after=0), ServerError(retry_after=0)])
async def test_a_budget_with_room_for_one_call_has_room_for_its_retry(
    provider: Provider, database: Database, trouble: Behaviour
) -> None:
    """What was set aside for an attempt that cost nothing is free again for the next."""
    chat = {"model": "openai/x", "api_base": provider.url, "input_price": 1, "output_price": 1_000}
    settings = Settings(chat=chat, tenant_budget_usd=1, max_output_tokens=600)
    provider.then(trouble)
    async with open_gateway(settings, database) as gateway:
        assert (await gateway.complete(QUESTION)).text
        with pytest.raises(BudgetExceeded):
            await asyncio.gather(*(gateway.complete(QUESTION) for _ in range(2)))


async def test_a_hit_is_a_row_in_the_ledger(provider: Provider, database: Database) -> None:
    """It says from which cache it came, and what it saved."""
    settings = Settings(chat={"model": "openai/gpt-4o-mini", "api_base": provider.url}, cache_mode="on")
    async with open_gateway(settings, database) as gateway:
        context = gateway.context(tenant="acme")
        for _ in range(2):
            await gateway.complete(QUESTION, context=context)
    async with database.for_tenant("acme").transaction() as connection:
        query = text("SELECT tenant, outcome, cached, saved_nanousd FROM inferences ORDER BY started_at")
        rows = [tuple(row) for row in await connection.execute(query)]
    assert rows == [("acme", "ok", "", None), ("acme", "ok", "exact", 11 * 150 + 7 * 600)]


async def test_retry_after_is_waited_for(gateway_with: MakeGateway, provider: Provider) -> None:
    """The second attempt comes when the provider said, and not before."""
    provider.then(RateLimited(retry_after=0.4))
    began = time.monotonic()
    await gateway_with().complete(QUESTION)
    assert time.monotonic() - began >= 0.4


@ROLES
async def test_the_deadline_is_shorter_than_a_deployments_own_patience(
    gateway_with: MakeGateway, provider: Provider, role: str
) -> None:
    """With half a minute for a reply and half a second for the answer, the answer's time counts."""
    provider.then(Hang())
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineExceeded):
            await call(gateway_with(deadline_seconds=BRIEF_SECONDS, max_attempts=1), role)


async def test_a_slow_reader_does_not_outlast_the_deadline(gateway_with: MakeGateway, provider: Provider) -> None:
    """Also what has arrived already is not handed out after the deadline."""
    provider.then(Reply("word " * 50))

    async def read_slowly() -> None:
        async for _ in gateway_with(deadline_seconds=BRIEF_SECONDS).stream(QUESTION):
            await asyncio.sleep(BRIEF_SECONDS / 4)

    with pytest.raises(DeadlineExceeded):
        await read_slowly()


async def test_an_answer_may_repeat_itself(gateway_with: MakeGateway, provider: Provider) -> None:
    """A hundred equal pieces and more are no fault."""
    provider.then(Reply("word " * 150))
    streamed, _ = await collect(gateway_with().stream(QUESTION))
    assert streamed.split() == ["word"] * 150


async def test_a_parameter_that_would_redirect_the_call_is_refused(
    gateway_with: MakeGateway, provider: Provider
) -> None:
    """Nothing is sent anywhere."""
    with pytest.raises(InvalidInput, match="unknown parameters: api_base"):
        await gateway_with().complete(QUESTION, parameters={"api_base": "http://127.0.0.1:1"})
    assert provider.requests == []


async def test_a_tenant_is_named_in_print(gateway_with: MakeGateway) -> None:
    """A name that Postgres would refuse is refused before it can spoil a batch of others."""
    with pytest.raises(InvalidInput, match="cannot be printed"):
        gateway_with().context(tenant="ac\0me")


async def test_parameters_go_to_the_provider_under_openais_names(gateway_with: MakeGateway, provider: Provider) -> None:
    """What a caller gives wins over the defaults."""
    await gateway_with().complete(QUESTION, parameters={"temperature": 0.7, "seed": 3, "stop": ["x"], "max_tokens": 5})
    sent = provider.requests[0].body
    assert [sent[name] for name in ("temperature", "seed", "stop", "max_tokens")] == [0.7, 3, ["x"], 5]


async def test_a_picture_may_be_as_large_as_the_settings_allow(gateway_with: MakeGateway, provider: Provider) -> None:
    """MAX_ATTACHMENT_BYTES is looked at before a call is made."""
    seeing = {"model": "openai/seeing", "images": True}
    with pytest.raises(InvalidInput, match="message 1"):
        await gateway_with(chat=seeing, max_attachment_bytes=10).complete(PICTURE)
    assert provider.requests == []


async def test_a_cached_answer_that_is_not_accepted_is_asked_for_again(provider: Provider, database: Database) -> None:
    """What one caller took is not forced upon another who wants more."""
    settings = Settings(chat={"model": "openai/x", "api_base": provider.url}, cache_mode="on")
    async with open_gateway(settings, database) as gateway:
        await gateway.complete(QUESTION)
        again = await gateway.complete(QUESTION, accept=lambda completion: "Goodbye" in completion.text)
    assert (again.cached, len(provider.requests)) == ("", 2)
