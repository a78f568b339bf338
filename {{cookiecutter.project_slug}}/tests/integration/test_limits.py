"""Limits of keys and tenants over HTTP: exact over processes, told in headers, and closed where nobody can count."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.limits import RateLimits, _duration, one_stream
from app.api.security import Caller
from app.db import limits
from app.db.engine import Database, connect
from app.db.limits import Pour, lease, pour, release
from app.errors import DatabaseUnavailable
from app.gateway import litellm_adapter
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.settings import Settings
from app.telemetry import configure_logging
from app.types import Attempt, Usage
from tests.conftest import PROJECT
from tests.integration.keyed import bearer, in_process, make_key, on_a_socket, with_keys
from tests.integration.test_keys import refusal
from tests.provider import Provider, Reply, StallStream

PATH = "/v1/documents"
QUESTION = {"question": "What does k1 do in BM25?"}
CITED = 'So it is. [1: "Lucene defaults to k1"] [2: "Lucene defaults to k1"] [3: "Lucene defaults to k1"] '
STALLED = StallStream(CITED + "and so on", after=len(CITED.split()) + 1)
AGES = 100_000.0  # a minute that lasts so many seconds leaks nothing while a test runs


@pytest.fixture(scope="module")
def double() -> Iterator[Provider]:
    """One provider for the file."""
    litellm_adapter.load()
    with Provider() as running:
        yield running


@pytest.fixture
def provider(double: Provider) -> Provider:
    """The provider with a clean history."""
    double.reset()
    return double


@pytest.fixture
async def online(settings: Settings, database: Database, gateway: Gateway, provider: Provider) -> Settings:
    """A model behind HTTP, and a document, embedded offline, to ask about."""
    async with Ingester(database, gateway, settings) as ingester:
        await ingester.ingest_files([PROJECT / "corpus" / "bm25.md"])
    return settings.model_validate(
        settings.model_dump() | {"chat": {"model": "openai/test-model", "api_base": provider.url}}
    )


@pytest.fixture
def no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a bucket stays there."""
    monkeypatch.setattr(limits, "MINUTE", AGES)


async def count(database: Database, table: str) -> int:
    """How many rows there are, of every tenant."""
    async with database.across_tenants() as connection:
        return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


async def answer_nothing(_: Scope, __: Receive, send: Send) -> None:
    """An application that does nothing."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def through(
    database: Database, settings: Settings, caller: Caller, app: ASGIApp = answer_nothing, **state: object
) -> Message:
    """Send a request of the caller's through the middleware; how the response starts."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    services = SimpleNamespace(settings=settings, database=database)
    served = SimpleNamespace(state=SimpleNamespace(services=services))
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "app": served, "headers": headers, "state": {"caller": caller, **state}}
    await RateLimits(app)(scope, receive, send)
    return sent[0]


@pytest.fixture
async def fragile(owner: Database, database_url: str) -> AsyncIterator[tuple[Database, Callable[[], Awaitable[None]]]]:
    """A database, and what takes it away: its user is sent off, and may not come back."""
    async with owner.engine.begin() as connection:
        await connection.exec_driver_sql("CREATE ROLE leaver LOGIN IN ROLE app_tenant")

    async def break_off() -> None:
        async with owner.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER ROLE leaver NOLOGIN")
            await connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'leaver'"
            )

    url = make_url(database_url).set(username="leaver").render_as_string(hide_password=False)
    try:
        async with connect(url) as theirs:
            yield theirs, break_off
    finally:
        async with owner.engine.begin() as connection:
            await connection.exec_driver_sql("DROP ROLE leaver")


