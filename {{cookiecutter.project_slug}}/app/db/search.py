"""The two searches, in SQL: BM25 over postings, and nearest vectors; and the reading of what they found.

Both give scores by chunk id; larger is better. Fusing them is retrieval's work. Writes nothing.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.stamps import find_stamp
from app.db.store import as_literal
from app.errors import NoDocuments
from app.types import Filter, Passage

K1, B = 1.2, 0.75
MOST_POSTINGS = 50_000
"""How many postings the keyword search may read to find candidates: 25 ms, and at 100,000 chunks 99 % of the best ten.

With 20,000, long questions missed one in eight of them.
"""
PROPOSED = 4
"""How many times as many candidates as wanted are rated, where words are too common to propose any."""
EXACT_BELOW = 10_000
"""With fewer chunks than this, comparing every vector costs about 6 ms and misses nothing."""
EF_SEARCH = 100
"""How many neighbours the walk through the HNSW index keeps in view.

At 100,000 chunks recall@10 was 0.974 against exact search; with 40, pgvector's own default, it was 0.928.
"""

# The measured numbers are the tenant's own. Without any word (only stop words) there is one row, of nulls.
WORDS = text("""
    SELECT size.chunks, size.terms, word.lexeme, cardinality(word.positions) AS asked, (
        SELECT count(*) FROM postings p WHERE p.tenant = :tenant AND p.term = word.lexeme
    ) AS held
    FROM (
        SELECT coalesce(sum(chunk_count), 0)::bigint AS chunks, coalesce(sum(term_count), 0)::bigint AS terms
        FROM documents WHERE tenant = :tenant
    ) size LEFT JOIN unnest(to_tsvector('english', :question)) word ON true
""")

OF_DOCUMENTS = "d.tenant = :tenant AND d.metadata @> CAST(:metadata AS jsonb) AND starts_with(d.source, :prefix)"
OF_CHUNKS = f"chunk_id IN (SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE {OF_DOCUMENTS})"
ALLOWED = text(f"SELECT coalesce(sum(chunk_count), 0)::bigint FROM documents d WHERE {OF_DOCUMENTS}")

# BM25 as in Robertson and Zaragoza (2009). Questions are long and documents are not written to match them, so a
# chunk needs any of the words, not all. The weights come with the question; nothing is read but one index.
BM25 = """
    SELECT chunk_id AS id, sum(weight * frequency / (frequency + :flat + :slope * length)) AS score
    FROM unnest(CAST(:terms AS text[]), CAST(:weights AS float8[])) AS word (term, weight)
    {named} JOIN postings p USING (term)
    WHERE p.tenant = :tenant AND {limits}
    GROUP BY chunk_id ORDER BY score DESC, chunk_id LIMIT :limit
"""
# Each word is looked up in each of these chunks: less than all words of the chunks, or all chunks of the words.
NAMED = {"named": "CROSS JOIN unnest(CAST(:ids AS bigint[])) AS named (id)", "limits": "chunk_id = named.id"}

# The distance to or from a vector of zeros is not-a-number: such a vector is like nothing.
DENSE = """
    WITH nearest AS MATERIALIZED (
        SELECT chunk_id, embedding <=> CAST(:vector AS halfvec) AS distance FROM embeddings
        WHERE stamp_id = :stamp AND tenant = :tenant AND {indexed} AND {limits}
        ORDER BY {distance} LIMIT :limit
    ), named AS (
        SELECT chunk_id, embedding <=> CAST(:vector AS halfvec) AS distance FROM embeddings
        WHERE stamp_id = :stamp AND chunk_id = ANY(:also)
    )
    SELECT chunk_id AS id, coalesce(nullif(1 - distance, 'NaN'), 0) AS score, true AS nearest FROM nearest
    UNION ALL
    SELECT chunk_id, coalesce(nullif(1 - distance, 'NaN'), 0), false FROM named
"""
EXACT = "embedding <=> CAST(:vector AS halfvec), chunk_id"
# The index is made for one length of vector and chosen by that expression. What it finds belongs to any tenant, so
# the walk has to go on until enough are this one's. Where there is no such index the sort happens all the same.
APPROXIMATE = "embedding::halfvec({n}) <=> CAST(:vector AS halfvec({n}))"
WALK = text("""
    SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', :ef, true),
        set_config('enable_sort', 'off', true)
