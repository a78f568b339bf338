"""`app serve` as a process: how it starts, how it does not, and how it ends with streams open."""

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import text
from starlette.types import Receive, Scope, Send

from app.api.main import create_app
from app.api.serving import Server, _bound, _url, serve
from app.api.stopping import Stopping
from app.db.engine import Database
from app.errors import ShuttingDown
from app.settings import Settings
from tests.conftest import PROJECT
from tests.integration.conftest import Command
from tests.provider import Hang, Provider, Reply

PATIENCE_SECONDS = 30
ENDLESS = Reply("drop " * 99_999, pause=0.01)
FLOOD = Reply("drop " * 999_999)
CHAT = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
MANY = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 100}] * 160}  # 48,000 values
AWAY = "postgresql://me:canary@127.0.0.1:1/app"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """A model that goes on and on."""
    with Provider() as running:
        running.always(ENDLESS)
        yield running


@asynccontextmanager
async def serving(url: str, folder: Path, **settings: str) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    """`app serve` once it is ready, and a client."""
    given = {"DATABASE_URL": url, "DATA_DIR": str(folder), "WORKER_CONCURRENCY": "0", "PYTHONPATH": str(PROJECT)}
    command = (sys.executable, "-m", "app", "serve", "--port", "0")
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE, cwd=folder, env=os.environ | given | settings)
    assert process.stderr
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            address = (await process.stderr.readline()).split()[0].decode()
            async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_SECONDS) as client:
                while (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.05)
                yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Reader:
    """A client that reads a stream to its end."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.begun = asyncio.Event()
        self.text = ""
        self.done = asyncio.create_task(self._read(client))

    async def _read(self, client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=CHAT) as response:
            async for piece in response.aiter_text():
                self.text += piece
                if "drop" in self.text:
                    self.begun.set()


def model(provider: Provider, **more: Any) -> dict[str, str]:
    """The settings for it."""
    given = {"CHAT_MODEL": "openai/test", "CHAT_API_BASE": provider.url, "CHAT_INPUT_PRICE": "1"}
    return {**given, "CHAT_OUTPUT_PRICE": "1", **more}


async def outcomes(database: Database) -> list[tuple[str, bool]]:
    """How each call ended, and whether something had come, as the ledger has it."""
    query = "SELECT i.outcome, a.partial FROM inferences i JOIN attempts a ON a.inference_id = i.id"
    async with database.across_tenants() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def test_open_streams_are_told_when_the_server_stops(
    migrated_url: str, database: Database, provider: Provider, tmp_path: Path
) -> None:
    """It is not ready, takes nothing new, gives the open ones their time and a last event, and ends with 0.

    A client that reads nothing does not keep it, and the ledger knows of each call.
    """
    async with serving(migrated_url, tmp_path, **model(provider, SHUTDOWN_SECONDS="1")) as (process, client):
        readers = [Reader(client) for _ in range(3)]
        await asyncio.wait_for(asyncio.gather(*(reader.begun.wait() for reader in readers)), PATIENCE_SECONDS)
        provider.then(FLOOD)
        async with client.stream("POST", "/v1/chat/completions", json=CHAT):  # and is not read
            process.send_signal(signal.SIGTERM)
            while (ready := await client.get("/readyz")).status_code == 200:
                pass
            refused = await client.post("/v1/chat/completions", json=CHAT)
            await asyncio.wait_for(asyncio.gather(*(reader.done for reader in readers)), PATIENCE_SECONDS)
            status = await asyncio.wait_for(process.wait(), 20)
    assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert ["shutting_down" in reader.text.strip().splitlines()[-1] for reader in readers] == [True] * 3
    assert status == 0
    assert await outcomes(database) == [("cancelled", True)] * 4


async def test_a_probe_is_answered_while_large_bodies_are_checked(
    migrated_url: str, database: Database, tmp_path: Path
) -> None:
    """What a body may hold is bounded, so that an orchestrator does not restart a process that only reads."""
    assert database
    waits = []
    async with serving(migrated_url, tmp_path) as (_, client):
        posts = [asyncio.create_task(client.post("/v1/chat/completions", json=MANY)) for _ in range(8)]
        while not all(post.done() for post in posts):
            begun = time.monotonic()
            assert (await client.get("/livez")).status_code == 200
            waits.append(time.monotonic() - begun)
    assert {post.result().status_code for post in posts} == {400}, "no model is named"
    assert max(waits) < 5, "probes wait for 5 seconds and longer; on an idle machine it is a fraction of one"


@pytest.mark.parametrize(("proxy", "status"), [("127.0.0.1", 401), ("203.0.113.9", 200)])
async def test_a_proxy_that_is_named_is_believed(
    migrated_url: str, database: Database, tmp_path: Path, proxy: str, status: int
) -> None:
    """FORWARDED_ALLOW_IPS says whose word counts for who asks: another machine needs a key, and this one does not."""
    assert database
    async with serving(migrated_url, tmp_path, FORWARDED_ALLOW_IPS=proxy) as (_, client):
        response = await client.get("/v1/documents", headers={"X-Forwarded-For": "203.0.113.7"})
    assert response.status_code == status


async def test_it_tells_which_models_are_asked_in_which_order(
    migrated_url: str, database: Database, provider: Provider, tmp_path: Path
) -> None:
    """Once it listens, with their addresses and without their keys."""
    assert database
    second = {"CHAT_2_MODEL": "openai/second", "CHAT_2_API_BASE": provider.url, "CHAT_2_INPUT_PRICE": "1"}
    keys = {"CHAT_API_KEY": "canary-1", "CHAT_2_API_KEY": "canary-2", "CHAT_2_OUTPUT_PRICE": "1"}
    async with serving(migrated_url, tmp_path, **model(provider, **second, **keys)) as (process, _):
        assert process.stderr
        chat, embedding = [(await process.stderr.readline()).decode() for _ in range(2)]
    assert chat == f"  chat: openai/test at {provider.url}, then openai/second at {provider.url}\n"
    assert embedding == "  embedding: offline/static\n"


async def until(happened: Callable[[], object]) -> None:
    """Wait for it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not happened():
            await asyncio.sleep(0.01)