async def test_a_database_that_goes_away_does_not_spoil_the_answer(
    fragile: tuple[Database, Callable[[], Awaitable[None]]], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be counted after the work is told in the log; a lease ends by itself."""
    theirs, break_off = fragile
    configure_logging(settings)
    limited = settings.model_copy(update={"key_tokens_per_minute": 10, "key_streams": 1})
    attempt = Attempt("m", "ok", datetime.now(UTC), 1, Usage(11, 7))
    context = SimpleNamespace(inferences=[SimpleNamespace(attempts=(attempt,))])

    async def answer_and_break(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_body() -> Message:
            return {"type": "http.request", "body": b'{"stream": 1}'}

        await one_stream(Request(scope, receive_body))
        await break_off()
        await answer_nothing(scope, receive, send)

    caller = Caller(key_id="a")
    work = SimpleNamespace(context=context)
    started = await through(theirs, limited, caller, answer_and_break, work=work)
    assert started["status"] == 204
    logged = "".join(capsys.readouterr())
    assert "a stream counts until its lease ends" in logged
    assert "tokens were not counted" in logged


@pytest.mark.usefixtures("no_leak")
def test_fifty_at_once_on_a_bucket_of_twenty(migrated_url: str, settings: Settings, database: Database) -> None:
    """From five event loops with connections of their own, exactly twenty get through, whatever the order."""
    limited = settings.model_copy(update={"key_requests_per_minute": 20, "tenant_requests_per_minute": 30})
    assert database

    async def ten() -> list[int]:
        async with connect(migrated_url) as own:
            callers = [Caller(key_id="a") for _ in range(10)]
            return [m["status"] for m in await asyncio.gather(*[through(own, limited, c) for c in callers])]

    with ThreadPoolExecutor(5) as pool:
        statuses = [status for loop in pool.map(lambda _: asyncio.run(ten()), range(5)) for status in loop]
    assert (statuses.count(204), statuses.count(429)) == (20, 30)


@pytest.mark.usefixtures("no_leak")
async def test_a_tenants_limit_is_that_of_all_its_keys(settings: Settings, database: Database) -> None:
    """What one key is refused costs the others nothing, and other tenants have their own."""
    limited = settings.model_copy(update={"key_requests_per_minute": 2, "tenant_requests_per_minute": 3})
    asked = [("a", "x"), ("a", "x"), ("a", "x"), ("b", "x"), ("b", "x"), ("c", "y")]
    statuses = [
        (await through(database, limited, Caller(tenant=tenant, key_id=key)))["status"] for key, tenant in asked
    ]
    assert statuses == [204, 204, 429, 204, 429, 204]


async def test_a_bucket_leaks(database: Database) -> None:
    """A minute's worth fills it, half of it leaks in half a minute, and a refusal that is rolled back adds nothing."""
    async with database.transaction() as connection:
        [full] = await pour(connection, "default", [Pour("key:a", "requests", 10, 10)])
        await connection.execute(text("UPDATE rate_buckets SET empty_at = empty_at - interval '30 s'"))
        [half] = await pour(connection, "default", [Pour("key:a", "requests", 10)])
        await connection.execute(text("UPDATE rate_buckets SET empty_at = empty_at - interval '1 day'"))
        [empty] = await pour(connection, "default", [Pour("key:a", "requests", 10, 1)])
    assert [level.remaining for level in (full, half, empty)] == [0, 5, 9]
    assert [round(level.seconds) for level in (full, half, empty)] == [60, 30, 6]
    assert full.overdue <= 0


async def test_the_headers_tell_what_is_left(settings: Settings, database: Database) -> None:
    """Of the key's limit and the tenant's the tighter one, by OpenAI's names; over it 429, with when to come again."""
    changes = {"key_requests_per_minute": 2, "tenant_requests_per_minute": 100, "key_tokens_per_minute": 500}
    headers = bearer(await make_key(database))
    async with in_process(with_keys(settings, **changes)) as client:
        first, second, third = [await client.get(PATH, headers=headers) for _ in range(3)]
    assert [response.status_code for response in (first, second, third)] == [200, 200, 429]
    assert refusal(third, 429) == "too many requests: this API key may have 2 a minute"
    assert third.json()["error"]["code"] == "rate_limited"
    assert 20 <= int(third.headers["retry-after"]) <= 30
    told = [{k: v for k, v in r.headers.items() if k.startswith("x-ratelimit-")} for r in (first, second, third)]
    assert [one["x-ratelimit-remaining-requests"] for one in told] == ["1", "0", "0"]
    assert {one["x-ratelimit-limit-requests"] for one in told} == {"2"}
    assert told[0]["x-ratelimit-reset-requests"].endswith("s")
    assert told[0]["x-ratelimit-limit-tokens"] == told[0]["x-ratelimit-remaining-tokens"] == "500"
    assert told[0]["x-ratelimit-reset-tokens"] == "0ms"
    assert "retry-after" not in first.headers


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-1, "0ms"),
        (0, "0ms"),
        (0.0206, "21ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.999, "59.999s"),
        (60, "1m0s"),
        (3723.4, "62m3.4s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    """Milliseconds below a second, seconds below a minute, then minutes and seconds."""
    assert _duration(seconds) == written


async def test_an_answer_that_is_kept_counts_as_well(settings: Settings, database: Database) -> None:
    """A request that is sent again with its Idempotency-Key, or with one that is none, is told what is left."""
    headers = bearer(await make_key(database))
    async with in_process(with_keys(settings, key_requests_per_minute=3)) as client:
        responses = [
            await client.post("/v1/conversations", headers=headers | {"Idempotency-Key": key})
            for key in ("one", "one", "x" * 256, "one")
        ]
    assert [response.status_code for response in responses] == [201, 201, 400, 429]
    assert responses[1].headers["idempotent-replayed"] == "true"
    assert [response.headers["x-ratelimit-remaining-requests"] for response in responses] == ["2", "1", "0", "0"]


async def test_nobody_in_particular_has_no_limits(settings: Settings, database: Database) -> None:
    """Without keys nothing is counted, and nothing is written."""
    changes = {"key_requests_per_minute": 1, "tenant_requests_per_minute": 1, "worker_concurrency": 0}
    async with in_process(settings.model_copy(update=changes)) as client:
        responses = [await client.get(PATH) for _ in range(3)]
    assert {response.status_code for response in responses} == {200}
    assert not any("x-ratelimit" in name for name in responses[0].headers)
    assert await count(database, "rate_buckets") == 0


async def test_a_key_without_limits_is_not_counted(settings: Settings, database: Database) -> None:
    """Where no limit is set there is nothing to tell and nothing to write."""
    headers = bearer(await make_key(database))
    async with in_process(with_keys(settings, key_requests_per_minute=0, key_streams=0)) as client:
        response = await client.get(PATH, headers=headers)
    assert response.status_code == 200
    assert not any("x-ratelimit" in name for name in response.headers)
    assert await count(database, "rate_buckets") == 0


async def test_where_nobody_can_count_nobody_is_served(settings: Settings) -> None:
    """A database that is away is an error of the middleware's, which is 503, and not a way around the limits."""
    async with connect("postgresql://me@127.0.0.1:1/app") as away:
        with pytest.raises(DatabaseUnavailable):
            await through(away, settings, Caller(key_id="a"))


async def used(database: Database, key: str) -> int:
    """The tokens of all attempts for this key, as the ledger has them."""
    summed = """SELECT sum(input_tokens + output_tokens) FROM attempts a JOIN inferences i ON i.id = a.inference_id
        WHERE api_key_id = :key"""
    async with database.across_tenants() as connection:
        return int(await connection.scalar(text(summed), {"key": key.partition(".")[0]}) or 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_charged_after_the_call(
    online: Settings, database: Database, provider: Provider, *, stream: bool
) -> None:
    """The first request runs into debt, which the key has to wait off; another key goes on."""
    first_key, second_key = [await make_key(database, name) for name in ("a", "b")]
    first, second = bearer(first_key), bearer(second_key)
    provider.always(Reply(CITED))
    limited = with_keys(online, key_tokens_per_minute=10, tenant_tokens_per_minute=1_000)
    body = QUESTION | {"stream": stream}
    async with in_process(limited) as client:
        answered, waiting, other = [await client.post("/v1/ask", json=body, headers=h) for h in (first, first, second)]
    assert [response.status_code for response in (answered, waiting, other)] == [200, 429, 200]
    assert answered.headers["x-ratelimit-remaining-tokens"] == "10"
    assert waiting.headers["x-ratelimit-remaining-tokens"] == "0"
    assert refusal(waiting, 429) == "too many tokens: this API key may have 10 a minute"
    in_debt = 6 * await used(database, first_key) - 60  # a token takes up six seconds of the minute
    assert in_debt - 20 <= int(waiting.headers["retry-after"]) <= in_debt
    assert provider.count.answered == 2


async def test_a_client_that_leaves_pays_for_what_was_said(
    online: Settings, database: Database, provider: Provider
) -> None:
    """Cancelling a stream does not make its tokens free, and gives its lease back."""
    headers = bearer(await make_key(database))
    provider.always(STALLED)
    async with on_a_socket(with_keys(online, key_tokens_per_minute=1, key_streams=1)) as client:
        async with client.stream("POST", "/v1/ask", json=QUESTION | {"stream": True}, headers=headers) as response:
            events = response.aiter_bytes()
            await anext(events)
            assert await count(database, "stream_leases") == 1
        async with asyncio.timeout(20):
            while await count(database, "stream_leases") or not await _in_debt(database):
                await asyncio.sleep(0.01)
        refusal(await client.get(PATH, headers=headers), 429)


async def _in_debt(database: Database) -> bool:
    async with database.across_tenants() as connection:
        found = await connection.scalar(
            text("SELECT count(*) FROM rate_buckets WHERE kind = 'tokens' AND empty_at > now() + interval '1 minute'")
        )
    return bool(found)


async def test_streams_at_a_time(online: Settings, database: Database, provider: Provider) -> None:
    """While one is open the key's next is refused before the model is called; whole answers and other keys go on."""
    first, second, third = [bearer(await make_key(database, name)) for name in ("a", "b", "c")]
    limited = with_keys(online, key_streams=1, tenant_streams=2)
    provider.then(STALLED)
    asking: dict[str, Any] = {"json": QUESTION | {"stream": True}}
    async with on_a_socket(limited) as client, client.stream("POST", "/v1/ask", headers=first, **asking) as response:
        events = response.aiter_bytes()  # to be kept: without it the response is closed
        await anext(events)
        refused = await client.post("/v1/ask", headers=first, **asking)
        otherwise = first | {"Content-Type": "Application/JSON"}  # which means the same
        disguised = await client.post("/v1/ask", headers=otherwise, content=json.dumps(asking["json"]))
        whole = await client.post("/v1/ask", headers=first, json=QUESTION)
        other = await client.post("/v1/ask", headers=second, **asking)
        after = await client.post("/v1/ask", headers=second, **asking)
        async with database.transaction() as connection:  # of another process, on the tenant's account
            assert await lease(connection, "default", str(uuid.uuid4()), {"tenant:default": 2}, seconds=60)
        full = await client.post("/v1/ask", headers=third, **asking)
    asked = (refused, disguised, whole, other, after, full)
    assert [r.status_code for r in asked] == [429, 429, 200, 200, 200, 429]
    assert refusal(refused, 429).startswith("too many streams are open")
    assert refused.headers["retry-after"] == "1"
    assert "x-ratelimit-limit-requests" in refused.headers
    assert provider.count.calls == 4


async def test_a_stream_makes_room_before_its_end_is_told(settings: Settings, database: Database) -> None:
    """Who has heard the end may open the next one at once."""
    held: list[int] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_body() -> Message:
            return {"type": "http.request", "body": b'{"stream": true}'}

        async def send_and_look(message: Message) -> None:
            held.append(await count(database, "stream_leases"))
            await send(message)

        await one_stream(Request(scope, receive_body))
        await answer_nothing(scope, receive, send_and_look)
        held.append(await count(database, "stream_leases"))

    assert await through(database, settings.model_copy(update={"key_streams": 1}), Caller(key_id="a"), stream)
    assert held == [1, 1, 0]


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"[" * 40_000, "application/json", {400, 422}),
        (b'{"question": "x", "stream": "yes"}', "application/json", {409}),
        (b"[]", "application/json", {422}),
        (b"\xff", "application/json", {400, 422}),
        (b"--x--\r\n", "multipart/form-data; boundary=x", {422}),
    ],
)
async def test_a_body_that_is_no_question_is_the_routes_to_refuse(
    settings: Settings, database: Database, content: bytes, content_type: str, status: set[int]
) -> None:
    """The limit of streams looks at the body and says nothing of it; whatever it took for a stream is given back."""
    headers = bearer(await make_key(database)) | {"Content-Type": content_type}
    async with in_process(with_keys(settings, key_streams=1)) as client:
        for path in ("/v1/ask", "/v1/conversations"):
            response = await client.post(path, content=content, headers=headers)
            assert response.status_code in (status if path == "/v1/ask" else {201, 422}), response.text
    assert await count(database, "stream_leases") == 0


