"""A second model's vectors beside the first's: begun, filled, made ready, dropped; and the upkeep after many changes.

Knows nothing of models but their names.
"""

from collections.abc import Iterable, Mapping, Sequence

import structlog
from sqlalchemy import delete, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engine import Database
from app.db.stamps import Stamp, hold_writers, read_stamps
from app.db.store import as_literal
from app.db.tables import index_stamps
from app.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

INDEX_FROM = 10_000
"""So many vectors of one length get an index; to search fewer one by one takes milliseconds, and misses nothing."""
MOST_INDEXED_DIMENSIONS = 4_000  # pgvector's limit for a halfvec
TABLES = "documents, chunks, postings, embeddings"

MISSING = text(r"""
    SELECT c.id, concat_ws(E'\n', nullif(c.context, ''), nullif(c.heading, ''), c.text) AS searched
    FROM chunks c WHERE c.tenant = :tenant AND c.id > :after
        AND NOT EXISTS (SELECT FROM embeddings e WHERE e.stamp_id = :stamp_id AND e.chunk_id = c.id)
    ORDER BY c.id LIMIT :limit
""")
COUNT = text("""
    SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (
        SELECT FROM embeddings e WHERE e.stamp_id = :stamp_id AND e.chunk_id = c.id))
    FROM chunks c WHERE c.tenant = :tenant
""")
# A chunk that was deleted meanwhile needs none, and one that another process has filled has one.
ADD = text("""
    INSERT INTO embeddings (stamp_id, chunk_id, tenant, dimensions, embedding)
    SELECT :stamp_id, c.id, :tenant, vector_dims(v.embedding), v.embedding
    FROM unnest(CAST(:ids AS bigint[]), CAST(CAST(:vectors AS text[]) AS halfvec[])) AS v(id, embedding)
        JOIN (SELECT id FROM chunks WHERE id = ANY(:ids) FOR KEY SHARE) c USING (id)
    ON CONFLICT DO NOTHING
""")
# A damaged row names a stamp that it does not fit, and does not go with it.
UNOWNED = text("""
    DELETE FROM embeddings WHERE tenant = :tenant
        AND stamp_id NOT IN (SELECT id FROM index_stamps WHERE tenant = :tenant)
""")
# Each chunk has a vector of each model that is ready, and their number stands with the documents.
UNINDEXED = text("""
    SELECT DISTINCT dimensions FROM index_stamps
    WHERE tenant = :tenant AND ready AND dimensions <= :most
        AND (SELECT sum(chunk_count) FROM documents WHERE tenant = :tenant) >= :least
        AND NOT EXISTS (
            SELECT FROM pg_index WHERE indisvalid AND indexrelid = to_regclass('embeddings_hnsw_' || dimensions))
""")
IS_VALID = text("SELECT bool_and(indisvalid) FROM pg_index WHERE indexrelid = to_regclass(:name)")


async def begin_stamp(connection: AsyncConnection, tenant: str, model: str, dimensions: int) -> Stamp:
    """The model's stamp, made where there is none; not ready yet, unless it was before."""
    new = {"tenant": tenant, "embedding_model": model, "dimensions": dimensions, "ready": False}
    await connection.execute(upsert(index_stamps).values(**new).on_conflict_do_nothing())
    return next(stamp for stamp in await read_stamps(connection, tenant) if stamp.model == model)


async def count_missing(connection: AsyncConnection, tenant: str, stamp_id: int) -> tuple[int, int]:
    """How many chunks there are, and how many of them have no vector of this stamp."""
    chunks, missing = (await connection.execute(COUNT, {"tenant": tenant, "stamp_id": stamp_id})).one()
    return int(chunks), int(missing)


async def read_missing(
    connection: AsyncConnection, tenant: str, stamp_id: int, *, after: int = 0, limit: int
) -> dict[int, str]:
    """What is to be embedded of the next chunks without a vector of this stamp, by chunk id, in order."""
    values = {"tenant": tenant, "stamp_id": stamp_id, "after": after, "limit": limit}
    return {row.id: row.searched for row in await connection.execute(MISSING, values)}


async def add_vectors(
    connection: AsyncConnection, tenant: str, stamp_id: int, vectors: Mapping[int, Sequence[float]]
) -> None:
    """Store vectors by chunk id."""
    values = {"tenant": tenant, "stamp_id": stamp_id, "ids": list(vectors)}
    await connection.execute(ADD, values | {"vectors": [as_literal(vector) for vector in vectors.values()]})


async def make_ready(connection: AsyncConnection, stamp_id: int) -> None:
    """Let servers search with this stamp."""
    await connection.execute(text("UPDATE index_stamps SET ready = true WHERE id = :id"), {"id": stamp_id})


async def drop_stamp(connection: AsyncConnection, tenant: str, model: str) -> bool:
    """Remove the model's stamp with all its vectors, when nobody writes any; False where there was none."""
    await hold_writers(connection, tenant)
    row = index_stamps.c
    gone = delete(index_stamps).where(row.tenant == tenant, row.embedding_model == model)
    were = (await connection.execute(gone)).rowcount > 0
    await connection.execute(UNOWNED, {"tenant": tenant})
    return were


async def tend(database: Database, *, index_from: int = INDEX_FROM, tenants: Iterable[str] = ()) -> None:
    """Give the planner statistics, index-only scans their visibility map, and many vectors of a tenant an index.

    This takes the tables' owner. Where the user is another, it is left to that one, and to autovacuum. Raises
    nothing: what was stored before is stored, whatever becomes of this.
    """
    try:
        whose = map(database.for_tenant, tenants or [database.tenant])
        lengths = {length for tenant in whose for length in await unindexed(tenant, index_from)}
        async with database.engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(f"VACUUM (ANALYZE) {TABLES}"))
            for dimensions in lengths:
                await _build_index(connection, dimensions)
    except ProgrammingError as error:  # the user is not the owner
        log.info("the tables were not tended", reason=str(error.orig))
    except (DBAPIError, PoolTimeout, DatabaseUnavailable) as error:
        log.warning("the tables were not tended: run `app reembed` for it", reason=str(error))


async def unindexed(database: Database, index_from: int = INDEX_FROM) -> list[int]:
    """The lengths of vectors of which there are enough for an index, and which have none. Reads little.

    Raises:
        DatabaseUnavailable: there is no connection, or it broke.

    """
    async with database.transaction() as connection:
        values = {"tenant": database.tenant, "least": index_from, "most": MOST_INDEXED_DIMENSIONS}
        return list(await connection.scalars(UNINDEXED, values))


async def _build_index(connection: AsyncConnection, dimensions: int) -> None:
    """An HNSW index over the vectors of this length, unless it is there; writers go on while it is built.

    One that a server left half done when it was killed is made anew.
    """
    name = f"embeddings_hnsw_{dimensions}"
    if not await connection.scalar(text("SELECT pg_try_advisory_lock(hashtextextended(:n, 2))"), {"n": name}):
        return  # another process is at it
    try:
        if not await connection.scalar(IS_VALID, {"name": name}):
            await connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            await connection.exec_driver_sql(f"""
                CREATE INDEX CONCURRENTLY {name} ON embeddings
                USING hnsw ((embedding::halfvec({dimensions})) halfvec_cosine_ops) WHERE dimensions = {dimensions}
            """)
    finally:
        await connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:n, 2))"), {"n": name})
