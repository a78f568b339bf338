"""The semantic cache: an answer given before serves a question that means the same, where that was measured to be safe.

A route uses it only after `measure` has shown on labelled pairs of questions that few of the hits would be wrong; the
row that `measure` writes is the switch. Knows nothing of what an answer holds.
"""

import asyncio
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.db import cache as rows
from app.db.engine import Database
from app.errors import InvalidInput
from app.gateway.cache import CACHE_VERSION, digest
from app.gateway.gateway import Gateway
from app.settings import Settings

Z = 1.96
"""Standard errors on each side of a 95 percent interval."""


class SemanticCache:
    """One tenant's answers by the meaning of their questions.

    `scope` is everything else that an answer depends on, as a JSON value: only answers of an equal scope are found.
    `vector` is the question's, by the embedding role.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def is_on(self, route: str) -> bool:
        """Whether it is worth while to work out a scope and to look.

        Raises:
            DatabaseUnavailable: there is no connection, or it broke.

        """
        async with self._database.transaction() as connection:
            return await rows.is_on(connection, self._shelf(route, None))

    async def find(self, route: str, scope: object, vector: Sequence[float]) -> dict[str, Any] | None:
        """The payload kept with the nearest question; None where none is near enough, or the route is off.

        Raises:
            DatabaseUnavailable: there is no connection, or it broke.

        """
        async with self._database.transaction() as connection:
            payload = await rows.nearest_answer(connection, self._shelf(route, scope), vector)
        return json.loads(payload) if payload else None

    async def keep(
        self, route: str, scope: object, question: str, vector: Sequence[float], payload: dict[str, Any]
    ) -> None:
        """Store a whole, checked answer as a JSON object. Where the route is off, nothing is stored.

        Never an answer that was found here: from question to question its meaning would drift.

        Raises:
            DatabaseUnavailable: there is no connection, or it broke.

        """
        raw = json.dumps(payload).encode()
        async with self._database.transaction() as connection:
            shelf = self._shelf(route, scope)
            await rows.keep_answer(connection, shelf, question=question, vector=vector, payload=raw)

    def _shelf(self, route: str, scope: object) -> rows.Shelf:
        model = self._settings.embedding.model
        return rows.Shelf(
            tenant=self._database.tenant,
            route=route,
            scope_hash=digest([CACHE_VERSION, model, scope]),
            embedding_model=model,
            limit=self._settings.semantic_cache_max_false_hits,
            max_age=self._settings.cache_seconds,
        )


class Pair(BaseModel):
    """Two questions, and whether one answer serves both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: str = Field(min_length=1)
    b: str = Field(min_length=1)
    same: bool


@dataclass(frozen=True)
class Measurement:
    """What the cache would have done with labelled pairs; `limit` is SEMANTIC_CACHE_MAX_FALSE_HITS."""

    route: str
    threshold: float
    embedding_model: str
    dataset_hash: str
    same: int
    different: int
    true_hits: int
    false_hits: int
    limit: float

    @property
    def hit_rate(self) -> float:
        """The share of the equal pairs that would hit: what the cache is good for."""
        return self.true_hits / self.same if self.same else 0.0

    @property
    def trials(self) -> int:
        """What the false hits are held against: all hits or all different pairs, whichever are fewer.

        So neither a set with few near misses nor a threshold with few hits can make the rate look small.
        """
        return min(self.true_hits + self.false_hits, self.different)

    @property
    def false_hit_rate(self) -> float:
        """The share of wrong answers, as counted; 1 where nothing was counted."""
        return self.false_hits / self.trials if self.trials else 1.0

    @property
    def false_hit_rate_at_most(self) -> float:
        """The upper end of its 95 percent Wilson interval: what so few pairs cannot rule out."""
        if not (n := self.trials):
            return 1.0
        share = self.false_hit_rate
        spread = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
        return min(1.0, (share + Z**2 / (2 * n) + spread) / (1 + Z**2 / n))

    @property
    def is_safe(self) -> bool:
        """Whether the route may use the cache: not what was counted counts, but what can be ruled out."""
        return self.false_hit_rate_at_most <= self.limit


async def measure(
    database: Database, gateway: Gateway, settings: Settings, *, route: str, threshold: float, pairs: Path
) -> Measurement:
    """Count hits among the labelled pairs, and switch the route's cache on where that is safe; else switch it off.

    Raises:
        InvalidInput: the threshold is no cosine similarity, or the file is not what it should be.
        ProviderError: the embedding model failed; the switch stays as it is.

    """
    if not 0 < threshold <= 1:
        raise InvalidInput(f"the threshold is {threshold:g}; it has to be above 0 and at most 1")
    labelled, dataset_hash = await asyncio.to_thread(load_pairs, pairs)
    likeness = await _similarities(gateway, labelled)
    hits = [pair.same for pair, value in zip(labelled, likeness, strict=True) if value >= threshold]
    same = sum(pair.same for pair in labelled)
    counts = {"same": same, "different": len(labelled) - same, "true_hits": sum(hits), "false_hits": hits.count(False)}
    limit, model = settings.semantic_cache_max_false_hits, settings.embedding.model
    measured = Measurement(route, threshold, model, dataset_hash, **counts, limit=limit)
    await _switch(database, measured)
    return measured


async def off(database: Database, route: str) -> None:
    """Switch the route's cache off and forget its answers."""
    async with database.across_tenants() as connection:
        await rows.switch_off(connection, route)


def load_pairs(path: Path) -> tuple[list[Pair], str]:
    """The labelled pairs, one JSON object a line, and the hash of the file.

    Raises:
        InvalidInput: names the line and what is wrong with it.

    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the pairs {path} cannot be read: {error.strerror}") from None
    pairs: dict[frozenset[str], Pair] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            pair = Pair.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "pair"
            raise InvalidInput(f"{path}:{number}: {where}: {first['msg']}") from None
        questions = frozenset({pair.a, pair.b})
        if questions in pairs:
            raise InvalidInput(f"{path}:{number}: this pair was there before, and would count twice")
        pairs[questions] = pair
    return list(pairs.values()), hashlib.sha256(raw).hexdigest()


async def _similarities(gateway: Gateway, pairs: Sequence[Pair]) -> list[float]:
    """The cosine of each pair's vectors, embedded as questions are."""
    vectors = await gateway.embed([question for pair in pairs for question in (pair.a, pair.b)])
    return [_cosine(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Of a vector without a direction it is 0."""
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


async def _switch(database: Database, measured: Measurement) -> None:
    if not measured.is_safe:
        await off(database, measured.route)
        return
    switch = rows.Switch(
        route=measured.route,
        threshold=measured.threshold,
        embedding_model=measured.embedding_model,
        false_hit_rate=measured.false_hit_rate,
        false_hit_rate_at_most=measured.false_hit_rate_at_most,
        pairs=measured.same + measured.different,
        dataset_hash=measured.dataset_hash,
    )
    async with database.transaction() as connection:
        await rows.switch_on(connection, switch)
