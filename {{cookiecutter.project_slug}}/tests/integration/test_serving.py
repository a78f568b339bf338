"""`app serve` as a process: how it starts, how it does not, and how it ends with streams open."""

import asyncio
import os
import signal
import socket
import sys
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

from app.api.serving import Server
from app.api.stopping import Stopping
from app.db.engine import Database
from app.errors import ShuttingDown
from tests.conftest import PROJECT
from tests.provider import Provider, Reply

PATIENCE_SECONDS = 30
ENDLESS = Reply("drop " * 99_999, pause=0.01)
FLOOD = Reply("drop " * 999_999)
CHAT = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
AWAY = "postgresql://me:canary@127.0.0.1:1/app"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """A model that goes on and on."""
    with Provider() as running:
        running.always(ENDLESS)
        yield running


async def started(url: str, folder: Path, **settings: str) -> Process:
    """`app serve` on a port of its own."""
    environment = os.environ | {"DATABASE_URL": url, "DATA_DIR": str(folder), "WORKER_CONCURRENCY": "0"} | settings
    command = (sys.executable, "-m", "app", "serve", "--port", settings.get("PORT", "0"))
    environment["PYTHONPATH"] = str(PROJECT)
    return await asyncio.create_subprocess_exec(*command, stderr=PIPE, stdout=PIPE, cwd=folder, env=environment)


@asynccontextmanager
async def serving(url: str, folder: Path, **settings: str) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    """The same once it is ready, with a client."""
    process = await started(url, folder, **settings)
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


async def until(happened: Callable[[], object]) -> None:
    """Wait for it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not happened():
            await asyncio.sleep(0.01)


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
        with socket.create_server(("127.0.0.1", 0)) as listening:
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
async def test_without_its_database_it_does_not_start(tmp_path: Path, url: str, told: str) -> None:
    """One line says why, without the password, and the exit status is 2."""
    process = await started(url, tmp_path)
    _, printed = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 2
    [line] = printed.decode().strip().splitlines()
    assert line.startswith(f"error: {told}")
    assert "canary" not in line


async def test_a_port_that_is_taken_is_told(migrated_url: str, tmp_path: Path) -> None:
    """One line, and the exit status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await started(migrated_url, tmp_path, PORT=port)
        _, printed = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 2
    assert printed.decode().strip().startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