async def test_what_a_killed_process_held_stops_counting(database: Database) -> None:
    """A lease that ran out is no stream, and the next one takes its row away; one that was released neither."""
    ids, one = [str(uuid.uuid4()) for _ in range(4)], {"key:a": 1}
    async with database.transaction() as connection:
        assert await lease(connection, "default", ids[0], one, seconds=-1)
        assert await lease(connection, "default", ids[1], one, seconds=60)
        assert not await lease(connection, "default", ids[2], one, seconds=60)
        assert list(await connection.scalars(text("SELECT id::text FROM stream_leases"))) == [ids[1]]
        await release(connection, ids[1], one)
        assert await lease(connection, "default", ids[3], one, seconds=60)


async def test_a_race_for_the_last_stream_has_one_winner(database: Database) -> None:
    """Of ten that ask at the same moment for two places two get one."""

    async def take() -> bool:
        async with database.transaction() as connection:
            return await lease(connection, "default", str(uuid.uuid4()), {"key:a": 2, "tenant:default": 9}, seconds=60)

    assert sum(await asyncio.gather(*[take() for _ in range(10)])) == 2


async def test_a_keys_budget_is_its_own(online: Settings, database: Database, provider: Provider) -> None:
    """A key whose day is spent gets 429 with the seconds until midnight (UTC); another key goes on."""
    first, second = [bearer(await make_key(database, name)) for name in ("a", "b")]
    provider.always(Reply(CITED))
    # A dollar a token that is said: ten at most, seven as it is told.
    priced = online.chat.model_dump() | {"input_price": 0, "output_price": 1_000_000}
    limited = with_keys(online, chat=priced, max_output_tokens=10, key_budget_usd=15)
    async with in_process(limited) as client:
        responses = [await client.post("/v1/ask", json=QUESTION, headers=h) for h in (first, first, second)]
    assert [response.status_code for response in responses] == [200, 429, 200]
    error = responses[1].json()["error"]
    assert (error["code"], "KEY_BUDGET_USD is 15" in error["message"]) == ("budget_exceeded", True)
    assert responses[1].headers["x-should-retry"] == "false"
    assert 1 <= int(responses[1].headers["retry-after"]) <= 86_400
