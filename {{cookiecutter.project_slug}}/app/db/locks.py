"""A lock for as long as somebody works, over every process on this database. Knows nothing of what is worked on."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.engine import Database, lost_connections

# The seeds 0 to 2 are taken, in `stamps` and in `vectors`.
TRY = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 3))")
RELEASE = text("SELECT pg_advisory_unlock(hashtextextended(:name, 3))")


@asynccontextmanager
async def try_lock(database: Database, name: str) -> AsyncIterator[bool]:
    """Give whether nobody else holds it; it is then held to the end, on a connection of its own.

    A process that is killed holds it no longer, and one whose connection broke does not either.

    Raises:
        DatabaseUnavailable: there is no connection.

    """
    with lost_connections():
        plain = await database.engine.connect()
    async with aclosing(plain):
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")  # an open transaction hinders vacuum
        with lost_connections():
            held = bool(await connection.scalar(TRY, {"name": name}))
        try:
            yield held
        finally:
            with suppress(DBAPIError):  # the connection broke, and the lock went with it
                if held:
                    await connection.execute(RELEASE, {"name": name})