""")
WALKED = text("SELECT set_config('enable_sort', 'on', true)")

STOP_WORDS = text("""
    SELECT DISTINCT lower(token) FROM ts_debug('english', :question) WHERE lexemes = '{}' ORDER BY 1
""")

PASSAGES = text("""
    SELECT c.id AS chunk_id, d.source, d.title, c.heading, c.start_char AS start, c.end_char AS "end", c.text, c.page
    FROM chunks c JOIN documents d ON d.id = c.document_id
    WHERE c.tenant = :tenant AND c.id = ANY(:ids)
""")

AROUND = text("""
    SELECT c.id, c.document_id, min(n.ordinal) AS first, max(n.ordinal) AS last,
        min(n.start_char) AS start, max(n.end_char) AS "end"
    FROM chunks c JOIN chunks n ON n.document_id = c.document_id AND abs(n.ordinal - c.ordinal) <= :reach
    WHERE c.tenant = :tenant AND c.id = ANY(:ids)
    GROUP BY c.id, c.document_id
""")

TEXTS = text("""
    SELECT span.n, substr(d.text, span.start + 1, span.stop - span.start) AS text
    FROM unnest(CAST(:documents AS bigint[]), CAST(:starts AS int[]), CAST(:ends AS int[]))
        WITH ORDINALITY AS span (id, start, stop, n)
    JOIN documents d ON d.id = span.id AND d.tenant = :tenant
""")


@dataclass(frozen=True, slots=True)
class Word:
    """A lexeme of the question: how often it is asked, how many chunks hold it, and how much that tells.

    `proposes` is False for one so common that it brings in no candidates; it still counts in the score of those that
    other words bring in.
    """

    lexeme: str
    asked: int
    held: int
    idf: float
    proposes: bool = True


@dataclass(frozen=True, slots=True)
class Words:
    """A question as the keyword search sees it, and the size of what is searched; the rarest word first."""

    words: tuple[Word, ...]
    chunks: int
    mean_length: float


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk with its neighbours: chunks `first` to `last` of a document, characters `start` to `end` of its text."""

    document_id: int
    first: int
    last: int
    start: int
    end: int


