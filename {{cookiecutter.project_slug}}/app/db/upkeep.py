"""Removes what is old, a batch at a time, of every tenant: the caller opens a transaction across them for each.

Ages count by the database's clock. Knows nothing of when this is done.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.idempotency import KEPT
from app.settings import Settings

BATCH = 1_000
DAY = 86_400  # seconds
UPLOAD_DAYS = 30
# A batch needs little memory, holds its rows briefly, and leaves to others what they hold.
REMOVE = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE {time} < now() - make_interval(secs => :seconds){only}
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows of a table whose `time` is `seconds` ago are old; with `only`, none but those."""

    table: str
    time: str
    seconds: float
    only: str = ""


def rules(settings: Settings) -> Iterator[Rule]:
    """What is old: what nobody can need any more, and what RETENTION_DAYS says."""
    days = settings.retention_days
    yield Rule("stream_leases", "expires_at", 0)
    yield Rule("rate_buckets", "empty_at", 0)
    yield Rule("completions_cache", "created_at", settings.cache_seconds)
    yield Rule("semantic_cache", "created_at", settings.cache_seconds)
    yield Rule("idempotency_keys", "created_at", KEPT.total_seconds())
    yield Rule("uploads", "updated_at", min(days or UPLOAD_DAYS, UPLOAD_DAYS) * DAY, "status IN ('done', 'failed')")
    if days is not None:
        yield Rule("feedback", "created_at", days * DAY)
        yield Rule("answers", "created_at", days * DAY)
        yield Rule("conversations", "updated_at", days * DAY)


async def remove_batch(connection: AsyncConnection, rule: Rule) -> bool:
    """Remove some of what is old; whether there may be more."""
    only = f" AND {rule.only}" if rule.only else ""
    statement = text(REMOVE.format(table=rule.table, time=rule.time, only=only))
    removed = await connection.execute(statement, {"seconds": rule.seconds, "limit": BATCH})
    return removed.rowcount >= BATCH