async def until_workers(owner: Database, count: int) -> None:
    """So many workers are at the queue."""
    async with asyncio.timeout(PATIENCE_SECONDS), owner.engine.begin() as connection:
        while await connection.scalar(text("SELECT count(*) FROM jobs.procrastinate_workers")) != count:
            await asyncio.sleep(0.05)


class Work:
    """A server in this process, without an application, and one request to it."""

    def __init__(self, seconds: float) -> None:
        self.stopping = Stopping()
        self.begun = asyncio.Event()
        config = uvicorn.Config(self._app, interface="asgi3", lifespan="off", log_config=None)
        self.server = Server(config, self.stopping, seconds)

    async def _app(self, _: Scope, __: Receive, send: Send) -> None:
        with suppress(ShuttingDown):
            async with self.stopping.limited(PATIENCE_SECONDS):
                self.begun.set()
                await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body"})

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[asyncio.Task[None]]:
        """The server, while the request is open, and then until the server has ended."""
        with socket.create_server(("127.0.0.1", 0)) as listening, self.server.taking_signals():
            serving = asyncio.create_task(self.server.serve(sockets=[listening]))
            await until(lambda: self.server.started)
            host, port = listening.getsockname()
            async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
                asked = asyncio.create_task(client.get(f"http://{host}:{port}/"))
                await asyncio.wait_for(self.begun.wait(), PATIENCE_SECONDS)
                yield serving
                await asyncio.wait_for(serving, PATIENCE_SECONDS)
                assert (await asked).status_code == 503


async def test_a_second_signal_ends_it_at_once() -> None:
    """What is open is told now, and not in five minutes."""
    work = Work(seconds=300)
    async with work.going_on() as serving:
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: work.stopping.begun)
        assert (serving.done(), work.stopping.cut) == (False, False)
        os.kill(os.getpid(), signal.SIGTERM)
    assert work.stopping.cut


