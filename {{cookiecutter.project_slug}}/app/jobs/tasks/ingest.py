"""Reads one upload into the index of its tenant, and says in its row how that went.

What another try cannot help ends it at once, anything else after UPLOAD_ATTEMPTS; then its bytes are kept, so that
somebody can start it again. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import structlog
from procrastinate import App, BaseRetryStrategy, RetryDecision
from procrastinate.jobs import Job

from app.db.engine import Database
from app.db.uploads import HOPELESS, Begun, begin_upload, report_upload
from app.errors import AppError, Conflict, DatabaseUnavailable
from app.jobs.uploads import TASK
from app.jobs.worker import Parts
from app.rag.ingest import Ingester, IngestReport, Options
from app.rag.stages import one_error

log = structlog.get_logger(__name__)
PAUSE_SECONDS = 10.0  # before the second attempt; four times as long before each further one
LONGEST_PAUSE_SECONDS = 3_600.0
BEAT_SECONDS = 10.0
SERVER_ERRORS = range(500, 600)


def add_to(app: App, parts: Parts) -> None:
    """Let a worker do this."""
    app.task(name=TASK, retry=Later())(partial(ingest_upload, parts))


async def ingest_upload(parts: Parts, *, tenant: str, upload_id: str) -> None:
    """Take it on, read it, and write down the end. What it raises is to be tried again later."""
    database = parts.database.for_tenant(tenant)
    most = parts.settings.upload_attempts
    async with database.transaction() as connection:
        begun = await begin_upload(connection, tenant, upload_id, most_attempts=most)
    if begun is None:
        return
    attempt = _Attempt(database, upload_id, begun.attempt)
    try:
        report = await _read(parts, attempt, begun)
    except asyncio.CancelledError:  # the worker stops, and the upload cannot help it
        await attempt.report(status="queued", attempts=begun.attempt - 1)
        raise
    except Exception as error:
        again = begun.attempt < most and getattr(error, "status", 500) in SERVER_ERRORS
        told: dict[str, object] = {**_told(error, upload_id), "status": "queued" if again else "failed"}
        if told["error_code"] in HOPELESS:
            told["data"] = None
        if await attempt.report(**told) and again:
            raise
    else:
        outcome = "added" if report.added else "changed" if report.changed else "unchanged"
        ended = {"outcome": outcome, "chunks": report.chunks, "data": None, "error_code": "", "error": ""}
        await attempt.report(status="done", **ended)


@dataclass(frozen=True)
class _Attempt:
    """One attempt at an upload: only the latest may say anything."""

    database: Database
    upload_id: str
    number: int

    async def report(self, **changes: object) -> bool:
        async with self.database.transaction() as connection:
            return await report_upload(connection, self.database.tenant, self.upload_id, self.number, **changes)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Show that it goes on, and end it when another worker has taken the upload over."""
        with one_error():
            async with asyncio.TaskGroup() as group:
                beating = group.create_task(self._beat())
                yield
                beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(DatabaseUnavailable):  # it may be back in time
                if not await self.report():
                    raise Conflict("another worker has taken this upload over")


async def _read(parts: Parts, attempt: _Attempt, begun: Begun) -> IngestReport:
    ingester = Ingester(attempt.database, parts.gateway, parts.settings, parts.parser)
    async with attempt.alive():
        return await ingester.ingest(begun.data, source=begun.source, options=Options(begun.metadata, begun.api_key_id))


def _told(error: Exception, upload_id: str) -> dict[str, str]:
    """The error as the row keeps it, for the client; what is wrong inside is for the log."""
    if isinstance(error, AppError):
        log.warning("an upload was not read", upload=upload_id, code=error.code, reason=error.message)
        return {"error_code": error.code, "error": error.told}
    log.error("an upload was not read: unforeseen error", upload=upload_id, exc_info=error)
    return {"error_code": "internal_error", "error": "something went wrong inside the application"}


class Later(BaseRetryStrategy):
    """Whatever ended it: at once where the worker was stopped, else after growing pauses. The task counts attempts."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:
        """When to try again."""
        if isinstance(exception, asyncio.CancelledError):
            return RetryDecision(retry_in={"seconds": 0})
        pause = min(PAUSE_SECONDS * 4 ** min(job.attempts, 10), LONGEST_PAUSE_SECONDS)
        asked = getattr(exception, "retry_after", None) or 0
        return RetryDecision(retry_in={"seconds": max(pause, asked)})
