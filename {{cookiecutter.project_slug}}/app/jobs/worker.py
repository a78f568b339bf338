"""The worker: takes jobs from the queue and has them done, several at a time, in this process.

Knows nothing of what the tasks do; they are found in `tasks/`.
"""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from app.db.engine import Database
from app.gateway.gateway import Gateway
from app.jobs import tasks
from app.jobs.queue import Queue
from app.rag.parsing import Parser
from app.settings import Settings

log = structlog.get_logger(__name__)
RESTART_SECONDS = 5.0
LOOK_SECONDS = 5.0  # new jobs are told of at once; this is for those that waited for their time


@dataclass(frozen=True)
class Parts:
    """What tasks work with. The database is for no tenant in particular: a task takes its job's."""

    database: Database
    gateway: Gateway
    settings: Settings
    queue: Queue
    parser: Parser


@asynccontextmanager
async def working(
    database: Database, gateway: Gateway, settings: Settings, queue: Queue, *, concurrency: int
) -> AsyncIterator[Callable[[], object]]:
    """Do jobs meanwhile, so many at a time. At the end running ones get SHUTDOWN_SECONDS.

    What is not done by then goes back into the queue, for another worker. What this gives begins the end: no more
    jobs are taken, and the seconds count from then.
    """
    parser = Parser(settings)
    parts = Parts(database, gateway, settings, queue, parser)
    for module in pkgutil.iter_modules(tasks.__path__):
        importlib.import_module(f"{tasks.__name__}.{module.name}").add_to(queue.app, parts)
    worker = asyncio.create_task(_work(parts, concurrency))

    def stop() -> bool:
        return not worker.cancelling() and worker.cancel()

    try:
        yield stop
    finally:
        stop()
        with suppress(asyncio.CancelledError):
            await worker
        await parser.aclose()


async def _work(parts: Parts, concurrency: int) -> None:
    """Work until this is cancelled: a worker gives up when it loses the database, and another one begins."""
    while concurrency:
        try:
            await parts.queue.app.run_worker_async(
                concurrency=concurrency,
                fetch_job_polling_interval=LOOK_SECONDS,
                install_signal_handlers=False,
                shutdown_graceful_timeout=parts.settings.shutdown_seconds,
                delete_jobs="successful",
            )
        except Exception as error:  # noqa: BLE001  # of any kind: without a worker nothing would be done any more
            log.warning("the worker stopped, and begins again", reason=str(error))
        await asyncio.sleep(RESTART_SECONDS)
