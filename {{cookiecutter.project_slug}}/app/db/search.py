"""The two searches, in SQL: BM25 over postings, and exact nearest vectors.

Both return chunk ids with scores, best first; larger is better. Fusing them is retrieval's work.
"""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.types import Passage

K1, B = 1.2, 0.75

# BM25 as in Robertson and Zaragoza (2009), with the idf of Lucene, which is never negative. Questions are long
# and documents are not written to match them, so a chunk needs any of the terms, not all.
BM25 = text("""
    WITH size AS (
        SELECT sum(chunk_count)::float8 AS chunks,
            greatest(sum(term_count)::float8 / nullif(sum(chunk_count), 0), 1) AS mean_length
        FROM documents WHERE tenant = :tenant
    ), terms AS (
        SELECT lexeme FROM unnest(to_tsvector('english', :question))
    ), matches AS (
        SELECT p.chunk_id, p.frequency, p.length, count(*) OVER (PARTITION BY p.term) AS document_frequency
        FROM postings p JOIN terms ON p.term = terms.lexeme
        WHERE p.tenant = :tenant
    )
    SELECT m.chunk_id, sum(
        ln(1 + (size.chunks - m.document_frequency + 0.5) / (m.document_frequency + 0.5))
        * m.frequency * (:k1 + 1) / (m.frequency + :k1 * (1 - :b + :b * m.length / size.mean_length))
    ) AS score
    FROM matches m CROSS JOIN size
    GROUP BY m.chunk_id ORDER BY score DESC, m.chunk_id LIMIT :limit
""")

NEAREST = text("""
    SELECT chunk_id AS id, coalesce(nullif(1 - (embedding <=> CAST(:vector AS halfvec)), 'NaN'), 0) AS score
    FROM embeddings WHERE stamp_id = :stamp
    ORDER BY embedding <=> CAST(:vector AS halfvec), chunk_id LIMIT :limit
""")

PASSAGES = text("""
    SELECT c.id AS chunk_id, d.source, d.title, c.heading, c.start_char AS start, c.end_char AS "end", c.text, c.page
    FROM chunks c JOIN documents d ON d.id = c.document_id
    WHERE c.tenant = :tenant AND c.id = ANY(:ids)
""")


async def keyword_scores(connection: AsyncConnection, tenant: str, question: str, limit: int) -> dict[int, float]:
    """BM25 score by chunk id of the `limit` best chunks."""
    values = {"tenant": tenant, "question": question, "k1": K1, "b": B, "limit": limit}
    return {row.chunk_id: row.score for row in await connection.execute(BM25, values)}


async def dense_scores(
    connection: AsyncConnection, stamp_id: int, vector: Sequence[float], limit: int
) -> dict[int, float]:
    """Cosine similarity by chunk id of the `limit` nearest chunks."""
    literal = "[" + ",".join(f"{value:.6g}" for value in vector) + "]"
    rows = await connection.execute(NEAREST, {"stamp": stamp_id, "vector": literal, "limit": limit})
    return {row.id: row.score for row in rows}


async def read_passages(connection: AsyncConnection, tenant: str, ids: Sequence[int]) -> dict[int, Passage]:
    """The chunks as passages without scores, by chunk id."""
    rows = await connection.execute(PASSAGES, {"tenant": tenant, "ids": list(ids)})
    return {row["chunk_id"]: Passage(**row, score=0.0) for row in rows.mappings()}


async def has_chunks(connection: AsyncConnection, tenant: str) -> bool:
    """Whether the tenant has anything to search in."""
    found = await connection.scalar(text("SELECT EXISTS (SELECT FROM chunks WHERE tenant = :t)"), {"t": tenant})
    return bool(found)
