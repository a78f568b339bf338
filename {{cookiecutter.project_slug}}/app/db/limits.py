"""Limits over every process: requests and tokens in leaky buckets, open streams as leases that expire.

A bucket holds a minute: what is poured in is the part of a minute that it takes up, and a second leaks in a second.
So its row is the moment at which it will be empty, and a limit that is changed holds from the next request on.
Knows nothing of requests.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

MINUTE = 60.0  # seconds
# Adds whether it fits or not: who may not have it rolls back. Until then the rows are locked, in one order, and
# clock_timestamp() is read after the wait for them.
POUR = text("""
    INSERT INTO rate_buckets AS b (scope, kind, tenant, empty_at)
    SELECT scope, kind, :tenant, statement_timestamp() + make_interval(secs => seconds)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(scope text, kind text, seconds float8) ORDER BY scope, kind
    ON CONFLICT (scope, kind) DO UPDATE
        SET empty_at = greatest(b.empty_at, clock_timestamp()) + (excluded.empty_at - statement_timestamp())
    RETURNING scope, kind, extract(epoch FROM empty_at - clock_timestamp())::float8 AS seconds
""")

# The seeds 0 to 4 are taken, in `stamps`, `vectors`, `locks` and `keys`.
ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant, 5))")
FORGET = text("DELETE FROM stream_leases WHERE scope = ANY(CAST(:scopes AS text[])) AND expires_at < now()")
LEASE = text("""
    INSERT INTO stream_leases (scope, id, tenant, expires_at)
    SELECT scope, :id, :tenant, now() + make_interval(secs => :seconds) FROM unnest(CAST(:scopes AS text[])) AS s(scope)
""")
OPEN = text(
    "SELECT scope, count(*) AS streams FROM stream_leases WHERE scope = ANY(CAST(:scopes AS text[])) GROUP BY scope"
)
RELEASE = text("DELETE FROM stream_leases WHERE scope = ANY(CAST(:scopes AS text[])) AND id = :id")


@dataclass(frozen=True, slots=True)
class Pour:
    """So many of a `kind`, which `scope` (a tenant or a key) may have `per_minute`."""

    scope: str
    kind: str
    per_minute: int
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """How full that makes the bucket: in `seconds` it is empty, and where they are more than a minute it runs over."""

    scope: str
    kind: str
    per_minute: int
    seconds: float

    @property
    def remaining(self) -> int:
        """How many more it has room for."""
        return max(0, int((MINUTE - self.seconds) * self.per_minute / MINUTE))

    @property
    def overdue(self) -> float:
        """The seconds after which it no longer runs over; 0 or less where it does not."""
        return self.seconds - MINUTE


async def pour(connection: AsyncConnection, tenant: str, wanted: Sequence[Pour]) -> list[Level]:
    """Add all of them, and tell how full that makes each bucket; roll back where one of them runs over."""
    rows = [{"scope": one.scope, "kind": one.kind, "seconds": MINUTE * one.amount / one.per_minute} for one in wanted]
    poured = await connection.execute(POUR, {"tenant": tenant, "rows": json.dumps(rows)})
    levels = {(row.scope, row.kind): row.seconds for row in poured}
    return [Level(one.scope, one.kind, one.per_minute, levels[one.scope, one.kind]) for one in wanted]


async def lease(
    connection: AsyncConnection, tenant: str, lease_id: str, limits: Mapping[str, int], *, seconds: float
) -> bool:
    """Whether every scope of `limits` had room for one more stream; then it counts for so many seconds at most.

    So what a killed process held runs out by itself.
    """
    values = {"tenant": tenant, "scopes": list(limits), "id": lease_id, "seconds": seconds}
    await connection.execute(ONE_AT_A_TIME, values)
    await connection.execute(FORGET, values)
    taken = {row.scope: row.streams for row in await connection.execute(OPEN, values)}
    if any(taken.get(scope, 0) >= most for scope, most in limits.items()):
        return False
    await connection.execute(LEASE, values)
    return True


async def release(connection: AsyncConnection, lease_id: str, limits: Mapping[str, int]) -> None:
    """Give it back before its time."""
    await connection.execute(RELEASE, {"scopes": list(limits), "id": lease_id})
