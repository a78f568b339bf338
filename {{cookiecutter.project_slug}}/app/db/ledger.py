"""The ledger's rows: inferences with their attempts, the accounts that are their sum, and the report of spending.

One statement writes a batch, so accounts and ledger agree at every moment. Money is in 1e-9 US dollars, days are UTC.
Knows nothing of limits.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.types import Attempt, Inference

# An inference that is there already is left alone with all that belongs to it, so a batch whose commit was not
# confirmed can be written again. SKIP LOCKED: another process may be removing the same expired reservation.
WRITE = text("""
    WITH records AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, request_id text, tenant text, api_key_id text, role text, outcome text, cached text,
            saved_nanousd bigint, started_at timestamptz, duration_ms integer, attempts jsonb)
    ), written AS (
        INSERT INTO inferences (
            id, request_id, tenant, api_key_id, role, outcome, cached, saved_nanousd, started_at, duration_ms)
        SELECT id, request_id, tenant, api_key_id, role, outcome, cached, saved_nanousd, started_at, duration_ms
        FROM records ON CONFLICT (id) DO NOTHING RETURNING id, tenant, api_key_id
    ), tried AS (
        INSERT INTO attempts (
            inference_id, tenant, number, model, outcome, detail, partial, estimated, input_tokens, output_tokens,
            cached_tokens, cost_nanousd, started_at, duration_ms, first_token_ms)
        SELECT r.id, r.tenant, a.* FROM records r JOIN written USING (id), jsonb_to_recordset(r.attempts) AS a(
            number integer, model text, outcome text, detail text, partial boolean, estimated boolean,
            input_tokens integer, output_tokens integer, cached_tokens integer, cost_nanousd bigint,
            started_at timestamptz, duration_ms integer, first_token_ms integer)
        RETURNING inference_id AS id, cost_nanousd, (started_at AT TIME ZONE 'UTC')::date AS day
    ), accounts AS (
        INSERT INTO budget_accounts AS a (scope, day, tenant, spent_nanousd, unpriced)
        SELECT scope, day, min(tenant), coalesce(sum(cost_nanousd), 0), count(*) - count(cost_nanousd)
        FROM tried JOIN written USING (id),
            LATERAL (VALUES ('tenant:' || tenant), ('key:' || nullif(api_key_id, ''))) AS s(scope)
        WHERE scope IS NOT NULL GROUP BY scope, day ORDER BY scope, day
        ON CONFLICT (scope, day) DO UPDATE SET
            spent_nanousd = a.spent_nanousd + excluded.spent_nanousd, unpriced = a.unpriced + excluded.unpriced
    )
    DELETE FROM budget_reservations WHERE (scope, id) IN (
        SELECT scope, id FROM budget_reservations
        WHERE id = ANY(CAST(:released AS uuid[])) OR expires_at < now() FOR UPDATE SKIP LOCKED
    )
""")

# A cache hit has no attempt and no model, so it is a row of its own. An attempt may start a day after its inference.
SPEND = text("""
    SELECT (a.started_at AT TIME ZONE 'UTC')::date AS day, i.tenant, i.role, a.model, count(*) AS attempts,
        sum(a.input_tokens) AS input_tokens, sum(a.cached_tokens) AS cached_tokens,
        sum(a.output_tokens) AS output_tokens, coalesce(sum(a.cost_nanousd), 0)::bigint AS cost_nanousd,
        count(*) - count(a.cost_nanousd) AS unpriced, count(*) FILTER (WHERE a.estimated) AS estimated,
        0 AS cache_hits, 0 AS saved_nanousd
    FROM inferences i JOIN attempts a ON a.inference_id = i.id
    WHERE i.started_at >= CAST(:since AS timestamp) AT TIME ZONE 'UTC' - interval '1 day'
        AND a.started_at >= CAST(:since AS timestamp) AT TIME ZONE 'UTC'
    GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT (started_at AT TIME ZONE 'UTC')::date, tenant, role, '', 0, 0, 0, 0, 0, 0, 0,
        count(*), coalesce(sum(saved_nanousd), 0)::bigint
    FROM inferences
    WHERE cached <> '' AND started_at >= CAST(:since AS timestamp) AT TIME ZONE 'UTC'
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3, 4
""")

NUL = re.compile(r"\\(?:\\|u0000)")  # the pair comes first, so that what follows an escaped backslash is text


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What one tenant's role spent on one model in a day; where `model` is empty, what the cache saved it.

    `cost_nanousd` is the sum of the known costs, and `unpriced` the number of attempts that it leaves out;
    `estimated` attempts are priced by tokens that the provider did not count. `cached_tokens` are a part of the input.
    """

    day: date
    tenant: str
    role: str
    model: str
    attempts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_nanousd: int
    unpriced: int
    estimated: int
    cache_hits: int
    saved_nanousd: int


async def write(connection: AsyncConnection, inferences: Sequence[Inference], released: Sequence[str] = ()) -> None:
    """Add to ledger and accounts, and give back the attempts' reservations and those named in `released`.

    Raises:
        ValueError: one of the rows cannot be stored, so none was.

    """
    settled = [a.reservation for inference in inferences for a in inference.attempts if a.reservation]
    rows = _storable(json.dumps([_row(inference) for inference in inferences], ensure_ascii=False))
    try:
        await connection.execute(WRITE, {"rows": rows, "released": [*settled, *released]})
    except (DataError, IntegrityError) as error:
        raise ValueError(str(error.orig)) from error


async def spend(connection: AsyncConnection, since: date) -> list[SpendRow]:
    """By day, tenant, role and model, from the day `since` on."""
    return [SpendRow(*row) for row in await connection.execute(SPEND, {"since": since})]


def _row(inference: Inference) -> dict[str, Any]:
    return {
        "id": inference.id,
        "request_id": inference.request_id,
        "tenant": inference.tenant,
        "api_key_id": inference.api_key_id,
        "role": inference.role,
        "outcome": inference.outcome,
        "cached": inference.cached,
        "saved_nanousd": inference.saved_nanousd,
        "started_at": inference.started_at.isoformat(),
        "duration_ms": inference.duration_ms,
        "attempts": [_attempt(number, attempt) for number, attempt in enumerate(inference.attempts, 1)],
    }


def _attempt(number: int, attempt: Attempt) -> dict[str, Any]:
    return {
        "number": number,
        "model": attempt.model,
        "outcome": attempt.outcome,
        "detail": attempt.detail,
        "partial": attempt.partial,
        "estimated": attempt.usage.estimated,
        "input_tokens": attempt.usage.input_tokens,
        "output_tokens": attempt.usage.output_tokens,
        "cached_tokens": attempt.usage.cached_tokens,
        "cost_nanousd": attempt.cost_nanousd,
        "started_at": attempt.started_at.isoformat(),
        "duration_ms": attempt.duration_ms,
        "first_token_ms": attempt.first_token_ms,
    }


def _storable(document: str) -> str:
    """JSON text without what Postgres refuses: NUL goes, and half a surrogate pair becomes a question mark."""
    paired = document.encode(errors="replace").decode()
    return NUL.sub(lambda found: "" if found[0] == r"\u0000" else found[0], paired)
