"""The application with API keys, in process and on a real socket, for the tests of who may ask and how much."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import uvicorn
from pydantic import SecretStr

from app.api.main import create_app
from app.db.engine import Database
from app.db.keys import NewKey, create_key
from app.settings import Settings
from app.types import DEFAULT_TENANT, SCOPES, Scope

PATIENCE_SECONDS = 20
PEPPER = SecretStr(secrets.token_hex(32))


async def make_key(
    database: Database,
    name: str = "shop",
    *,
    tenant: str = DEFAULT_TENANT,
    scopes: frozenset[Scope] = SCOPES,
    lifetime: timedelta | None = None,
) -> str:
    """A new key, whole."""
    async with database.for_tenant(tenant).transaction() as connection:
        return await create_key(connection, PEPPER, NewKey(tenant, name, scopes, lifetime))


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def with_keys(settings: Settings, **changes: object) -> Settings:
    """The settings with a secret to hash keys with, and no worker."""
    return Settings.model_validate(
        {**settings.model_dump(), "api_key_secret": PEPPER, "worker_concurrency": 0, **changes}
    )


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The application, started, and a client that sees what a browser on this machine would see."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@asynccontextmanager
async def on_a_socket(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The same on a real server, whose streams can be left."""
    config = uvicorn.Config(create_app(settings), port=0, log_config=None, timeout_graceful_shutdown=PATIENCE_SECONDS)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not server.started:
            await asyncio.sleep(0)
    url = "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        try:
            yield client
        finally:
            server.should_exit = True
            await asyncio.wait_for(running, PATIENCE_SECONDS)
