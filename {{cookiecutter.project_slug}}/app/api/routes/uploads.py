"""/v1/uploads: where each uploaded file stands on its way into the index, and another try for one that failed."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.api.deps import After, FromWork, Limit, Page, Work, page_of
from app.api.security import needs
from app.db import uploads
from app.db.uploads import StoredUpload
from app.errors import DatabaseUnavailable
from app.jobs.uploads import put_upload

router = APIRouter(prefix="/v1/uploads", tags=["documents"], dependencies=[needs("documents:read")])
log = structlog.get_logger(__name__)


class UploadError(BaseModel):
    """Why an attempt failed; `code` is what programs compare."""

    code: str
    message: str


class Upload(BaseModel):
    """A file that was sent. Ask for it until its status is `done` or `failed`.

    `outcome` says what the index did with it, `chunks` how many passages were written. An error beside `queued` is of
    the last attempt; there will be another.
    """

    id: str
    source: str
    bytes: int
    status: Literal["queued", "running", "done", "failed"]
    attempts: int
    outcome: Literal["", "added", "changed", "unchanged"]
    chunks: int
    error: UploadError | None
    created_at: datetime
    updated_at: datetime


@router.get("")
async def list_uploads(work: FromWork, limit: Limit = 20, after: After = None) -> Page[Upload]:
    """List your uploads, the newest first."""
    async with work.database.transaction() as connection:
        found = await uploads.list_uploads(
            connection, work.caller.tenant, work.caller.owner, limit=limit + 1, after=str(after) if after else None
        )
    return page_of([shown(one) for one in found], [one.id for one in found], limit)


@router.get("/{upload_id}")
async def read_upload(upload_id: UUID, work: FromWork) -> Upload:
    """Say where an upload stands."""
    async with work.database.transaction() as connection:
        return shown(await uploads.read_upload(connection, work.caller.tenant, work.caller.owner, str(upload_id)))


@router.post("/{upload_id}/retry", status_code=202, dependencies=[needs("documents:write")])
async def retry_upload(upload_id: UUID, work: FromWork, response: Response) -> Upload:
    """Try one that failed again, with the file that was sent. 409 where that is of no use, or was replaced."""
    async with work.database.transaction() as connection:
        stored = await uploads.restart_upload(connection, work.caller.tenant, work.caller.owner, str(upload_id))
    return await accepted(work, stored, response)


@router.delete("/{upload_id}", status_code=204, dependencies=[needs("documents:write")], responses={409: {}})
async def delete_upload(upload_id: UUID, work: FromWork) -> None:
    """Forget an upload and the file that was sent; what it put into the index stays. 409 while it is being read."""
    async with work.database.transaction() as connection:
        await uploads.delete_upload(connection, work.caller.tenant, work.caller.owner, str(upload_id))


async def accepted(work: Work, stored: StoredUpload, response: Response) -> Upload:
    """Have it read, and say where it can be asked for. Without a job it is found by the worker's upkeep, later."""
    try:
        await put_upload(work.queue, work.caller.tenant, stored.id, stored.source)
    except DatabaseUnavailable as error:
        log.warning("an upload has no job yet", upload=stored.id, reason=error.message)
    response.headers["Location"] = f"/v1/uploads/{stored.id}"
    return shown(stored)


def shown(stored: StoredUpload) -> Upload:
    """An upload as a client sees it."""
    error = UploadError(code=stored.error_code, message=stored.error) if stored.error_code else None
    names = Upload.model_fields.keys() - {"error"}
    return Upload(**{name: getattr(stored, name) for name in names}, error=error)
