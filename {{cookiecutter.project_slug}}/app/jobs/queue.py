"""The queue of background jobs, in the Postgres schema `jobs`: opened by each process that puts jobs or does them.

Its library is imported when it is opened. Knows nothing of what is done.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.db.engine import Database
from app.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from procrastinate import App

CONNECTIONS = 4  # of one process, beside the database's own, and one more that a worker listens on
WAIT_SECONDS = 10  # for one of them


@dataclass(frozen=True)
class Queue:
    """What jobs are put into. A job holds ids and no text: whoever may read the queue learns nothing of documents."""

    app: "App"

    async def put(self, task: str, *, lock: str, once: str, priority: int = 0, **ids: str) -> None:
        """Have `task` done with these ids; jobs of one `lock` are done one by one.

        The highest `priority` comes first, and among equals the one that was put first. Of jobs with the same `once`
        at most one waits: then this puts no other.

        Raises:
            DatabaseUnavailable: the queue cannot be reached.

        """
        from procrastinate.exceptions import AlreadyEnqueued, ConnectorException  # noqa: PLC0415  # see above

        try:
            await self.app.configure_task(task, lock=lock, queueing_lock=once, priority=priority).defer_async(**ids)
        except AlreadyEnqueued:
            pass
        except ConnectorException as error:
            raise DatabaseUnavailable("the queue of background jobs cannot be reached") from error


@asynccontextmanager
async def open_queue(database: Database) -> AsyncIterator[Queue]:
    """The queue on the same server as `database`, with a few connections of its own, made when they are needed."""
    from procrastinate import App, PsycopgConnector  # noqa: PLC0415  # see above

    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connector = PsycopgConnector(
        conninfo=url,
        kwargs={"options": "-c search_path=jobs", "connect_timeout": 5},
        min_size=0,
        max_size=CONNECTIONS,
        timeout=WAIT_SECONDS,
    )
    app = App(connector=connector)
    async with app.open_async():
        yield Queue(app)
