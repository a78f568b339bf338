"""Real servers, a real browser, and pages that report what a page must never do."""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright
from sqlalchemy import text

from app.db.engine import connect
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.settings import Settings
from tests.acceptance.test_walk import free_port
from tests.conftest import EVERY_TABLE, PROJECT
from tests.provider import Provider

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
DOCUMENTS = ("bm25.md", "citations.md", "fallback-and-circuit-breakers.md", "prompt-injection.md")
PATIENCE_SECONDS = 90
POLL_SECONDS = 0.05
PATIENCE_MS = 15_000
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error(`violation of ${event.violatedDirective}`));
"""
# What the browser says of every status from 400 on, and of a server that is gone: those are what some tests are about.
EXPECTED = "Failed to load resource"

Visit = Callable[..., Awaitable[Page]]


class Server:
    """`app serve` in a process of its own, on a port of its own."""

    def __init__(self, folder: Path, database_url: str, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._folder = folder
        self._settings = {"DATABASE_URL": database_url, "DATA_DIR": str(folder), "PYTHONPATH": str(PROJECT)} | settings
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `python -m app` where no `.env` of a developer is read."""
        command = [sys.executable, "-m", "app", *arguments]
        return subprocess.Popen(command, cwd=self._folder, env=os.environ | self._settings, stdout=subprocess.PIPE)

    async def start(self) -> None:
        """Return when it is ready."""
        self._process = self.command("serve", "--port", str(self.port))
        async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient(base_url=self.url) as client:
            while not await _is_ready(client):
                assert self._process.poll() is None, "the server has ended"
                await asyncio.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """End it without a word."""
        if self._process:
            self._process.kill()
            self._process.communicate()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("readyz")).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The Chromium of this machine, which is not the one that Playwright would download."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"there is no {' or '.join(BROWSERS)}, and nothing was tested: apt install chromium")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        await launched.close()


@pytest.fixture(scope="session")
async def filled_url(database_url: str, migrated_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with some documents of the corpus, and nothing else."""
    settings = Settings(database_url=migrated_url, data_dir=tmp_path_factory.mktemp("ingest"))
    async with connect(database_url) as owner, owner.engine.begin() as connection:
        await connection.execute(text(f"TRUNCATE {', '.join(EVERY_TABLE)} CASCADE"))
    async with connect(migrated_url) as database, Ingester(database, Gateway(settings), settings) as ingester:
        for name in DOCUMENTS:
            await ingester.ingest((PROJECT / "corpus" / name).read_bytes(), source=f"corpus/{name}")
    return migrated_url


@pytest.fixture(scope="session")
def running() -> Iterator[Provider]:
    """One provider for all tests."""
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(running: Provider) -> Provider:
    """The provider, with nothing told and nothing remembered."""
    running.reset()
    return running


@pytest.fixture(scope="session")
async def servers(
    filled_url: str, running: Provider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, Server]]:
    """Three servers on one database: without a language model, with one, and with keys."""
    kinds = {
        "offline": {},
        "online": {"CHAT_MODEL": "openai/test-model", "CHAT_API_BASE": running.url, "CHAT_API_KEY": "none"},
        "locked": {"API_KEY_SECRET": secrets.token_hex(32)},
    }
    made = {kind: Server(tmp_path_factory.mktemp(kind), filled_url, **given) for kind, given in kinds.items()}
    try:
        await asyncio.gather(*(server.start() for server in made.values()))
        yield made
    finally:
        for server in made.values():
            server.kill()


@pytest.fixture
def offline(servers: dict[str, Server]) -> Server:
    """The server that quotes sentences."""
    return servers["offline"]


@pytest.fixture
def online(servers: dict[str, Server], provider: Provider) -> Server:
    """The server whose language model does as it is told."""
    assert provider
    return servers["online"]


@pytest.fixture
def locked(servers: dict[str, Server]) -> Server:
    """The server that asks for a key."""
    return servers["locked"]


@pytest.fixture
async def visit(browser: Browser) -> AsyncIterator[Visit]:
    """Open the page of a server in a browser of its own; any request to another host fails the test, and any error."""
    problems: list[str] = []

    async with AsyncExitStack() as opened:

        async def visit(server: Server, **options: Any) -> Page:
            context = await browser.new_context(**options)
            opened.push_async_callback(context.close)
            await context.add_init_script(REPORT_VIOLATIONS)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            _watch(page, server, problems)
            await page.goto(server.url)
            return page

        yield visit
    assert problems == []


def _watch(page: Page, server: Server, problems: list[str]) -> None:
    def on_request(request: Request) -> None:
        if urlsplit(request.url).port != server.port:
            problems.append(f"a request to {request.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(EXPECTED):
            problems.append(message.text)

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(str(error)))
