"""Documents with their chunks, vectors and postings: write, list, delete. All of one document in one transaction.

The caller opens the transaction. Knows nothing of loading, chunking or models.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, Text, any_, delete, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.stamps import hold_writers
from app.db.tables import chunk_contexts, chunks, documents, index_stamps
from app.types import Chunk, Document

CHUNKS_AT_ONCE = 500
"""Written by one statement: its parameters take some megabytes, and to hand them over stops this process briefly."""

# Of two writers of one source the second waits, and wins. In order, so that two who write the same ones do not each
# wait for the other. Rows come as JSON: the driver takes several times as long over arrays.
UPSERT = """
    INSERT INTO documents (
        tenant, source, title, media_type, content_hash, text, origin, recipe, metadata, page_starts)
    SELECT %(tenant)s, source, title, media_type, content_hash, text, origin, %(recipe)s, metadata, page_starts
    FROM json_to_recordset(CAST(%(documents)s AS json)) AS d(
        source text, title text, media_type text, content_hash text, text text, origin text, metadata jsonb,
        page_starts integer[])
    ORDER BY source
    ON CONFLICT (tenant, source) DO UPDATE SET
        title = excluded.title, media_type = excluded.media_type, content_hash = excluded.content_hash,
        text = excluded.text, origin = excluded.origin, recipe = excluded.recipe, metadata = excluded.metadata,
        page_starts = excluded.page_starts, created_at = now(), chunk_count = 0, term_count = 0
    RETURNING source, id, xmax <> 0 AS existed
"""

# Hundreds of chunks in a statement. COPY would not be faster for them, and Postgres refuses it where a
# table has policies: a detour over a temporary table costs more than it saves.
FILL = """
    WITH parts AS (
        SELECT * FROM json_to_recordset(CAST(%(parts)s AS json)) AS p(
            document_id bigint, ordinal integer, start_char integer, end_char integer, heading text, text text,
            context text, content_hash text, page integer, embedding halfvec)
    ), written AS (
        INSERT INTO chunks (
            tenant, document_id, ordinal, start_char, end_char, heading, text, context, content_hash, page)
        SELECT %(tenant)s, document_id, ordinal, start_char, end_char, heading, text, context, content_hash, page
        FROM parts RETURNING id, document_id, ordinal
    ), vectors AS (
        INSERT INTO embeddings (stamp_id, chunk_id, tenant, dimensions, embedding)
        SELECT %(stamp_id)s, id, %(tenant)s, vector_dims(embedding), embedding
        FROM written JOIN parts USING (document_id, ordinal)
    ), terms AS (
        SELECT id, document_id, lexeme, cardinality(positions) AS frequency,
            sum(cardinality(positions)) OVER (PARTITION BY id) AS length
        FROM written JOIN parts USING (document_id, ordinal),
            unnest(to_tsvector('english', context || ' ' || heading || ' ' || text))
    ), indexed AS (
        INSERT INTO postings (tenant, term, chunk_id, frequency, length)
        SELECT %(tenant)s, lexeme, id, frequency, length FROM terms
    ), sizes AS (
        SELECT document_id, count(DISTINCT id) AS chunks, coalesce(sum(frequency), 0) AS terms
        FROM written LEFT JOIN terms USING (id, document_id) GROUP BY document_id
    )
    UPDATE documents SET chunk_count = chunk_count + sizes.chunks, term_count = term_count + sizes.terms
    FROM sizes WHERE documents.id = sizes.document_id
"""

VECTORS = text("""
    SELECT content_hash, CAST(CAST(embedding AS vector) AS real[]) AS vector
    FROM unnest(CAST(:hashes AS text[])) AS wanted (content_hash) CROSS JOIN LATERAL (
        SELECT e.embedding FROM chunks c JOIN embeddings e ON e.chunk_id = c.id AND e.stamp_id = :stamp_id
        WHERE c.tenant = :tenant AND c.content_hash = wanted.content_hash LIMIT 1
    ) found
""")


@dataclass(frozen=True, slots=True)
class Embedded:
    """A document to store: what it was cut into, and one vector per chunk."""

    document: Document
    chunks: Sequence[Chunk]
    vectors: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What a list of documents shows."""

    id: int
    source: str
    title: str
    media_type: str
    origin: str
    metadata: Mapping[str, str]
    chunks: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one version of a document from another: the bytes, how they are cut, and what it is filed under."""

    content_hash: str
    recipe: str
    metadata: Mapping[str, str]


async def versions(connection: AsyncConnection, tenant: str, sources: Sequence[str]) -> dict[str, Version]:
    """The stored version of each of these sources that is stored."""
    row = documents.c
    found = select(row.source, row.content_hash, row.recipe, row.metadata)
    rows = await connection.execute(found.where(row.tenant == tenant, _is_one_of(row.source, sources)))
    return {row.source: Version(row.content_hash, row.recipe, row.metadata) for row in rows}


async def replace_documents(
    connection: AsyncConnection, stamp_id: int, tenant: str, batch: Sequence[Embedded], *, recipe: str
) -> set[str]:
    """Store documents, each of another source, in place of what their sources had; name those that had something."""
    documents = await asyncio.to_thread(_documents_json, [embedded.document for embedded in batch])
    values = {"tenant": tenant, "recipe": recipe, "documents": documents}
    stored = {row.source: row for row in await connection.exec_driver_sql(UPSERT, values)}
    existed = {source for source, row in stored.items() if row.existed}
    if existed:
        old = literal([stored[source].id for source in existed], ARRAY(BigInteger))
        await connection.execute(delete(chunks).where(chunks.c.document_id == any_(old)))
    parts = [
        (stored[embedded.document.source].id, chunk, vector)
        for embedded in batch
        for chunk, vector in zip(embedded.chunks, embedded.vectors, strict=True)
    ]
    for start in range(0, len(parts), CHUNKS_AT_ONCE):
        some = await asyncio.to_thread(_chunks_json, parts[start : start + CHUNKS_AT_ONCE])
        await connection.exec_driver_sql(FILL, {"tenant": tenant, "stamp_id": stamp_id, "parts": some})
    return existed


def _documents_json(documents: Sequence[Document]) -> str:
    """Documents as UPSERT reads them."""
    names = ("source", "title", "media_type", "content_hash", "text", "origin", "page_starts")
    rows = [
        {name: getattr(document, name) for name in names} | {"metadata": dict(document.metadata)}
        for document in documents
    ]
    return json.dumps(rows, ensure_ascii=False)


def _chunks_json(parts: Sequence[tuple[int, Chunk, Sequence[float]]]) -> str:
    """Chunks, each with its document's id and its vector, as FILL reads them."""
    rows = [
        {
            "document_id": document_id,
            "ordinal": chunk.ordinal,
            "start_char": chunk.start,
            "end_char": chunk.end,
            "heading": chunk.heading,
            "text": chunk.text,
            "context": chunk.context,
            "content_hash": hash_text(chunk.searched),
            "page": chunk.page,
            "embedding": as_literal(vector),
        }
        for document_id, chunk, vector in parts
    ]
    return json.dumps(rows, ensure_ascii=False)