class Search:
    """Both searches over the chunks of one tenant that the filters allow, in the caller's transaction."""

    def __init__(self, connection: AsyncConnection, tenant: str, filters: Filter | None = None) -> None:
        self._connection = connection
        self._tenant = {"tenant": tenant}
        self._limits, self._filters = "true", {}
        if filters is not None and (filters.metadata or filters.source_prefix):
            self._limits = OF_CHUNKS
            self._filters = {"metadata": json.dumps(dict(filters.metadata)), "prefix": filters.source_prefix}

    async def stamp(self, model: str, dimensions: int | None = None) -> int:
        """The id that the vectors of `model` are stored under; None stands for any number of dimensions.

        Raises:
            NoDocuments: there is nothing to search in.
            IndexMismatch: the vectors are another model's.

        """
        stamp = await find_stamp(self._connection, self._tenant["tenant"], model, dimensions)
        if stamp is None:
            raise NoDocuments
        return stamp

    async def words(self, question: str) -> Words:
        """The question's words, with the idf of Lucene, which is never negative, over all of the tenant's chunks."""
        rows = (await self._connection.execute(WORDS, self._tenant | {"question": question})).all()
        chunks, terms, words, postings = rows[0].chunks, rows[0].terms, [], 0
        for row in sorted((row for row in rows if row.lexeme is not None), key=lambda row: (row.held, row.lexeme)):
            idf = log(1 + (chunks - row.held + 0.5) / (row.held + 0.5))
            postings, before = postings + row.held, postings
            words.append(Word(row.lexeme, row.asked, row.held, idf, not before or postings <= MOST_POSTINGS))
        return Words(tuple(words), chunks, max(terms / chunks, 1.0) if chunks else 1.0)

    async def stop_words(self, question: str) -> list[str]:
        """The words of the question that nobody searches for."""
        return list(await self._connection.scalars(STOP_WORDS, {"question": question}))

    async def count(self, words: Words) -> int:
        """How many chunks there are to choose from."""
        if not self._filters:
            return words.chunks
        return int(await self._connection.scalar(ALLOWED, self._tenant | self._filters))

    async def keyword(self, words: Words, limit: int) -> dict[int, float]:
        """The BM25 scores of the `limit` best chunks.

        Exact, unless words are so common that they propose nothing: then the others propose more chunks than are
        wanted, and all words rate those.
        """
        proposing = [word for word in words.words if word.proposes]
        if len(proposing) == len(words.words):
            return await self._bm25(words, proposing, limit)
        scores = await self.keyword_of(words, await self._bm25(words, proposing, PROPOSED * limit))
        return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:limit])

    async def keyword_of(self, words: Words, chunks: Iterable[int]) -> dict[int, float]:
        """The BM25 scores of these chunks; those without a word of the question are missing."""
        ids = list(chunks)
        return await self._bm25(words, words.words, len(ids), ids)

    async def _bm25(
        self, words: Words, chosen: Sequence[Word], limit: int, ids: list[int] | None = None
    ) -> dict[int, float]:
        if not chosen or not limit:
            return {}
        parts = NAMED if ids is not None else {"named": "", "limits": self._limits}
        values = {
            "terms": [word.lexeme for word in chosen],
            "weights": [word.asked * word.idf * (K1 + 1) for word in chosen],
            "flat": K1 * (1 - B),
            "slope": K1 * B / words.mean_length,
            "limit": limit,
        }
        more = self._filters if ids is None else {"ids": ids}
        rows = await self._connection.execute(_statement(BM25, **parts), self._tenant | values | more)
        return {row.id: row.score for row in rows}

    async def dense(
        self, stamp: int, vector: Sequence[float], limit: int, *, among: int, also: Iterable[int] = ()
    ) -> dict[int, float]:
        """The cosine similarity of the `limit` nearest chunks, and of the chunks `also`.

        `among` is how many there are to choose from. Among many the search goes through the index and is approximate,
        unless that brings too few: a tenant, or what the filters allow, may be a small part of the index.
        """
        values = {"stamp": stamp, "vector": as_literal(vector), "limit": limit, "also": list(also)}
        if among >= EXACT_BELOW:
            await self._connection.execute(WALK, {"ef": str(max(EF_SEARCH, limit))})
            rows = await self._dense(values, APPROXIMATE.format(n=len(vector)), f"dimensions = {len(vector)}")
            await self._connection.execute(WALKED)
            if sum(row.nearest for row in rows) >= min(limit, among):
                return {row.id: row.score for row in rows}
        return {row.id: row.score for row in await self._dense(values, EXACT, "true")}

    async def _dense(self, values: dict[str, Any], distance: str, indexed: str) -> Sequence[Row[Any]]:
        statement = _statement(DENSE, distance=distance, indexed=indexed, limits=self._limits)
        return (await self._connection.execute(statement, self._tenant | self._filters | values)).all()

    async def passages(self, ids: Sequence[int]) -> dict[int, Passage]:
        """The chunks as passages without scores, by chunk id."""
        rows = await self._connection.execute(PASSAGES, self._tenant | {"ids": list(ids)})
        return {row["chunk_id"]: Passage(**row, score=0.0) for row in rows.mappings()}

    async def around(self, ids: Sequence[int], reach: int) -> dict[int, Span]:
        """The chunks with `reach` neighbours on both sides, by chunk id."""
        rows = await self._connection.execute(AROUND, self._tenant | {"ids": list(ids), "reach": reach})
        return {row.id: Span(row.document_id, row.first, row.last, row.start, row.end) for row in rows}

    async def texts(self, spans: Sequence[Span]) -> list[str]:
        """The stored text of each span, in order; "" where the document was removed meanwhile."""
        values = {
            "documents": [span.document_id for span in spans],
            "starts": [span.start for span in spans],
            "ends": [span.end for span in spans],
        }
        stored = {row.n: row.text for row in await self._connection.execute(TEXTS, self._tenant | values)}
        return [stored.get(n, "") for n, _ in enumerate(spans, 1)]


@cache
def _statement(template: str, **parts: str) -> TextClause:
    """One object per statement: SQLAlchemy and Postgres then prepare it once."""
    return text(template.format(**parts))
