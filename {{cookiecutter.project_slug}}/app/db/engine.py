"""Connections: from a URL or the built-in Postgres to transactions that belong to one tenant.

Also runs the migrations. Knows nothing of any table.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import ConfigurationError, DatabaseUnavailable
from app.settings import Settings
from app.types import DEFAULT_TENANT

MIGRATIONS = Path(__file__).parent / "migrations"
NOT_MIGRATED = {"42P01", "42703", "42501"}  # no such table, no such column, no rights on it yet
POLICY = "row-level security"  # what breaks a policy has the last of these codes as well, and is a fault of ours
# Policies let a transaction see the rows of this tenant. They do not bind a superuser, so it takes on the role that
# the migrations made; where they could not make it, the user is none.
BELONG_TO_TENANT = """
    SELECT set_config('app.tenant', %(tenant)s, true), set_config('app.every_tenant', %(every)s, true),
        CASE WHEN pg_has_role(to_regrole('app_tenant'), 'MEMBER') THEN set_config('role', 'app_tenant', true) END
"""


@dataclass(frozen=True)
class Database:
    """An engine and the tenant whose rows it reads and writes."""

    engine: AsyncEngine
    tenant: str = DEFAULT_TENANT

    def for_tenant(self, tenant: str) -> "Database":
        """The same connections for another tenant."""
        return replace(self, tenant=tenant)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Commit at the end, roll back on an error; of the tables with policies only the tenant's rows are there.

        Raises:
            DatabaseUnavailable: there is no connection, or it broke.

        """
        async with self._begun(every_tenant=False) as connection:
            yield connection

    @asynccontextmanager
    async def across_tenants(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees the ledger, keys, jobs' rows and caches of every tenant, and nobody's documents.

        For what concerns all of them: settling the ledger, looking up a key, removing what is old. Raises as
        `transaction`. A test names the modules that may use it.
        """
        async with self._begun(every_tenant=True) as connection:
            yield connection

    @asynccontextmanager
    async def _begun(self, *, every_tenant: bool) -> AsyncIterator[AsyncConnection]:
        with lost_connections():
            async with self.engine.begin() as connection:
                every = "on" if every_tenant else ""
                await connection.exec_driver_sql(BELONG_TO_TENANT, {"tenant": self.tenant, "every": every})
                yield connection

    async def is_migrated(self) -> bool:
        """Whether the schema is the one this version of the code was written for, or a newer one's.

        While a new version is rolled out the old one goes on answering.
        """
        with lost_connections():
            async with self.engine.begin() as connection:  # before the first migration there is no role to take on
                known = await connection.scalar(text("SELECT to_regclass('alembic_version')"))
                current = known and await connection.scalar(text("SELECT version_num FROM alembic_version"))
        return bool(current and current >= _newest_revision())


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Connect; without DATABASE_URL start the built-in Postgres, bring its schema up to date, and leave it after."""
    if settings.database_url is not None:
        async with connect(settings.database_url.get_secret_value(), pool_size=settings.database_pool) as database:
            yield database
        return
    from app.db.embedded import EmbeddedPostgres  # noqa: PLC0415  # production has neither the wheel nor the need

    server = EmbeddedPostgres(settings.data_dir)
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        url = await asyncio.shield(starting)
        async with connect(url, pool_size=settings.database_pool) as database:
            if not await database.is_migrated():
                await migrate(url)
            yield database
    finally:
        await asyncio.wait([starting])  # a thread cannot be cancelled, and what it starts has to be stopped
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def connect(url: str, *, pool_size: int = 10) -> AsyncIterator[Database]:
    """A pool of connections to `url`, made when they are needed and closed at the end."""
    engine = create_async_engine(
        _driver_url(url),
        pool_size=pool_size,
        pool_pre_ping=True,
        pool_timeout=10,
        hide_parameters=True,  # questions and documents do not belong into logs
        connect_args={"connect_timeout": 5},
    )
    try:
        yield Database(engine)
    finally:
        await engine.dispose()


@contextmanager
def lost_connections() -> Iterator[None]:
    """Tell an unreachable database from a wrong statement."""
    try:
        yield
    except OperationalError as error:
        said = " ".join(str(error.orig).split())
        raise DatabaseUnavailable(f"the database cannot be reached: {said}") from error
    except PoolTimeout as error:
        raise DatabaseUnavailable("every connection to the database is in use") from error
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) not in NOT_MIGRATED or POLICY in str(error.orig):
            raise
        raise DatabaseUnavailable("the schema is missing or old: run `app migrate`") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailable("the connection to the database broke") from error
        raise


def _driver_url(url: str) -> str:
    """Accept the usual `postgres://` and `postgresql://` and name the driver."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the second for a port that is no number
        raise ConfigurationError("DATABASE_URL is not a URL: postgresql://user:password@host/database") from None
    if parsed.drivername.partition("+")[0] not in {"postgres", "postgresql"}:
        raise ConfigurationError("DATABASE_URL has to name a Postgres database: postgresql://...")
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


async def migrate(url: str) -> None:
    """Bring the schema at `url` to this version's.

    Raises:
        DatabaseUnavailable: there is no connection, or it broke.

    """
    await asyncio.to_thread(_upgrade, _driver_url(url))


def _upgrade(url: str) -> None:
    from alembic import command  # noqa: PLC0415  # slow to import and needed once
    from alembic.config import Config  # noqa: PLC0415  # as above

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    with lost_connections():
        command.upgrade(config, "head")


def _newest_revision() -> str:
    """Migrations are numbered files, so the newest is the last."""
    return max(path.stem.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
