"""Question to passages: both searches, their scores fused, near-duplicates out, reranked, neighbours added.

Each step is a module of its own; here is their order, and what became of every candidate. Writes nothing.
Knows nothing of answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from app.db.engine import Database
from app.db.search import Search, Words
from app.errors import NoDocuments
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.rag.duplicates import Runs, are_alike, runs
from app.rag.fusion import best_first, complete, normalise, reciprocal_ranks, weighted
from app.rag.neighbours import widen
from app.rag.rerank import rerank
from app.rag.rewriting import rewrite
from app.settings import Settings
from app.types import Filter, Passage

POOL = 30
"""How many candidates are read and, where there is a reranker, reranked; twice PASSAGES if that is more."""

Fate = Literal["read", "merged", "duplicate", "below"]


@dataclass(frozen=True, slots=True)
class Found:
    """What one query found: BM25 and cosine similarity of every candidate, whichever side proposed it."""

    words: Words
    keyword: dict[int, float]
    dense: dict[int, float]


@dataclass(frozen=True, slots=True)
class Score:
    """How well a chunk fits the query that it fits best.

    `keyword` is its BM25 score, None where it holds no word of the query, and `dense` its cosine similarity. Their
    shares say where they lie between the lowest and the highest of all candidates, 0 to 1.
    """

    fused: float
    query: str
    keyword: float | None
    dense: float | None
    keyword_share: float
    dense_share: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk with its scores and what became of it: `fate`, and `of` which other chunk.

    It is read by the model, merged into another passage as its neighbour, a near-duplicate of another, or below the
    cut.
    """

    passage: Passage
    score: Score
    fate: Fate = "below"
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A question's way to its passages. `found` counts all candidates, `candidates` are the best of them, best first.

    `words` are the question's own. `notes` say what did not go as it was set.
    """

    question: str
    queries: tuple[str, ...]
    words: Words
    found: int
    candidates: tuple[Candidate, ...]
    passages: tuple[Passage, ...]
    notes: tuple[str, ...] = ()


class Retriever:
    """Finds the passages of one tenant's documents that bear on a question."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings
        self._has_found = False

    async def retrieve(
        self,
        question: str,
        context: CallContext | None = None,
        vector: Sequence[float] | None = None,
        *,
        filters: Filter | None = None,
    ) -> list[Passage]:
        """What a model should read, best first, with the scores that led to it; see `search`."""
        return list((await self.search(question, context, vector, filters=filters)).passages)

    async def search(
        self,
        question: str,
        context: CallContext | None = None,
        vector: Sequence[float] | None = None,
        *,
        filters: Filter | None = None,
    ) -> Retrieval:
        """The whole way from the question to its passages; `vector` is the question's, if known.

        Raises:
            NoDocuments: there is nothing to search in.
            IndexMismatch: the question would be embedded with another model than the documents were.
            ProviderError: the embedding model failed.

        """
        tenant, settings = self._database.tenant, self._settings
        context = context or self._gateway.context(tenant=tenant)
        if not self._has_found:  # the first time, before a model is loaded or paid for
            async with self._database.transaction() as connection:
                await Search(connection, tenant).stamp(settings.embedding.model)
        queries = await rewrite(question, gateway=self._gateway, settings=settings, context=context)
        vectors = await self._vectors(queries, vector, context)
        async with self._database.transaction() as connection:
            search = Search(connection, tenant, filters)
            stamp = await search.stamp(settings.embedding.model, len(vectors[0]))
            pairs = zip(queries, vectors, strict=True)
            finds = {query: await find(search, stamp, query, v, settings.candidates) for query, v in pairs}
            self._has_found = True
            scores = _best_scores(finds, settings)
            pool = await _read(search, scores, max(POOL, 2 * settings.passages))
        notes = ["no further query was written"] if settings.rewrite and len(queries) == 1 else []
        candidates, passages = await self._widen(await self._choose(question, pool, context, notes))
        words = finds[question].words
        return Retrieval(question, tuple(queries), words, len(scores), tuple(candidates), passages, tuple(notes))

    async def _vectors(
        self, queries: Sequence[str], vector: Sequence[float] | None, context: CallContext
    ) -> list[Sequence[float]]:
        known = [] if vector is None else [vector]
        wanted = list(queries[len(known) :])
        return [*known, *(await self._gateway.embed(wanted, context=context) if wanted else [])]

    async def _choose(
        self, question: str, pool: Sequence[Candidate], context: CallContext, notes: list[str]
    ) -> list[Candidate]:
        """Say of each candidate whether it is read; the reranked ones come first, in their new order."""
        most, reranks = self._settings.passages, self._settings.rerank != "off"
        distinct, rest = without_duplicates(pool, max(POOL, most) if reranks else most)
        by_chunk = {candidate.passage.chunk_id: candidate for candidate in distinct}
        passages = [candidate.passage for candidate in distinct]
        ranked = await rerank(question, passages, gateway=self._gateway, settings=self._settings, context=context)
        best = [
            replace(by_chunk[passage.chunk_id], passage=passage, fate="read" if place < most else "below")
            for place, passage in enumerate(ranked)
        ]
        if reranks and best and all(passage.rerank is None for passage in ranked):
            notes.append("the reranker failed: the fused order was kept")
        return [*best, *rest]

    async def _widen(self, candidates: list[Candidate]) -> tuple[list[Candidate], tuple[Passage, ...]]:
        """Add the neighbours, where NEIGHBOURS asks for them; what they bring together is merged."""
        chosen = [candidate.passage for candidate in candidates if candidate.fate == "read"]
        if not self._settings.neighbours or not chosen:
            return candidates, tuple(chosen)
        async with self._database.transaction() as connection:
            search = Search(connection, self._database.tenant)
            wide, into = await widen(chosen, search, self._settings.neighbours)
        merged = [
            replace(c, fate="merged", of=into[c.passage.chunk_id]) if c.passage.chunk_id in into else c
            for c in candidates
        ]
        return merged, tuple(wide)


