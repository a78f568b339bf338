"""Documents, their chunks and postings: write, list, delete. Everything of one document in one transaction.

The caller opens the transaction. Knows nothing of loading, chunking or models.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import chunks, documents, embeddings, index_stamps
from app.errors import IndexMismatch
from app.types import Chunk, Document

FILL_POSTINGS = text("""
    WITH terms AS (
        SELECT c.tenant, t.lexeme, c.id, cardinality(t.positions) AS frequency,
            sum(cardinality(t.positions)) OVER (PARTITION BY c.id) AS length
        FROM chunks c, unnest(to_tsvector('english', c.context || ' ' || c.heading || ' ' || c.text)) t
        WHERE c.document_id = :document_id
    ), filled AS (
        INSERT INTO postings (tenant, term, chunk_id, frequency, length)
        SELECT tenant, lexeme, id, frequency, length FROM terms
        RETURNING frequency
    )
    UPDATE documents SET
        term_count = (SELECT coalesce(sum(frequency), 0) FROM filled),
        chunk_count = (SELECT count(*) FROM chunks WHERE document_id = :document_id)
    WHERE id = :document_id
""")


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What a list of documents shows."""

    id: int
    source: str
    title: str
    media_type: str
    chunks: int
    created_at: datetime


async def content_hash(connection: AsyncConnection, tenant: str, source: str) -> str | None:
    """The hash of the stored version of `source`; None where it is not stored."""
    found = select(documents.c.content_hash).where(documents.c.tenant == tenant, documents.c.source == source)
    return await connection.scalar(found)


async def replace_document(
    connection: AsyncConnection,
    stamp_id: int,
    tenant: str,
    document: Document,
    parts: Sequence[Chunk],
    vectors: Sequence[Sequence[float]],
) -> int:
    """Store `document` with one vector per chunk in place of what its source had before; return its id."""
    content = {
        "title": document.title,
        "media_type": document.media_type,
        "content_hash": document.content_hash,
        "text": document.text,
        "origin": document.origin,
        "recipe": "",
        "metadata": dict(document.metadata),
        "page_starts": list(document.page_starts),
        "created_at": func.now(),
    }
    # An upsert, not delete and insert: of two writers of one source the second waits, and wins.
    added = upsert(documents).values(tenant=tenant, source=document.source, **content)
    written = added.on_conflict_do_update(constraint="documents_tenant_source_key", set_=content)
    document_id: int = (await connection.execute(written.returning(documents.c.id))).scalar_one()
    await connection.execute(delete(chunks).where(chunks.c.document_id == document_id))
    rows = [
        {
            "tenant": tenant,
            "document_id": document_id,
            "ordinal": part.ordinal,
            "start_char": part.start,
            "end_char": part.end,
            "heading": part.heading,
            "text": part.text,
            "context": part.context,
            "page": part.page,
            "content_hash": hash_text(part.searched),
        }
        for part in parts
    ]
    ids = (
        await connection.execute(insert(chunks).returning(chunks.c.id, sort_by_parameter_order=True), rows)
    ).scalars()
    await connection.execute(
        insert(embeddings),
        [
            {
                "stamp_id": stamp_id,
                "chunk_id": chunk_id,
                "tenant": tenant,
                "dimensions": len(vector),
                "embedding": vector,
            }
            for chunk_id, vector in zip(ids, vectors, strict=True)
        ],
    )
    await connection.execute(FILL_POSTINGS, {"document_id": document_id})
    return document_id


def hash_text(searched: str) -> str:
    """The hash by which a chunk that needs no new vector is known again."""
    return hashlib.blake2b(searched.encode(), digest_size=16).hexdigest()


async def check_stamp(connection: AsyncConnection, tenant: str, model: str, dimensions: int) -> int:
    """The id of the model's stamp; an empty index is stamped with the first model.

    Raises:
        IndexMismatch: the index holds another model's vectors, which cannot be compared with this one's.

    """
    known = (await connection.execute(select(index_stamps).where(index_stamps.c.tenant == tenant))).all()
    for stamp in known:
        if (stamp.embedding_model, stamp.dimensions) == (model, dimensions) and stamp.ready:
            return int(stamp.id)
    if known:
        raise IndexMismatch(
            f"the index was built with {known[0].embedding_model} ({known[0].dimensions} dimensions), and "
            f"EMBEDDING_MODEL is {model} ({dimensions}): set it back, or embed everything again with "
            "`app ingest --rebuild PATH`"
        )
    new = {"tenant": tenant, "embedding_model": model, "dimensions": dimensions, "ready": True}
    added = upsert(index_stamps).values(**new).on_conflict_do_nothing().returning(index_stamps.c.id)
    stamp_id = await connection.scalar(added)
    return int(stamp_id) if stamp_id is not None else await check_stamp(connection, tenant, model, dimensions)


async def clear(connection: AsyncConnection, tenant: str) -> None:
    """Remove every document of the tenant and its index stamp."""
    await connection.execute(delete(documents).where(documents.c.tenant == tenant))
    await connection.execute(delete(index_stamps).where(index_stamps.c.tenant == tenant))


async def list_documents(connection: AsyncConnection, tenant: str) -> list[StoredDocument]:
    """All documents of the tenant, by source."""
    count = select(func.count()).where(chunks.c.document_id == documents.c.id).scalar_subquery()
    columns = (documents.c.id, documents.c.source, documents.c.title, documents.c.media_type, count)
    query = select(*columns, documents.c.created_at).where(documents.c.tenant == tenant)
    rows = await connection.execute(query.order_by(documents.c.source))
    return [StoredDocument(*row) for row in rows]


async def read_texts(connection: AsyncConnection, tenant: str) -> dict[str, str]:
    """Source to stored text, of every document of the tenant."""
    rows = await connection.execute(select(documents.c.source, documents.c.text).where(documents.c.tenant == tenant))
    return {row.source: row.text for row in rows}


async def delete_document(connection: AsyncConnection, tenant: str, document_id: int) -> bool:
    """Remove a document with its chunks and postings; False where there was none."""
    gone = delete(documents).where(documents.c.tenant == tenant, documents.c.id == document_id)
    return (await connection.execute(gone)).rowcount > 0
