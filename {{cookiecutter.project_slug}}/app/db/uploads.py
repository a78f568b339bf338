"""Uploads on their way into the index: the bytes, where each of them stands, and how it ended.

The row says what is to be done; a job of the queue only says that somebody should look at it. Whoever works on one
shows the number of its attempt, so that a worker that was given up cannot report any more. The caller opens the
transaction. Knows nothing of the queue or of documents.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, insert, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import uploads
from app.errors import Conflict, NotFound, RateLimited

OPEN = ("queued", "running")
FULL_SECONDS = 30  # until which some of what waits may have been read
HOPELESS = {"invalid_input", "unsupported_document", "document_too_large"}  # their bytes are not kept
SUPERSEDED = "a newer upload of the same name has taken its place: upload the file again"
LOST = "the process that read it was stopped from outside each time: it may need more memory than there is"
ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant, 6))")
ROW = uploads.c
NEWER = uploads.alias("newer")
SHOWN = (
    *(ROW.id, ROW.source, ROW.bytes, ROW.status, ROW.attempts, ROW.outcome, ROW.chunks),
    *(ROW.error_code, ROW.error, ROW.created_at, ROW.updated_at),
)


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """What is known of an upload; the error is of its last attempt, and empty where there was none."""

    id: str
    source: str
    bytes: int
    status: str
    attempts: int
    outcome: str
    chunks: int
    error_code: str
    error: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SentFile:
    """What somebody sent, to be filed under `source` with this metadata; the key's account pays for reading it."""

    owner: str
    api_key_id: str
    source: str
    metadata: dict[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """What a worker gets: the bytes, what to file them under, whose account pays, and its attempt's number, from 1."""

    source: str
    api_key_id: str
    metadata: Mapping[str, str]
    data: bytes
    attempt: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An upload that nobody has touched for long."""

    tenant: str
    id: str
    source: str


async def add_upload(connection: AsyncConnection, tenant: str, sent: SentFile, *, most_bytes: int) -> StoredUpload:
    """Store what was sent.

    Raises:
        RateLimited: with it the tenant's files that wait, or failed and are kept, would have more than `most_bytes`.

    """
    await connection.execute(ONE_AT_A_TIME, {"tenant": tenant})  # or several at once would each find room
    held = await connection.scalar(select(func.sum(ROW.bytes)).where(ROW.tenant == tenant, ROW.data.is_not(None)))
    if (held or 0) + len(sent.data) > most_bytes:
        told = f"files that wait or failed may have {most_bytes:,} bytes (MAX_QUEUED_BYTES): DELETE /v1/uploads/ID"
        raise RateLimited(told, retry_after=FULL_SECONDS)
    row = asdict(sent) | {"id": func.gen_random_uuid(), "tenant": tenant, "status": "queued", "bytes": len(sent.data)}
    return StoredUpload(*(await connection.execute(insert(uploads).values(row).returning(*SHOWN))).one())


async def read_upload(connection: AsyncConnection, tenant: str, owner: str, upload_id: str) -> StoredUpload:
    """One of the owner's.

    Raises:
        NotFound: it is not there, or somebody else's.

    """
    found = (await connection.execute(select(*SHOWN).where(_is(tenant, upload_id), ROW.owner == owner))).one_or_none()
    if found is None:
        raise NotFound(f"there is no upload {upload_id}")
    return StoredUpload(*found)


async def list_uploads(
    connection: AsyncConnection, tenant: str, owner: str, *, limit: int, after: str | None = None
) -> list[StoredUpload]:
    """The owner's, the newest first, from the one after `after` on.

    Raises:
        NotFound: there is no upload `after`.

    """
    query = select(*SHOWN).where(ROW.tenant == tenant, ROW.owner == owner)
    if after is not None:
        last = await read_upload(connection, tenant, owner, after)
        query = query.where(tuple_(ROW.created_at, ROW.id) < (last.created_at, last.id))
    rows = await connection.execute(query.order_by(ROW.created_at.desc(), ROW.id.desc()).limit(limit))
    return [StoredUpload(*row) for row in rows]


async def restart_upload(connection: AsyncConnection, tenant: str, owner: str, upload_id: str) -> StoredUpload:
    """Put one that failed at the beginning again.

    Raises:
        NotFound: it is not there, or somebody else's.
        Conflict: it did not fail, its bytes are of no use, or a newer one has been stored under its name.

    """
    failed = (ROW.owner == owner, ROW.status == "failed", ROW.data.is_not(None), ~_superseded())
    again = update(uploads).where(_is(tenant, upload_id), *failed).values(status="queued", attempts=0)
    restarted = again.values(error_code="", error="", updated_at=func.now()).returning(*SHOWN)
    found = (await connection.execute(restarted)).one_or_none()
    if found is None:
        there = await read_upload(connection, tenant, owner, upload_id)
        if there.status != "failed":
            raise Conflict(f"the upload is {there.status} and has not failed")
        superseded = await connection.scalar(select(_superseded()).where(_is(tenant, upload_id)))
        raise Conflict(SUPERSEDED if superseded else "another try would fail as well: send another file")
    return StoredUpload(*found)


async def delete_upload(connection: AsyncConnection, tenant: str, owner: str, upload_id: str) -> None:
    """Remove the row and the bytes.

    Raises:
        NotFound: it is not there, or somebody else's.
        Conflict: a worker is reading it.

    """
    at_rest = (_is(tenant, upload_id), ROW.owner == owner, ROW.status != "running")
    if not (await connection.execute(delete(uploads).where(*at_rest))).rowcount:
        await read_upload(connection, tenant, owner, upload_id)
        raise Conflict("a worker is reading this upload: wait for its end")


async def begin_upload(connection: AsyncConnection, tenant: str, upload_id: str, *, most_attempts: int) -> Begun | None:
    """Take it on, unless there is nothing to be done for it.

    One that a newer upload has overtaken is done, and changed nothing. One whose every attempt ended with the death of
    its worker is set aside.
    """
    open_ = (_is(tenant, upload_id), ROW.status.in_(OPEN))
    overtaken = update(uploads).where(*open_, _superseded())
    await connection.execute(overtaken.values(status="done", outcome="unchanged", data=None, updated_at=func.now()))
    poisonous = update(uploads).where(*open_, ROW.attempts >= most_attempts)
    await connection.execute(
        poisonous.values(status="failed", error_code="worker_lost", error=LOST, updated_at=func.now())
    )
    begun = update(uploads).where(*open_).values(status="running", attempts=ROW.attempts + 1, updated_at=func.now())
    row = (
        await connection.execute(begun.returning(ROW.source, ROW.api_key_id, ROW.metadata, ROW.data, ROW.attempts))
    ).one_or_none()
    return None if row is None else Begun(row.source, row.api_key_id, row.metadata, bytes(row.data), row.attempts)


async def report_upload(
    connection: AsyncConnection, tenant: str, upload_id: str, attempt: int, **changes: object
) -> bool:
    """Write what became of an attempt, or without changes that it goes on; False where it is no longer the one."""
    its_own = (_is(tenant, upload_id), ROW.status == "running", ROW.attempts == attempt)
    done = update(uploads).where(*its_own).values(**changes, updated_at=func.clock_timestamp())
    return (await connection.execute(done)).rowcount > 0


async def take_lost(connection: AsyncConnection, *, seconds: float, limit: int) -> list[Lost]:
    """Those of every tenant that are not at their end and that nobody has touched for so long, the oldest first.

    They are queued from now on, and not lost again until so much later: who worked on one has given it up.
    """
    idle = ROW.updated_at < func.now() - text("make_interval(secs => :seconds)").bindparams(seconds=seconds)
    query = select(ROW.tenant, ROW.id, ROW.source).where(ROW.status.in_(OPEN), idle)
    oldest = query.order_by(ROW.updated_at).limit(limit).with_for_update(skip_locked=True)
    lost = [Lost(*row) for row in await connection.execute(oldest)]
    taken = update(uploads).where(ROW.id.in_([one.id for one in lost]))
    await connection.execute(taken.values(status="queued", updated_at=func.now()))
    return lost


def _is(tenant: str, upload_id: str) -> ColumnElement[bool]:
    return (ROW.tenant == tenant) & (ROW.id == upload_id)


def _superseded() -> ColumnElement[bool]:
    """Whether a later upload of the same name is in the index: an older one must not take its place."""
    newer, this = NEWER.c, tuple_(ROW.created_at, ROW.id)
    same = (newer.tenant == ROW.tenant) & (newer.source == ROW.source) & (newer.status == "done")
    return select(newer.id).where(same, tuple_(newer.created_at, newer.id) > this).exists()
