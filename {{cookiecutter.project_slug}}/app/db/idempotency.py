"""Requests that are to be done once: who is at work on one, and what was answered.

The caller opens the transaction. Knows nothing of HTTP but numbers, names and bytes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import idempotency_keys
from app.errors import KeyReused, StillRunning

KEPT = timedelta(hours=24)
ROW = idempotency_keys.c


@dataclass(frozen=True)
class Place:
    """Where a key is valid, and the key."""

    tenant: str
    owner: str
    key: str


@dataclass(frozen=True)
class Kept:
    """An answer as it went out."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Claim:
    """The right to do the work. Who took it over from somebody that seemed dead has another `since`."""

    place: Place
    since: datetime


async def claim(connection: AsyncConnection, place: Place, fingerprint: str, *, dead_after: timedelta) -> Claim | Kept:
    """Be the one that does it, or learn what was answered.

    Raises:
        KeyReused: the key was used for another request.
        StillRunning: somebody is at it, and began less than `dead_after` ago.

    """
    row = {"tenant": place.tenant, "owner": place.owner, "key": place.key, "fingerprint": fingerprint}
    dead = and_(ROW.status.is_(None), ROW.fingerprint == fingerprint, ROW.created_at < func.now() - dead_after)
    anew = insert(idempotency_keys).values(row | {"created_at": func.now(), "status": None})
    anew = anew.on_conflict_do_update(
        index_elements=[ROW.tenant, ROW.owner, ROW.key],
        set_={name: anew.excluded[name] for name in ("fingerprint", "status", "headers", "body", "created_at")},
        where=or_(dead, ROW.created_at < func.now() - KEPT),
    )
    since = await connection.scalar(anew.returning(ROW.created_at))
    return Claim(place, since) if since else await _kept(connection, place, fingerprint)


async def _kept(connection: AsyncConnection, place: Place, fingerprint: str) -> Kept:
    query = select(ROW.fingerprint, ROW.status, ROW.headers, ROW.body).where(_is(place))
    row = (await connection.execute(query)).one_or_none()
    if row is None:  # given up just now: the next try gets it
        raise StillRunning
    if row.fingerprint != fingerprint:
        raise KeyReused
    if row.status is None:
        raise StillRunning
    return Kept(row.status, row.headers, row.body)


async def keep(connection: AsyncConnection, claimed: Claim, answer: Kept) -> None:
    """Store what was answered, unless somebody has taken over."""
    values = {"status": answer.status, "headers": answer.headers, "body": answer.body}
    await connection.execute(update(idempotency_keys).where(_is(claimed.place), _since(claimed)).values(values))


async def give_up(connection: AsyncConnection, claimed: Claim) -> None:
    """Let the next one do it."""
    await connection.execute(delete(idempotency_keys).where(_is(claimed.place), _since(claimed)))


async def forget_kept(connection: AsyncConnection, tenant: str, owner: str) -> None:
    """Remove every answer of the owner's that was kept: it may hold what is to be deleted."""
    kept = delete(idempotency_keys).where(ROW.tenant == tenant, ROW.owner == owner, ROW.status.is_not(None))
    await connection.execute(kept)


def _is(place: Place) -> ColumnElement[bool]:
    return and_(ROW.tenant == place.tenant, ROW.owner == place.owner, ROW.key == place.key)


def _since(claimed: Claim) -> ColumnElement[bool]:
    return and_(ROW.status.is_(None), ROW.created_at == claimed.since)