async def find(search: Search, stamp: int, query: str, vector: Sequence[float], limit: int) -> Found:
    """The `limit` best chunks of each side, and what the other side says of them.

    Raises:
        NoDocuments: there is nothing to search in.

    """
    words = await search.words(query)
    if not words.chunks:
        raise NoDocuments
    keyword = await search.keyword(words, limit)
    dense = await search.dense(stamp, vector, limit, among=await search.count(words), also=keyword)
    return Found(words, keyword | await search.keyword_of(words, dense.keys() - keyword.keys()), dense)


def fuse(found: Found, settings: Settings) -> dict[int, float]:
    """One score for each candidate, as FUSION and DENSE_WEIGHT say."""
    if settings.fusion == "rrf":
        return reciprocal_ranks(found.keyword, found.dense, settings.candidates)
    return weighted(found.keyword, found.dense, settings.dense_weight)


def _best_scores(finds: Mapping[str, Found], settings: Settings) -> dict[int, Score]:
    """The score of each chunk for the query that it fits best."""
    best: dict[int, Score] = {}
    for query, found in finds.items():
        keyword, dense = map(normalise, complete(found.keyword, found.dense))
        for chunk, fused in fuse(found, settings).items():
            if chunk not in best or fused > best[chunk].fused:
                raw = found.keyword.get(chunk), found.dense.get(chunk)
                best[chunk] = Score(fused, query, *raw, keyword[chunk], dense[chunk])
    return best


async def _read(search: Search, scores: Mapping[int, Score], most: int) -> list[Candidate]:
    """The best chunks with their texts, best first."""
    best = best_first({chunk: score.fused for chunk, score in scores.items()})[:most]
    found = await search.passages(best)
    return [
        Candidate(replace(found[chunk], score=score.fused, keyword=score.keyword, dense=score.dense), score)
        for chunk in best
        if chunk in found and (score := scores[chunk])
    ]


def without_duplicates(pool: Sequence[Candidate], most: int) -> tuple[list[Candidate], list[Candidate]]:
    """The `most` best that differ from each other, and the others with what became of them."""
    distinct: list[tuple[Candidate, Runs]] = []
    rest: list[Candidate] = []
    for candidate in pool:
        if len(distinct) == most:
            rest.append(candidate)
            continue
        these = runs(candidate.passage.text)
        twin = next((kept for kept, those in distinct if are_alike(these, those)), None)
        if twin:
            rest.append(replace(candidate, fate="duplicate", of=twin.passage.chunk_id))
        else:
            distinct.append((candidate, these))
    return [candidate for candidate, _ in distinct], rest
