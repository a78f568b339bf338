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
# Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), where a job's tag is its priority, turned around: one
# more than that of its tenant's last job, and no less than that of the job whose turn is next, or was last.
TURN = """
    SELECT coalesce(least(
        coalesce(
            max(priority) FILTER (WHERE status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now())),
            min(priority) FILTER (WHERE status = 'doing')
        ),
        min(priority) FILTER (WHERE args ->> 'tenant' = %(tenant)s) - 1
    ), 0) AS priority
    FROM procrastinate_jobs WHERE status IN ('todo', 'doing') AND args ->> 'tenant' IS NOT NULL
"""


@dataclass(frozen=True)
class Queue:
    """What jobs are put into. A job holds ids and no text: whoever may read the queue learns nothing of documents."""

    app: "App"

    async def put(self, task: str, *, lock: str, once: str, tenant: str, **ids: str) -> None:
        """Have `task` done with these ids; jobs of one `lock` are done one by one.

        Tenants take turns, and the jobs of each are begun in this order. Of jobs with the same `once` at most one
        waits: then this puts no other.

        Raises:
            DatabaseUnavailable: the queue cannot be reached.

        """
        from procrastinate.exceptions import AlreadyEnqueued, ConnectorException  # noqa: PLC0415  # see above

        try:
            turn = await self.app.connector.execute_query_one_async(TURN, tenant=tenant)
            job = self.app.configure_task(task, lock=lock, queueing_lock=once, priority=turn["priority"])
            await job.defer_async(tenant=tenant, **ids)
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
