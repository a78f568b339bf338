"""Question to passages: both searches, their scores fused.

Min-max weighted fusion, because reciprocal rank fusion loses to BM25 alone where one side is weak.
Knows nothing of answers.
"""

from collections.abc import Sequence
from dataclasses import replace

from app.db import search, store
from app.db.engine import Database
from app.errors import NoDocuments
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.settings import Settings
from app.types import Passage


class Retriever:
    """Finds the passages of one tenant's documents that bear on a question."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings

    async def retrieve(
        self, question: str, context: CallContext | None = None, vector: Sequence[float] | None = None
    ) -> list[Passage]:
        """The best passages, best first, with the scores that led to them; `vector` is the question's, if known.

        Raises:
            NoDocuments: there is nothing to search in.
            IndexMismatch: the question would be embedded with another model than the documents were.

        """
        tenant, limit = self._database.tenant, self._settings.candidates
        async with self._database.transaction() as connection:
            if not await search.has_chunks(connection, tenant):
                raise NoDocuments
        if vector is None:
            [vector] = await self._gateway.embed([question], context=context)
        async with self._database.transaction() as connection:
            stamp = await store.check_stamp(connection, tenant, self._settings.embedding.model, len(vector))
            keyword = await search.keyword_scores(connection, tenant, question, limit)
            dense = await search.dense_scores(connection, stamp, vector, limit)
            fused = fuse(keyword, dense, self._settings.dense_weight)
            best = sorted(fused, key=lambda chunk: (-fused[chunk], chunk))[: self._settings.passages]
            found = await search.read_passages(connection, tenant, best)
        return [
            replace(found[chunk], score=fused[chunk], keyword=keyword.get(chunk), dense=dense.get(chunk))
            for chunk in best
            if chunk in found
        ]


def fuse(keyword: dict[int, float], dense: dict[int, float], dense_weight: float) -> dict[int, float]:
    """Weighted sum of both sides' min-max normalised scores, 0 to 1; a side that did not find a chunk gives 0."""
    keyword, dense = _min_max(keyword), _min_max(dense)
    return {
        chunk: (1 - dense_weight) * keyword.get(chunk, 0.0) + dense_weight * dense.get(chunk, 0.0)
        for chunk in keyword.keys() | dense.keys()
    }


def _min_max(scores: dict[int, float]) -> dict[int, float]:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    return {chunk: (score - low) / (high - low) if high > low else 1.0 for chunk, score in scores.items()}
