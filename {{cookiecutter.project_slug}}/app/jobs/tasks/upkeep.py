"""What has to be done from time to time: finding jobs and uploads that a dead worker left, removing what is old.

Each is put into the queue once, however many workers there are, and does no harm where two run at once.
"""

from functools import partial

import structlog
from procrastinate import App
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job

from app.db.upkeep import remove_batch, rules
from app.db.uploads import Lost, take_lost
from app.jobs.uploads import put_upload
from app.jobs.worker import Parts

log = structlog.get_logger(__name__)
STALLED_SECONDS = 30  # without a sign of life of the worker, which gives one every ten
LOST_SECONDS = 120  # the same for an upload
LOST_AT_ONCE = 100
JOB_HOURS = 24 * 7  # jobs that failed are kept for so long


def add_to(app: App, parts: Parts) -> None:
    """Let a worker do this, and put it into the queue when it is time."""
    for name, cron, do in (("find_lost", "* * * * *", find_lost), ("remove_old", "17 * * * *", remove_old)):
        task = app.task(name=name, queueing_lock=name, priority=1)  # before all the uploads that wait
        app.periodic(cron=cron)(task(partial(do, parts)))


async def find_lost(parts: Parts, timestamp: int) -> None:
    """Put back the jobs of workers that are dead, and uploads that nobody works on."""
    del timestamp
    jobs = parts.queue.app.job_manager
    for job in await jobs.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
        await _put_back(parts, job)
    async with parts.database.across_tenants() as connection:
        lost = await take_lost(connection, seconds=LOST_SECONDS, limit=LOST_AT_ONCE)
    for upload in lost:
        await _revive(parts, upload)


async def _revive(parts: Parts, upload: Lost) -> None:
    """A job that pretends to be under way is put back; where none is, there will be one.

    Where a worker took it at this very moment, a second one may do so too: then the first has nothing more to say.
    """
    for job in await parts.queue.app.job_manager.list_jobs_async(queueing_lock=upload.id, status="doing"):
        await _put_back(parts, job)
    await put_upload(parts.queue, upload.tenant, upload.id, upload.source)


async def _put_back(parts: Parts, job: Job) -> None:
    log.warning("a job was left by its worker, and is put back", task=job.task_name, job=job.id)
    try:
        await parts.queue.app.job_manager.retry_job(job)
    except ConnectorException as error:  # it has ended meanwhile, or another worker was quicker
        log.info("the job was not put back", job=job.id, reason=str(error))


async def remove_old(parts: Parts, timestamp: int) -> None:
    """Remove what is old, of every tenant and of the queue itself."""
    del timestamp
    database = parts.database
    for rule in rules(parts.settings):
        more = True
        while more:
            async with database.across_tenants() as connection:
                more = await remove_batch(connection, rule)
    await parts.queue.app.job_manager.delete_old_jobs(
        nb_hours=JOB_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
    )