def as_literal(vector: Sequence[float]) -> str:
    """A vector as Postgres reads it; five digits are more than a halfvec holds."""
    return "[" + ",".join(["%.5g"] * len(vector)) % tuple(vector) + "]"


def hash_text(searched: str) -> str:
    """The hash by which a chunk that needs no new vector is known again; the migration computes the same in SQL."""
    return hashlib.sha256(searched.encode()).hexdigest()[:32]


async def known_vectors(
    connection: AsyncConnection, tenant: str, stamp_id: int, hashes: Sequence[str]
) -> dict[str, list[float]]:
    """The stored vectors of chunks that read the same, by their `hash_text`."""
    found: dict[str, list[float]] = {}
    for start in range(0, len(hashes), CHUNKS_AT_ONCE):  # to read what comes back stops this process too
        values = {"tenant": tenant, "stamp_id": stamp_id, "hashes": list(hashes[start : start + CHUNKS_AT_ONCE])}
        found |= {row.content_hash: row.vector for row in await connection.execute(VECTORS, values)}
    return found


async def clear(connection: AsyncConnection, tenant: str) -> None:
    """Remove every document of the tenant and its index stamps."""
    await hold_writers(connection, tenant)
    await connection.execute(delete(documents).where(documents.c.tenant == tenant))
    await connection.execute(delete(index_stamps).where(index_stamps.c.tenant == tenant))
    await connection.execute(delete(chunk_contexts).where(chunk_contexts.c.tenant == tenant))


async def list_documents(connection: AsyncConnection, tenant: str) -> list[StoredDocument]:
    """All documents of the tenant, by source."""
    rows = await connection.execute(_stored(tenant).order_by(documents.c.source))
    return [StoredDocument(*values) for values in rows]


async def page_of_documents(
    connection: AsyncConnection, tenant: str, *, limit: int, before: int | None = None
) -> list[StoredDocument]:
    """Some of them, the newest first, from the one before this id on; it need not be there any more."""
    query = _stored(tenant) if before is None else _stored(tenant).where(documents.c.id < before)
    rows = await connection.execute(query.order_by(documents.c.id.desc()).limit(limit))
    return [StoredDocument(*values) for values in rows]


async def read_document(connection: AsyncConnection, tenant: str, document_id: int) -> StoredDocument | None:
    """One of them; None where there is none."""
    row = (await connection.execute(_stored(tenant).where(documents.c.id == document_id))).one_or_none()
    return None if row is None else StoredDocument(*row)


def _stored(tenant: str) -> Select[Any]:
    row = documents.c
    columns = (row.id, row.source, row.title, row.media_type, row.origin, row.metadata, row.chunk_count, row.created_at)
    return select(*columns).where(row.tenant == tenant)


async def read_texts(connection: AsyncConnection, tenant: str) -> dict[str, str]:
    """Source to stored text, of every document of the tenant."""
    rows = await connection.execute(select(documents.c.source, documents.c.text).where(documents.c.tenant == tenant))
    return {row.source: row.text for row in rows}


async def sources(connection: AsyncConnection, tenant: str, *, origin: str) -> list[str]:
    """The sources of all documents that came in this way."""
    row = documents.c
    return list(await connection.scalars(select(row.source).where(row.tenant == tenant, row.origin == origin)))


async def delete_sources(connection: AsyncConnection, tenant: str, gone: Sequence[str]) -> int:
    """Remove these documents with all that was made from them; how many there were."""
    row = documents.c
    deleted = delete(documents).where(row.tenant == tenant, _is_one_of(row.source, gone))
    written = chunk_contexts.c
    of_them = delete(chunk_contexts).where(written.tenant == tenant, _is_one_of(written.source, gone))
    await connection.execute(of_them)
    return (await connection.execute(deleted)).rowcount


def _is_one_of(column: ColumnElement[str], names: Sequence[str]) -> ColumnElement[bool]:
    return column == any_(literal(list(names), ARRAY(Text)))


async def delete_document(connection: AsyncConnection, tenant: str, document_id: int) -> bool:
    """Remove a document with its chunks and postings; False where there was none."""
    row = documents.c
    source = await connection.scalar(select(row.source).where(row.tenant == tenant, row.id == document_id))
    return source is not None and await delete_sources(connection, tenant, [source]) > 0
