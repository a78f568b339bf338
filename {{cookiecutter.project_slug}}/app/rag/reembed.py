"""Another embedding model, side by side: its vectors are made while the old ones serve, and then it is switched to.

What was made stays where a run ends early, and the next one goes on. Knows nothing of how vectors are searched.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.db import stamps, vectors
from app.db.engine import Database
from app.db.stamps import Stamp
from app.errors import InvalidInput, NoDocuments
from app.gateway.gateway import EMBEDDING_BATCH, Gateway
from app.rag.indexing import calls_at_a_time
from app.rag.stages import one_error
from app.settings import Settings


@dataclass(frozen=True)
class Reembedded:
    """The model, how many chunks there are, and how many of them were embedded now."""

    model: str
    chunks: int
    embedded: int


class Reembedder:
    """Gives every chunk of one tenant a vector of EMBEDDING_MODEL."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._model = settings.embedding.model
        self._calls_at_a_time = calls_at_a_time(gateway)

    async def count(self) -> int:
        """How many chunks have no vector of the model yet."""
        async with self._database.transaction() as connection:
            known = await stamps.read_stamps(connection, self._database.tenant)
            stamp = next((stamp.id for stamp in known if stamp.model == self._model), 0)
            _, missing = await vectors.count_missing(connection, self._database.tenant, stamp)
        return missing

    async def run(self, on_chunks: Callable[[int], None] = lambda _: None) -> Reembedded:
        """Embed what has no vector yet, and let servers use the model when nothing is missing any more.

        Documents that others write meanwhile are caught at the end, while writers wait for a moment.

        Raises:
            NoDocuments: there is nothing to embed.
            InvalidInput: the model gives another number of dimensions than when it was begun.
            ProviderError, BudgetExceeded: the model failed; what was embedded before stays.

        """
        stamp, after, embedded = await self._begin(), 0, 0
        while found := await self._missing(stamp, after):
            after = max(found)
            made = await self._embed(found, stamp)
            async with self._database.transaction() as connection:
                await vectors.add_vectors(connection, self._database.tenant, stamp.id, made)
            embedded += len(found)
            on_chunks(len(found))
        last, chunks = await self._finish(stamp)
        on_chunks(last)
        await vectors.tend(self._database)
        return Reembedded(self._model, chunks, embedded + last)

    async def drop(self, model: str) -> bool:
        """Remove a model's vectors; False where there were none."""
        async with self._database.transaction() as connection:
            return await vectors.drop_stamp(connection, self._database.tenant, model)

    async def _begin(self) -> Stamp:
        async with self._database.transaction() as connection:
            first = await vectors.read_missing(connection, self._database.tenant, 0, limit=1)
        if not first:
            raise NoDocuments
        made = await self._embed(first)
        [vector] = made.values()
        async with self._database.transaction() as connection:
            stamp = await vectors.begin_stamp(connection, self._database.tenant, self._model, len(vector))
        _check_length(made, stamp)
        return stamp

    async def _missing(self, stamp: Stamp, after: int) -> dict[int, str]:
        limit = self._calls_at_a_time * EMBEDDING_BATCH
        async with self._database.transaction() as connection:
            return await vectors.read_missing(connection, self._database.tenant, stamp.id, after=after, limit=limit)

    async def _finish(self, stamp: Stamp) -> tuple[int, int]:
        """Embed what came meanwhile and switch, in one transaction; how many these were, and all there are."""
        tenant, last = self._database.tenant, 0
        async with self._database.transaction() as connection:
            await stamps.hold_writers(connection, tenant)
            while found := await vectors.read_missing(connection, tenant, stamp.id, limit=EMBEDDING_BATCH):
                await vectors.add_vectors(connection, tenant, stamp.id, await self._embed(found, stamp))
                last += len(found)
            await vectors.make_ready(connection, stamp.id)
            chunks, _ = await vectors.count_missing(connection, tenant, stamp.id)
        return last, chunks

    async def _embed(self, texts: dict[int, str], stamp: Stamp | None = None) -> dict[int, list[float]]:
        """A vector by chunk id, of the stamp's length; the calls go out together, each with one answer's time."""
        ids = list(texts)

        async def call(batch: list[int]) -> dict[int, list[float]]:
            context = self._gateway.context(tenant=self._database.tenant)
            made = await self._gateway.embed([texts[chunk] for chunk in batch], context=context)
            return dict(zip(batch, made, strict=True))

        with one_error():
            async with asyncio.TaskGroup() as group:
                starts = range(0, len(ids), EMBEDDING_BATCH)
                calls = [group.create_task(call(ids[start : start + EMBEDDING_BATCH])) for start in starts]
        made = {chunk: vector for done in calls for chunk, vector in done.result().items()}
        if stamp:
            _check_length(made, stamp)
        return made


def _check_length(made: Mapping[int, Sequence[float]], stamp: Stamp) -> None:
    """Raise InvalidInput where a vector cannot be compared with those that the stamp stands for."""
    if other := next((len(vector) for vector in made.values() if len(vector) != stamp.dimensions), None):
        raise InvalidInput(
            f"{stamp.model} gives {other} dimensions, and its vectors in the index have {stamp.dimensions}: "
            f"remove them first, with `app reembed --drop {stamp.model}`"
        )
