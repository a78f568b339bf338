"""Which embedding models the vectors of a tenant are of, and that nobody mixes two of them.

The caller opens the transaction. Knows nothing of documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import index_stamps
from app.errors import IndexMismatch

# All who write documents share this lock; who changes the stamps takes it alone.
LOCK = text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:tenant, 0))")
LOCK_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant, 0))")

# No row where there are no chunks: what earlier documents were embedded with binds nobody. A row of nulls where there
# are chunks and no stamp.
HELD = text("""
    SELECT s.id, s.embedding_model, s.dimensions, s.ready
    FROM (SELECT FROM chunks WHERE tenant = :tenant LIMIT 1) held LEFT JOIN index_stamps s ON s.tenant = :tenant
    ORDER BY s.id
""")


@dataclass(frozen=True, slots=True)
class Stamp:
    """An embedding model whose vectors the index holds; `ready` says that every chunk had one when this was set."""

    id: int
    model: str
    dimensions: int
    ready: bool


async def read_stamps(connection: AsyncConnection, tenant: str) -> list[Stamp]:
    """The models whose vectors the tenant's index holds, oldest first."""
    row = index_stamps.c
    found = select(row.id, row.embedding_model, row.dimensions, row.ready).where(row.tenant == tenant)
    return [Stamp(*values) for values in await connection.execute(found.order_by(row.id))]


async def find_stamp(connection: AsyncConnection, tenant: str, model: str, dimensions: int | None = None) -> int | None:
    """The id of `model`'s stamp; None where the index is empty. Writes nothing.

    Raises:
        IndexMismatch: the index holds another model's vectors, which cannot be compared with this one's.

    """
    rows = (await connection.execute(HELD, {"tenant": tenant})).all()
    known = [Stamp(*row) for row in rows if row.id is not None]
    return _pick(known, model, [] if dimensions is None else [dimensions]) if rows else None


async def check_stamp(connection: AsyncConnection, tenant: str, model: str, *lengths: int) -> int:
    """As `find_stamp`, for who writes vectors of these lengths; an empty index is stamped with the first model.

    Until the commit nobody changes the stamps. Raises IndexMismatch.
    """
    # First without a lock, to know which one: two who share it could not both go on to have it alone.
    stamp = await find_stamp(connection, tenant, model)
    await connection.execute(LOCK if stamp else LOCK_ALONE, {"tenant": tenant})
    if await find_stamp(connection, tenant, model) is None:
        await hold_writers(connection, tenant)
        await connection.execute(delete(index_stamps).where(index_stamps.c.tenant == tenant))
        new = {"tenant": tenant, "embedding_model": model, "dimensions": lengths[0], "ready": True}
        await connection.execute(insert(index_stamps).values(**new))
    return _pick(await read_stamps(connection, tenant), model, lengths)


async def hold_writers(connection: AsyncConnection, tenant: str) -> None:
    """Let nobody write documents of the tenant until the commit; those who are at it are waited for."""
    await connection.execute(LOCK_ALONE, {"tenant": tenant})


def _pick(known: Sequence[Stamp], model: str, lengths: Sequence[int]) -> int:
    """The id of the model's stamp, if all vectors of these lengths may stand under it."""
    if not known:
        raise IndexMismatch(f"no chunk has a vector of any model: run `EMBEDDING_MODEL={model} app reembed`")
    ours = next((stamp for stamp in known if stamp.model == model), None)
    if ours is None:
        held = ", ".join(f"{stamp.model} ({stamp.dimensions} dimensions)" for stamp in known)
        raise IndexMismatch(
            f"the index holds vectors of {held}, and EMBEDDING_MODEL is {model}: set it back, or embed the index with "
            f"it too: `EMBEDDING_MODEL={model} app reembed`"
        )
    if not ours.ready:
        raise IndexMismatch(f"not every chunk has a vector of {model} yet: run `EMBEDDING_MODEL={model} app reembed`")
    if other := next((length for length in lengths if length != ours.dimensions), None):
        raise IndexMismatch(
            f"{model} gives {other} dimensions now, and the index holds {ours.dimensions}: set the model back to "
            f"what it was, or begin anew: `app reembed --drop {model}`, then `app reembed`"
        )
    return ours.id
