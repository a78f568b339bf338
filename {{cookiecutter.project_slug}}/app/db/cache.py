"""Rows of the two caches: completions by their key, and answers by how near their question is.

Values are bytes and mean nothing here. Ages count by the database's clock. The caller opens the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, delete, exists, func, insert, literal, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import completions_cache, semantic_cache, semantic_cache_routes

# Whoever writes takes some old rows along, so that nobody has to come by and clean. Rows that another writer holds
# are left to that one.
DELETE_OLD = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE created_at <= now() - make_interval(secs => :max_age)
        ORDER BY created_at LIMIT 100 FOR UPDATE SKIP LOCKED
    ))
"""

# Every version of every document in the index. The id and the time never come back, even where the content does.
INDEX_STATE = text("""
    SELECT md5(coalesce(string_agg(id || ' ' || extract(epoch FROM created_at), ',' ORDER BY id), ''))
    FROM documents WHERE tenant = :tenant
""")


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """What was written, and how long ago."""

    completion: bytes
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the semantic answers stand that may serve one question, and what of them may be taken.

    `limit` is the most that the false-hit rate may be, `max_age` the oldest an answer may be, in seconds.
    """

    tenant: str
    route: str
    scope_hash: str
    embedding_model: str
    limit: float
    max_age: float


@dataclass(frozen=True, slots=True)
class Switch:
    """A route's semantic cache that was measured and may be used; measured with `pairs` labelled pairs of questions."""

    route: str
    threshold: float
    embedding_model: str
    false_hit_rate: float
    false_hit_rate_at_most: float
    pairs: int
    dataset_hash: str


async def read_completion(
    connection: AsyncConnection, tenant: str, key: str, max_age: float
) -> StoredCompletion | None:
    """The entry, unless it is as old as `max_age` seconds."""
    entry = completions_cache.c
    age = func.extract("epoch", func.now() - entry.created_at)
    found = select(entry.completion, age).where(entry.tenant == tenant, entry.key == key, age < max_age)
    row = (await connection.execute(found)).one_or_none()
    return StoredCompletion(bytes(row[0]), float(row[1])) if row else None


async def write_completion(
    connection: AsyncConnection, tenant: str, key: str, completion: bytes, max_age: float
) -> None:
    """Store the entry in place of an older one, and delete some that are older than `max_age` seconds."""
    content = {"completion": completion, "created_at": func.now()}
    added = upsert(completions_cache).values(tenant=tenant, key=key, **content)
    await connection.execute(added.on_conflict_do_update(index_elements=["key"], set_=content))
    await _delete_old(connection, "completions_cache", max_age)


async def is_on(connection: AsyncConnection, shelf: Shelf) -> bool:
    """Whether the shelf's route may use the semantic cache."""
    return bool(await connection.scalar(select(exists().where(_is_on(shelf)))))


async def nearest_answer(connection: AsyncConnection, shelf: Shelf, vector: Sequence[float]) -> bytes | None:
    """The payload of the nearest question, where the route is switched on and the question is near enough."""
    entry = semantic_cache.c
    distance = entry.embedding.cosine_distance(vector)
    age = func.extract("epoch", func.now() - entry.created_at)
    here = (entry.tenant == shelf.tenant) & (entry.route == shelf.route) & (entry.scope_hash == shelf.scope_hash)
    nearest = (
        select(entry.payload, (1 - distance).label("likeness"), semantic_cache_routes.c.threshold)
        .join_from(semantic_cache, semantic_cache_routes, semantic_cache_routes.c.route == entry.route)
        .where(here, age < shelf.max_age, _is_on(shelf))
        .order_by(distance, entry.id.desc())
        .limit(1)
    )
    row = (await connection.execute(nearest)).one_or_none()
    # A vector of zeros is like nothing: not-a-number. Here no comparison with it holds; in Postgres it is the largest.
    return bytes(row.payload) if row and row.likeness >= row.threshold else None


async def keep_answer(
    connection: AsyncConnection, shelf: Shelf, *, question: str, vector: Sequence[float], payload: bytes
) -> None:
    """Store the answer where the route is switched on, and delete some that are too old."""
    column = semantic_cache.c
    row = {
        column.tenant: shelf.tenant,
        column.route: shelf.route,
        column.scope_hash: shelf.scope_hash,
        column.question: question,
        column.embedding: list(vector),
        column.payload: payload,
    }
    values = select(*(literal(value, name.type) for name, value in row.items())).where(_is_on(shelf))
    await connection.execute(insert(semantic_cache).from_select(list(row), values))
    await _delete_old(connection, "semantic_cache", shelf.max_age)


def _is_on(shelf: Shelf) -> ColumnElement[bool]:
    """Whether the route was measured with this model, below the limit that holds today."""
    switch = semantic_cache_routes.c
    measured = (switch.route == shelf.route) & (switch.embedding_model == shelf.embedding_model)
    return measured & (switch.false_hit_rate_at_most <= shelf.limit)


async def switch_on(connection: AsyncConnection, switch: Switch) -> None:
    """Let the route use the semantic cache, as it was measured just now."""
    row = {name: getattr(switch, name) for name in Switch.__slots__} | {"measured_at": func.now()}
    on = upsert(semantic_cache_routes).values(row)
    await connection.execute(on.on_conflict_do_update(index_elements=["route"], set_=row))


async def switch_off(connection: AsyncConnection, route: str) -> None:
    """Let the route use it no more, and forget its answers, of every tenant."""
    await connection.execute(delete(semantic_cache_routes).where(semantic_cache_routes.c.route == route))
    await connection.execute(delete(semantic_cache).where(semantic_cache.c.route == route))


async def index_state(connection: AsyncConnection, tenant: str) -> str:
    """A value that changes with every document that is added, replaced or deleted, and never comes back."""
    state: str = (await connection.execute(INDEX_STATE, {"tenant": tenant})).scalar_one()
    return state


async def _delete_old(
    connection: AsyncConnection, table: Literal["completions_cache", "semantic_cache"], max_age: float
) -> None:
    await connection.execute(text(DELETE_OLD.format(table=table)), {"max_age": max_age})
