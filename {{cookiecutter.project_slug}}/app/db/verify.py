"""Does the index hold together: counts, hashes, dimensions, and nothing that belongs to nothing. Reads only.

Each check counts its faults; what to do about them is said where they are shown. Documents are read a few at a time,
so an index of any size takes little memory. Knows nothing of files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select, text

from app.db.engine import Database
from app.db.store import hash_text
from app.db.tables import chunks
from app.types import Chunk

DOCUMENTS_AT_ONCE = 50
BYTES_AT_ONCE = 20_000_000  # of text; a document that is larger is read alone

Repair = Literal["ingest", "reembed", "drop"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to hold, how often it does not, and what repairs it."""

    name: str
    faults: int
    repair: Repair


# What repairs it, and a query for the number of faults. Row-level security leaves the tenant's rows only.
COUNTED: dict[str, tuple[Repair, str]] = {
    "documents with as many chunks as they say": (
        "ingest",
        """SELECT count(*) FROM documents d WHERE d.tenant = :tenant AND d.chunk_count <>
            (SELECT count(*) FROM chunks c WHERE c.document_id = d.id AND c.tenant = d.tenant)""",
    ),
    "documents whose chunks are numbered without a gap": (
        "ingest",
        """SELECT count(*) FROM (
            SELECT FROM chunks WHERE tenant = :tenant GROUP BY document_id
            HAVING min(ordinal) <> 0 OR max(ordinal) <> count(*) - 1) faulty""",
    ),
    "documents with as many terms as they say": (
        "ingest",
        """SELECT count(*) FROM documents d LEFT JOIN (
            SELECT c.document_id, sum(p.frequency) AS terms
            FROM postings p JOIN chunks c ON c.id = p.chunk_id WHERE p.tenant = :tenant GROUP BY c.document_id
        ) counted ON counted.document_id = d.id
        WHERE d.tenant = :tenant AND d.term_count <> coalesce(counted.terms, 0)""",
    ),
    "chunks whose postings know their length": (
        "ingest",
        """SELECT count(*) FROM (
            SELECT FROM postings WHERE tenant = :tenant GROUP BY chunk_id
            HAVING min(length) <> sum(frequency) OR max(length) <> sum(frequency)) faulty""",
    ),
    "chunks of a document": (
        "ingest",
        """SELECT count(*) FROM chunks c WHERE c.tenant = :tenant
            AND NOT EXISTS (SELECT FROM documents d WHERE d.id = c.document_id AND d.tenant = c.tenant)""",
    ),
    "postings of a chunk": (
        "ingest",
        """SELECT count(*) FROM postings p WHERE p.tenant = :tenant
            AND NOT EXISTS (SELECT FROM chunks c WHERE c.id = p.chunk_id AND c.tenant = p.tenant)""",
    ),
    "vectors of a chunk and a model": (
        "drop",
        """SELECT count(*) FROM embeddings e WHERE e.tenant = :tenant AND NOT (
            EXISTS (SELECT FROM chunks c WHERE c.id = e.chunk_id AND c.tenant = e.tenant)
            AND EXISTS (SELECT FROM index_stamps s WHERE s.id = e.stamp_id AND s.tenant = e.tenant))""",
    ),
    "chunks with a vector of each model": (
        "reembed",
        """SELECT count(*) FROM chunks c JOIN index_stamps s ON s.tenant = c.tenant WHERE c.tenant = :tenant
            AND NOT EXISTS (SELECT FROM embeddings e WHERE e.stamp_id = s.id AND e.chunk_id = c.id)""",
    ),
    "vectors of their model's dimensions": (
        "drop",
        """SELECT count(*) FROM embeddings e JOIN index_stamps s ON s.id = e.stamp_id WHERE e.tenant = :tenant
            AND (e.dimensions <> s.dimensions OR vector_dims(e.embedding) <> s.dimensions)""",
    ),
    "models that are ready": ("reembed", "SELECT count(*) FROM index_stamps WHERE tenant = :tenant AND NOT ready"),
}
SOME = text("""
    SELECT id, text FROM (
        SELECT id, text, sum(octet_length(text)) OVER up_to_it AS bytes, row_number() OVER up_to_it AS number
        FROM (SELECT id, text FROM documents WHERE tenant = :tenant AND id > :last ORDER BY id LIMIT :most) next
        WINDOW up_to_it AS (ORDER BY id)
    ) sized WHERE bytes <= :bytes OR number = 1
""")
SLICED, HASHED = "chunks that stand in their document, word for word", "chunks with the hash of what they say"


async def verify(database: Database, on_document: Callable[[], None] = lambda: None) -> list[Check]:
    """Every check with its faults; `on_document` is called for each document whose text was compared."""
    checks = []
    for name, (repair, query) in COUNTED.items():
        async with database.transaction() as connection:
            faults = await connection.scalar(text(query), {"tenant": database.tenant})
        checks.append(Check(name, int(faults or 0), repair))
    sliced, hashed = await _compare_texts(database, on_document)
    return [*checks, Check(SLICED, sliced, "ingest"), Check(HASHED, hashed, "ingest")]


async def _compare_texts(database: Database, on_document: Callable[[], None]) -> tuple[int, int]:
    """How many chunks differ from their slice of the text, and how many from their hash."""
    chunk = chunks.c
    sliced = hashed = last = 0
    while True:
        page = {"tenant": database.tenant, "last": last, "most": DOCUMENTS_AT_ONCE, "bytes": BYTES_AT_ONCE}
        async with database.transaction() as connection:
            texts = {row.id: row.text for row in await connection.execute(SOME, page)}
            parts = select(
                *(chunk.document_id, chunk.content_hash),
                *(
                    chunk.ordinal,
                    chunk.start_char,
                    chunk.end_char,
                    chunk.heading,
                    chunk.text,
                    chunk.page,
                    chunk.context,
                ),
            ).where(chunk.document_id.in_(texts))
            for document_id, content_hash, *values in await connection.execute(parts):
                part = Chunk(*values)
                sliced += part.text != texts[document_id][part.start : part.end]
                hashed += content_hash != hash_text(part.searched)
        for _ in texts:
            on_document()
        if not texts:
            return sliced, hashed
        last = max(texts)
