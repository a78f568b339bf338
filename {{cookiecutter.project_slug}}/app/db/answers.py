"""Answers as they were given, for feedback, audit and evaluation; and what the store holds where a passage stands.

Knows nothing of how they are made.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import answers
from app.types import Answer, Passage

# A passage that is a chunk is read from there: a part of a long document costs as much as all of it.
STORED = text("""
    SELECT asked.n, d.page_starts,
        coalesce(
            (SELECT c.text FROM chunks c WHERE c.id = asked.chunk AND c.document_id = d.id
                AND c.start_char = asked.start AND c.end_char = asked.stop),
            substr(d.text, asked.start + 1, asked.stop - asked.start)
        ) AS text,
        ARRAY(
            SELECT jsonb_build_array(c.start_char, c.end_char, c.id, c.heading) FROM chunks c
            WHERE c.document_id = d.id AND c.start_char < asked.stop AND c.end_char > asked.start ORDER BY c.ordinal
        ) AS chunks
    FROM unnest(CAST(:sources AS text[]), CAST(:chunks AS bigint[]), CAST(:starts AS int[]), CAST(:ends AS int[]))
        WITH ORDINALITY AS asked (source, chunk, start, stop, n)
    JOIN documents d ON d.tenant = :tenant AND d.source = asked.source
""")


@dataclass(frozen=True, slots=True)
class Stored:
    """A span of a document as it is in the store now, with the chunks that it touches: (start, end, id, heading)."""

    text: str = ""
    page_starts: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int, int, str], ...] = ()


async def read_stored(connection: AsyncConnection, tenant: str, passages: Sequence[Passage]) -> list[Stored]:
    """What stands now where each passage stood; an empty one where the document is gone."""
    asked = {
        "tenant": tenant,
        "sources": [passage.source for passage in passages],
        "chunks": [passage.chunk_id for passage in passages],
        "starts": [passage.start for passage in passages],
        "ends": [passage.end for passage in passages],
    }
    found = [Stored()] * len(passages)
    for row in await connection.execute(STORED, asked):
        chunks = tuple((start, end, chunk_id, heading) for start, end, chunk_id, heading in row.chunks)
        found[row.n - 1] = Stored(row.text, tuple(row.page_starts), chunks)
    return found


async def save_answer(connection: AsyncConnection, tenant: str, answer: Answer) -> None:
    """Store the answer as it was given."""
    row = asdict(answer)
    usage = row.pop("usage")
    row.pop("notice")
    row |= {
        "tenant": tenant,
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "usage_estimated": usage["estimated"],
    }
    await connection.execute(insert(answers).values(row))


async def read_answer(connection: AsyncConnection, tenant: str, answer_id: str) -> dict[str, Any] | None:
    """The stored row as a dictionary; None where there is none."""
    query = select(answers).where(answers.c.tenant == tenant, answers.c.id == answer_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    return dict(row) if row else None
