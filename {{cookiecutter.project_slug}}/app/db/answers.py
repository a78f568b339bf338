"""Answers as they were given, for feedback, audit and evaluation; and what the store holds where a passage stands.

Knows nothing of how they are made.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace

from pydantic import TypeAdapter
from sqlalchemy import RowMapping, func, insert, outerjoin, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.conversations import take_answer
from app.db.tables import answers, documents, feedback
from app.errors import NotFound
from app.types import Answer, Passage, Rating, Turn, Usage

MOST_TURNS = 50  # that a question is read with; HISTORY_TOKENS is used up before
MOST_ANSWERS = 100  # that are shown of a conversation
OPINION = ("rating", "comment", "correction")
ROW = answers.c
NEWEST = ROW.created_at.desc(), ROW.id.desc()
LARGEST_DOCUMENT = 500_000  # bytes; whose headings are looked for: about 0.1 s for each document that is cited
# In the lines of a chunk after the first: a `#`, or a line that underlines.
MAY_BE_HEADING = r"\n([^\n]*#| {0,3}(=+|-+)[ \t]*(\n|$))"
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
        ) AS chunks,
        CASE WHEN octet_length(d.text) <= :largest AND d.media_type <> ALL(CAST(:plain AS text[])) AND EXISTS (
            SELECT FROM chunks c
            WHERE c.document_id = d.id AND c.start_char < asked.stop AND c.end_char > asked.start
                AND c.text ~ :heading
        ) THEN d.text ELSE '' END AS document
    FROM unnest(CAST(:sources AS text[]), CAST(:chunks AS bigint[]), CAST(:starts AS int[]), CAST(:ends AS int[]))
        WITH ORDINALITY AS asked (source, chunk, start, stop, n)
    JOIN documents d ON d.tenant = :tenant AND d.source = asked.source
""")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the owner of an answer said of it; `correction` is what would have been right."""

    rating: Rating
    comment: str
    correction: str


@dataclass(frozen=True, slots=True)
class RatedAnswer(Answer):
    """An answer, and what its owner thought of it."""

    feedback: Opinion | None = None


AnyRated = TypeAdapter[RatedAnswer](RatedAnswer)


@dataclass(frozen=True, slots=True)
class Stored:
    """A span of a document as it is in the store now, with the chunks that it touches: (start, end, id, heading).

    `document` is the whole text where one of these chunks may hold a further heading, but of a very large document.
    """

    text: str = ""
    page_starts: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int, int, str], ...] = ()
    document: str = field(default="", compare=False, repr=False)


async def read_stored(
    connection: AsyncConnection, tenant: str, passages: Sequence[Passage], *, plain: Collection[str] = ()
) -> list[Stored]:
    """What stands now where each passage stood; an empty one where the document is gone.

    `plain` are the media types that have no headings.
    """
    asked = {
        "tenant": tenant,
        "sources": [passage.source for passage in passages],
        "chunks": [passage.chunk_id for passage in passages],
        "starts": [passage.start for passage in passages],
        "ends": [passage.end for passage in passages],
        "plain": list(plain),
        "heading": MAY_BE_HEADING,
        "largest": LARGEST_DOCUMENT,
    }
    found = [Stored()] * len(passages)
    for row in await connection.execute(STORED, asked):
        chunks = tuple((start, end, chunk_id, heading) for start, end, chunk_id, heading in row.chunks)
        found[row.n - 1] = Stored(row.text, tuple(row.page_starts), chunks, row.document)
    return found


async def save_answer(connection: AsyncConnection, tenant: str, answer: Answer, owner: str = "") -> None:
    """Store the answer as it was given, in its conversation if it has one.

    Raises:
        NotFound: its conversation is not there any more.

    """
    if answer.conversation_id is not None:
        await take_answer(connection, tenant, owner, answer.conversation_id, answer.question)
    row = asdict(answer)
    usage = row.pop("usage")
    row |= {
        "tenant": tenant,
        "owner": owner,
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "usage_estimated": usage["estimated"],
    }
    # Not when the transaction began: it may have waited for another answer of the conversation.
    await connection.execute(insert(answers).values(row | {"created_at": func.clock_timestamp()}))


async def read_answer(connection: AsyncConnection, tenant: str, owner: str, answer_id: str) -> Answer:
    """One of the owner's answers, as it was given.

    Raises:
        NotFound: it is not there, or somebody else's.

    """
    query = select(answers).where(ROW.tenant == tenant, ROW.owner == owner, ROW.id == answer_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no answer {answer_id}")
    return answer_of(row)


async def read_turns(connection: AsyncConnection, tenant: str, conversation_id: str) -> list[Turn]:
    """The newest turns of a conversation, oldest first."""
    query = select(ROW.question, ROW.text).where(ROW.tenant == tenant, ROW.conversation_id == conversation_id)
    newest = await connection.execute(query.order_by(*NEWEST).limit(MOST_TURNS))
    return [Turn(*row) for row in reversed(newest.all())]


async def read_rated(connection: AsyncConnection, tenant: str, owner: str, conversation_id: str) -> list[RatedAnswer]:
    """The newest MOST_ANSWERS of a conversation, oldest first, with what the owner thought of them."""
    rated = outerjoin(answers, feedback, feedback.c.answer_id == ROW.id)  # by the owner alone: nobody else may
    query = select(answers, *(feedback.c[name] for name in OPINION)).select_from(rated)
    query = query.where(ROW.tenant == tenant, ROW.owner == owner, ROW.conversation_id == conversation_id)
    newest = await connection.execute(query.order_by(*NEWEST).limit(MOST_ANSWERS))
    return [replace(answer_of(row), feedback=_opinion(row)) for row in reversed(newest.mappings().all())]


def _opinion(row: RowMapping) -> Opinion | None:
    return Opinion(*(row[name] for name in OPINION)) if row["rating"] else None


def answer_of(row: RowMapping) -> RatedAnswer:
    """A row of `answers` as the answer that it was, but that cached tokens are not kept."""
    usage = Usage(row["input_tokens"], row["output_tokens"], estimated=row["usage_estimated"])
    return AnyRated.validate_python(dict(row) | {"usage": usage})


async def read_span(connection: AsyncConnection, tenant: str, source: str, start: int, end: int) -> str | None:
    """Characters `start` to `end` of a document's text as it is now; None where the document is gone."""
    span = func.substr(documents.c.text, start + 1, end - start)
    query = select(span).where(documents.c.tenant == tenant, documents.c.source == source)
    found: str | None = await connection.scalar(query)
    return found
