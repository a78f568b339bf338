"""Clients that leave a real server: the call to the model ends at once, nothing is left, and nothing is an error."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import uvicorn
from sqlalchemy import text
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.disconnect import StopWhenClientLeaves
from app.api.main import create_app
from app.db.engine import Database
from app.gateway import litellm_adapter
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.settings import Settings
from tests.conftest import PROJECT
from tests.provider import Behaviour, Hang, Provider, Reply, StallStream

PATIENCE_SECONDS = 20
QUESTION = {"question": "What does k1 do in BM25?"}
CITED = 'So it is. [1: "Lucene defaults to k1"] [2: "Lucene defaults to k1"] [3: "Lucene defaults to k1"] '
STALLED = StallStream(CITED + "and so on", after=len(CITED.split()) + 1)
DRIPPING = Reply(CITED + "drop " * 99_999, pause=0.01)


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
    """A model behind HTTP that takes one call at a time, and a document, embedded offline, to ask about."""
    async with Ingester(database, gateway, settings) as ingester:
        await ingester.ingest_files([PROJECT / "corpus" / "bm25.md"])
    chat = {"model": "openai/test-model", "api_base": provider.url, "max_concurrency": 1}
    only_this = {"chat": chat, "cache_mode": "off", "worker_concurrency": 0}
    return settings.model_validate(settings.model_dump() | only_this)


@asynccontextmanager
async def serving(app: ASGIApp, *, shutdown_seconds: int = 20) -> AsyncIterator[httpx.AsyncClient]:
    """A real server on loopback, and a client that opens a connection for each request."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=shutdown_seconds))
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not server.started:
            await asyncio.sleep(0)
    url = "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_SECONDS) as client:
        try:
            yield client
        finally:
            server.should_exit = True
            await asyncio.wait_for(running, PATIENCE_SECONDS)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Every task that was begun in here ends."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(PATIENCE_SECONDS):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)


async def outcomes(database: Database, role: str = "chat") -> list[str]:
    """How the calls of the gateway ended, as the ledger has it."""
    async with database.transaction() as connection:
        found = await connection.scalars(
            text("SELECT outcome FROM inferences WHERE role = :role ORDER BY started_at"), {"role": role}
        )
    return list(found)


async def leave(client: httpx.AsyncClient, provider: Provider, *, stream: bool) -> None:
    """Ask, and go as soon as the model has been called."""
    async with nothing_left():
        asking = asyncio.create_task(client.post("/v1/ask", json=QUESTION | {"stream": stream}))
        await provider.until(lambda count: count.open == 1)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await provider.until(lambda count: count.open == 0)


@pytest.mark.parametrize(
    ("behaviour", "stream"),
    [(Hang(), False), (Hang(), True), (Reply("drop " * 99_999, pause=0.01), True)],
    ids=["whole answer", "silent stream", "stream without a citation"],
)
async def test_a_client_that_leaves_before_its_first_byte_ends_the_call(
    online: Settings,
    database: Database,
    provider: Provider,
    capsys: pytest.CaptureFixture[str],
    behaviour: Behaviour,
    *,
    stream: bool,
) -> None:
    """The model's connection closes though nothing has been sent yet, and the slot is free for the next client."""
    async with serving(create_app(online)) as client:
        for _ in range(2):
            provider.then(behaviour)
            await leave(client, provider, stream=stream)
        served = await client.post("/v1/ask", json=QUESTION | {"stream": stream})
    assert served.status_code == 200
    assert (provider.count.disconnects, provider.count.answered) == (2, 1)
    assert await outcomes(database) == ["cancelled", "cancelled", "ok"]
    assert "error" not in capsys.readouterr().err.lower()


@pytest.mark.parametrize("behaviour", [STALLED, DRIPPING], ids=["stalled", "dripping"])
async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_call(
    online: Settings, database: Database, provider: Provider, capsys: pytest.CaptureFixture[str], behaviour: Behaviour
) -> None:
    """Whether the model is silent or still sending, its connection closes when the reader's does."""
    provider.then(behaviour)
    async with serving(create_app(online)) as client:
        async with nothing_left():
            async with client.stream("POST", "/v1/ask", json=QUESTION | {"stream": True}) as answer:
                assert "event: delta" in await anext(answer.aiter_text())
                assert provider.count.disconnects == 0
            await provider.until(lambda count: (count.open, count.disconnects) == (0, 1))
        assert (await client.post("/v1/ask", json=QUESTION)).status_code == 200
    assert await outcomes(database) == ["cancelled", "ok"]
    assert "error" not in capsys.readouterr().err.lower()


async def test_a_server_that_stops_cuts_what_is_late_and_writes_it_down(
    online: Settings, database: Database, provider: Provider
) -> None:
    """After the time to finish the calls that are left are cut: one before its first byte, one in its middle."""
    for behaviour in (STALLED, Hang()):
        provider.then(behaviour)
        async with nothing_left(), serving(create_app(online), shutdown_seconds=1) as client:
            asking = asyncio.create_task(client.post("/v1/ask", json=QUESTION | {"stream": True}))
            await provider.until(lambda count: count.open == 1)
        with suppress(httpx.RemoteProtocolError):
            assert (await asking).status_code == 500
    await provider.until(lambda count: (count.open, count.disconnects) == (0, 2))
    assert await outcomes(database) == ["cancelled", "cancelled"]


async def test_a_client_that_leaves_with_its_whole_answer_cancels_nothing(
    online: Settings, database: Database, provider: Provider
) -> None:
    """To close right after the end is the normal case."""
    async with serving(create_app(online)) as client, nothing_left():
        for stream in (False, True, False, True):
            answer = await client.post("/v1/ask", json=QUESTION | {"stream": stream})
            assert answer.status_code == 200
    assert await outcomes(database) == ["ok"] * 4
    assert provider.count.disconnects == 0


async def test_work_after_the_answer_is_finished_though_the_client_has_gone() -> None:
    """What an application still does when its answer is out is not the client's to end."""
    gone, done = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await receive()
            await PlainTextResponse("all", background=BackgroundTask(later))(scope, receive, send)

    async def later() -> None:
        await gone.wait()
        done.set()

    async with serving(StopWhenClientLeaves(app)) as client:
        assert (await client.get("/")).text == "all"
        gone.set()
        await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)


async def test_an_application_that_watches_for_itself_is_cancelled_too() -> None:
    """Reading on after the request tells it nothing; it ends all the same when the client goes."""
    reading, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, _: Send) -> None:
        if scope["type"] == "http":
            assert (await receive())["body"] == b"question"
            reading.set()
            try:
                await receive()
            finally:
                ended.set()

    async with serving(StopWhenClientLeaves(app)) as client:
        asking = asyncio.create_task(client.post("/", content=b"question"))
        await asyncio.wait_for(reading.wait(), PATIENCE_SECONDS)
        asking.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
