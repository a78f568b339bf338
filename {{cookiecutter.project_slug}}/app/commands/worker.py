"""`app worker`: background jobs in a process of their own. Knows nothing of what they do."""

import asyncio
import signal
from typing import Annotated

import typer

from app.jobs.queue import open_queue
from app.jobs.worker import working
from app.session import err, opened

cli = typer.Typer()
USUAL_CONCURRENCY = 2


@cli.command(rich_help_panel="Operation")
def worker(
    concurrency: Annotated[
        int | None, typer.Option(help="Jobs at a time: WORKER_CONCURRENCY by default, or 2 where that is 0.", min=1)
    ] = None,
) -> None:
    """Do background jobs: read uploads, remove what is old. Any number of workers may run beside the server.

    Ctrl-C, or SIGTERM, takes no more jobs and gives running ones SHUTDOWN_SECONDS; what is not done by then is done by
    another worker, or by this one when it is started again.
    """
    asyncio.run(_work(concurrency))


async def _work(concurrency: int | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with opened() as (database, gateway, settings), open_queue(database) as queue:
        jobs = concurrency or settings.worker_concurrency or USUAL_CONCURRENCY
        async with working(database, gateway, settings, queue, concurrency=jobs):
            err.print(f"working, {jobs} jobs at a time; Ctrl-C stops")
            await stop.wait()
            err.print(f"stopping: running jobs have {settings.shutdown_seconds:g} seconds")