async def test_the_whole_of_it_starts_and_ends_in_a_loop(settings: Settings, database: Database) -> None:
    """The address that is announced answers; a signal later it is over, and nothing is left."""
    assert database
    before, announced = asyncio.all_tasks(), asyncio.Queue[str]()
    given = settings.model_copy(update={"port": 0, "worker_concurrency": 0})
    serving = asyncio.create_task(serve(given, announced.put_nowait))
    url = await asyncio.wait_for(announced.get(), PATIENCE_SECONDS)
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(f"{url}/livez")).json() == {"status": "ok"}
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, PATIENCE_SECONDS)
    assert asyncio.all_tasks() == before


async def test_the_worker_takes_no_job_from_the_first_signal_on(settings: Settings, owner: Database) -> None:
    """It leaves the queue while open streams still have their time."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        await until_workers(owner, 1)
        app.state.stopping.begin()
        await until_workers(owner, 0)


@pytest.mark.usefixtures("database")
async def test_what_is_open_keeps_its_database_to_the_end(settings: Settings) -> None:
    """The application waits for work that is tidied up after the server stopped waiting, and closes then."""
    app = create_app(settings.model_copy(update={"worker_concurrency": 0}))

    async def work() -> int:
        async with app.state.stopping.limited(PATIENCE_SECONDS):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.sleep(0.2)
            async with app.state.services.database.transaction() as connection:
                return int(await connection.scalar(text("SELECT 1")) or 0)

    async with app.router.lifespan_context(app):
        working = asyncio.create_task(work())
        await asyncio.sleep(0)
        working.cancel()
    assert working.done()
    assert await working == 1


async def test_a_second_signal_kills_nothing(
    migrated_url: str, database: Database, provider: Provider, tmp_path: Path
) -> None:
    """A job that is being done then keeps the process until it is put back, and it ends with 0."""
    provider.then(Hang())
    given = {"EMBEDDING_MODEL": "openai/test", "EMBEDDING_API_BASE": provider.url, "EMBEDDING_INPUT_PRICE": "1"}
    given |= {"WORKER_CONCURRENCY": "1", "SHUTDOWN_SECONDS": "2"}
    async with serving(migrated_url, tmp_path, **given) as (process, client):
        sent = (await client.post("/v1/documents", files={"file": ("note.md", b"# Note")})).json()
        while (await client.get(f"/v1/uploads/{sent['id']}")).json()["status"] != "running":
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
    async with database.across_tenants() as connection:
        assert [tuple(row) for row in await connection.execute(text("SELECT status, attempts FROM uploads"))] == [
            ("queued", 0)
        ]


async def test_time_ends_it_too() -> None:
    """SHUTDOWN_SECONDS after the first signal."""
    work = Work(seconds=0.2)
    async with work.going_on():
        os.kill(os.getpid(), signal.SIGTERM)
    assert work.stopping.cut


@pytest.mark.parametrize(
    ("url", "told"),
    [(AWAY, "the database cannot be reached"), ("mysql://me:canary@host/db", "DATABASE_URL has to name a Postgres")],
)
def test_without_its_database_it_does_not_start(
    app: Command, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    """One line says why, without the password, and the exit status is 2."""
    monkeypatch.setenv("DATABASE_URL", url)
    ended = app("serve", "--port", "0")
    [line] = ended.err.splitlines()
    assert ended.status == 2
    assert line.startswith(f"error: {told}")
    assert "canary" not in line


def test_a_port_that_is_taken_is_told(app: Command) -> None:
    """One line, and the exit status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = app("serve", "--port", str(port))
    assert (ended.status, ended.err) == (2, f"error: cannot listen on 127.0.0.1:{port}: Address already in use")


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
def test_the_address_is_one_that_can_be_opened(host: str, url: str) -> None:
    """IPv6 stands in brackets, and the port is the real one."""
    with _bound(host, 0) as bound:
        assert _url(bound) == f"{url}{bound.getsockname()[1]}"
