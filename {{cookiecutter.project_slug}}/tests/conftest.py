"""What every test stands on: a real Postgres, real offline models, and no way out to the network."""

import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.db.embedded import EmbeddedPostgres
from app.db.engine import Database, connect, migrate
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.rag.pipeline import Pipeline
from app.settings import Settings

# A width of the test runner's, which a console would keep for ever; taken away before the first one is made.
os.environ.pop("COLUMNS", None)

LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}  # noqa: S104  # compared, not bound
PROJECT = Path(__file__).parent.parent
EVERY_TABLE = (
    *("documents", "index_stamps", "chunk_contexts", "answers", "inferences", "budget_accounts", "budget_reservations"),
    *("completions_cache", "semantic_cache", "semantic_cache_routes", "api_keys", "rate_buckets", "stream_leases"),
    *("idempotency_keys", "uploads", "conversations", "feedback"),
    *("jobs.procrastinate_jobs", "jobs.procrastinate_workers", "jobs.procrastinate_periodic_defers"),
)
# The roles of a server belong to all its databases, and may be somebody else's.
MAY_MAKE_ROLES = """
    SELECT (rolsuper OR rolcreaterole) AND pg_has_role(to_regrole('app_tenant'), 'MEMBER WITH ADMIN OPTION')
        AND pg_has_role(to_regrole('app_worker'), 'MEMBER WITH ADMIN OPTION')
    FROM pg_roles WHERE rolname = current_user
"""

hypothesis_settings.register_profile("project", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis_settings.load_profile("project")


def _stay_on_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse every connection and every name look-up that would leave this machine."""
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in LOOPBACK:
        raise RuntimeError(f"a test tried to connect to {arguments[1]}")
    if event == "socket.getaddrinfo" and (arguments[0] or "") not in LOOPBACK:
        raise RuntimeError(f"a test tried to look up {arguments[0]}")


def pytest_configure() -> None:
    """Close the network before anything is imported, and hide the developer's own settings."""
    sys.addaudithook(_stay_on_loopback)
    for name in list(os.environ):
        if any(name.lower() == field or name.lower().startswith(f"{field}_") for field in Settings.model_fields):
            os.environ.pop(name)
    Settings.model_config["env_file"] = None


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres for this test run: TEST_DATABASE_URL, or the built-in one, faster because it may forget."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    fast = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), fast)
    yield server.start()
    server.stop()
    shutil.rmtree(server.home, ignore_errors=True)


@pytest.fixture(scope="session")
async def migrated_url(database_url: str) -> AsyncIterator[str]:
    """The URL of a database with this version's schema, for a user that is neither its owner nor a superuser.

    Where the user of TEST_DATABASE_URL may make no such user, it is that one's.
    """
    await migrate(database_url)
    name, password = f"app_test_{secrets.token_hex(4)}", secrets.token_hex(16)
    async with connect(database_url) as owner:
        async with owner.engine.begin() as connection:
            may_make_roles = await connection.scalar(text(MAY_MAKE_ROLES))
            if may_make_roles:
                await connection.execute(
                    text(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' NOSUPERUSER NOBYPASSRLS")
                )
                await connection.execute(text(f"GRANT app_tenant, app_worker TO {name}"))
        theirs = make_url(database_url).set(username=name, password=password)
        yield theirs.render_as_string(hide_password=False) if may_make_roles else database_url
        if may_make_roles:
            async with owner.engine.begin() as connection:
                await connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
async def owner(database_url: str, migrated_url: str) -> AsyncIterator[Database]:
    """The empty database for the user that made its tables: for what no application may do."""
    assert migrated_url
    async with connect(database_url) as connected:
        async with connected.engine.begin() as connection:
            await connection.execute(text(f"TRUNCATE {', '.join(EVERY_TABLE)} CASCADE"))
        yield connected


@pytest.fixture
async def database(owner: Database, migrated_url: str) -> AsyncIterator[Database]:
    """The empty database, as the application has it: row policies hold."""
    assert owner
    async with connect(migrated_url) as connected:
        yield connected


@pytest.fixture
def settings(migrated_url: str, tmp_path: Path) -> Settings:
    """Offline models on the test database."""
    return Settings(database_url=migrated_url, data_dir=tmp_path)


@pytest.fixture
def gateway(settings: Settings) -> Gateway:
    """The gateway on offline models."""
    return Gateway(settings)


@pytest.fixture
async def ingester(database: Database, gateway: Gateway, settings: Settings) -> AsyncIterator[Ingester]:
    """Ingest into the empty database."""
    async with Ingester(database, gateway, settings) as opened:
        yield opened


@pytest.fixture
def pipeline(database: Database, gateway: Gateway, settings: Settings) -> Pipeline:
    """Answers from the test database."""
    return Pipeline(database, gateway, settings)
