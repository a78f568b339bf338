"""Budgets: how much of a scope's day is spent or set aside, and whether a call still fits in.

A scope is a tenant or an API key. What is spent stands in `budget_accounts`, written together with the ledger. What
is set aside is never a stored counter: it is the sum of the reservations that have not expired, so what a killed
process has left behind stops counting by itself, and the next write of the ledger removes it. Knows nothing of calls.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Takes the lock of every account in one order, the same as the ledger's, so that no two processes wait for each
# other; `WHERE false` locks a row that is there and writes nothing.
LOCK = text("""
    INSERT INTO budget_accounts AS a (scope, day, tenant)
    SELECT scope, :day, tenant FROM jsonb_each_text(CAST(:scopes AS jsonb)) AS s(scope, tenant) ORDER BY scope
    ON CONFLICT (scope, day) DO UPDATE SET unpriced = a.unpriced WHERE false
""")

# A statement of its own: it has to see what others wrote while this transaction waited for the locks.
USED = text("""
    SELECT scope, spent_nanousd + coalesce((
        SELECT sum(amount_nanousd) FROM budget_reservations r
        WHERE r.scope = a.scope AND r.day = a.day AND r.expires_at > now()
    ), 0)::bigint AS used
    FROM budget_accounts a
    WHERE scope IN (SELECT jsonb_object_keys(CAST(:scopes AS jsonb))) AND day = :day
""")

RESERVE = text("""
    INSERT INTO budget_reservations (scope, id, tenant, day, amount_nanousd, expires_at)
    SELECT scope, id, tenant, :day, amount, now() + make_interval(secs => seconds)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        scope text, id uuid, tenant text, amount bigint, seconds float8)
""")


@dataclass(frozen=True, slots=True)
class Reservation:
    """An amount in 1e-9 US dollars, asked of every scope in `limits` (scope to its limit a day) for so many seconds."""

    id: str
    tenant: str
    limits: Mapping[str, int]
    amount_nanousd: int
    seconds: float


async def reserve(connection: AsyncConnection, day: date, wanted: Sequence[Reservation]) -> dict[str, str]:
    """Set aside what fits, first come, first served; of the others, the scope whose budget has no room, by id."""
    values = {"day": day, "scopes": json.dumps({scope: one.tenant for one in wanted for scope in one.limits})}
    await connection.execute(LOCK, values)
    used = {row.scope: row.used for row in await connection.execute(USED, values)}
    refusals = {one.id: scope for one in wanted if (scope := _take(used, one))}
    rows = [
        {"scope": scope, "id": one.id, "tenant": one.tenant, "amount": one.amount_nanousd, "seconds": one.seconds}
        for one in wanted
        if one.id not in refusals
        for scope in one.limits
    ]
    if rows:
        await connection.execute(RESERVE, {"day": day, "rows": json.dumps(rows)})
    return refusals


def _take(used: dict[str, int], wanted: Reservation) -> str:
    """Add the amount to what is used in every scope, or, if it is too much for one, return that one."""
    for scope, limit in wanted.limits.items():
        if used[scope] + wanted.amount_nanousd > limit:
            return scope
    for scope in wanted.limits:
        used[scope] += wanted.amount_nanousd
    return ""
