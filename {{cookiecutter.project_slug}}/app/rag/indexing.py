"""A document into the store: is it there already, what is in it, which of its chunks are new to the model.

A document is written with its chunks, vectors and postings in one transaction, small ones together. Knows nothing of
files or folders.
"""

import asyncio
import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.db import stamps, store
from app.db.engine import Database
from app.db.store import Embedded, Version
from app.gateway.context import CallContext
from app.gateway.gateway import EMBEDDING_BATCH, Gateway
from app.prompts.loader import load_prompt
from app.rag.contextual import add_contexts
from app.rag.loading import clean_metadata
from app.rag.parsing import Parsed, Parser
from app.rag.sources import CONTROL
from app.rag.stages import one_error
from app.settings import Settings
from app.types import Origin

RECIPE_VERSION = 1
"""Raise it when the same bytes are to be read or cut in another way: every document is then read anew."""

CALLS_AT_A_TIME = 4

Vector = Sequence[float]


@dataclass
class IngestReport:
    """What happened to each source, by name; `skipped` pairs a source with the reason.

    `chunks` were written, and `embedded` of them sent to the model: what reads as a chunk that is stored is not.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0
    embedded: int = 0

    def note(self, source: str, *, is_new: bool, chunks: int) -> None:
        """A document was stored, or would have been."""
        (self.added if is_new else self.changed).append(source)
        self.chunks += chunks

    def skip(self, source: str, error: Exception) -> None:
        """Note why a source was left out; its name may hold what nobody can print, or what a terminal would obey."""
        name = CONTROL.sub("?", source.encode(errors="replace").decode().replace("\n", "?"))
        self.skipped.append((name, getattr(error, "message", str(error))))

    def add(self, other: "IngestReport") -> None:
        """Take in what happened to others."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def sort(self) -> None:
        """Bring the names into order: documents are stored in the order in which they are ready."""
        for names in (self.added, self.changed, self.unchanged, self.removed, self.skipped):
            names.sort()


@dataclass(frozen=True)
class Options:
    """How a run goes: what documents are filed under, and on which API key's account.

    `again` takes nothing for unchanged; `dry` writes nothing.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    api_key_id: str = ""
    again: bool = False
    dry: bool = False


class Indexer:
    """The steps that a document takes, for one tenant."""

    def __init__(
        self, database: Database, gateway: Gateway, settings: Settings, options: Options, parser: Parser
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings
        self._options = options
        self._parser = parser
        self._metadata = clean_metadata(options.metadata)  # as it is stored, or it would differ in every run
        self._recipe = recipe(settings)
        self._calls = asyncio.Semaphore(calls_at_a_time(gateway))

    async def check_model(self) -> None:
        """Raise IndexMismatch before anything is paid for, if the index holds another model's vectors."""
        async with self._database.transaction() as connection:
            await stamps.find_stamp(connection, self._database.tenant, self._settings.embedding.model)

    async def versions(self, sources: Sequence[str]) -> dict[str, Version]:
        """Of these sources those that are stored."""
        async with self._database.transaction() as connection:
            return await store.versions(connection, self._database.tenant, sources)

    def is_stored(self, version: Version | None, content_hash: str) -> bool:
        """Whether this version is these bytes, read and cut as they would be now, and filed as the options say."""
        if version is None or self._options.again:
            return False
        same = (version.content_hash, version.recipe) == (content_hash, self._recipe)
        return same and self._metadata.items() <= version.metadata.items()

    async def parse(self, data: bytes, source: str, origin: Origin) -> Parsed:
        """Read and cut a document; where they are wanted, a model writes the contexts of its chunks.

        Raises:
            InvalidInput: it cannot be read.
            ProviderError, BudgetExceeded: the chat model failed.

        """
        parsed = await self._parser.parse(data, source=source, origin=origin, metadata=self._metadata)
        if self._options.dry:
            return parsed
        database, gateway, settings = self._database, self._gateway, self._settings
        chunks = await add_contexts(
            parsed.document,
            parsed.chunks,
            database=database,
            gateway=gateway,
            settings=settings,
            api_key_id=self._options.api_key_id,
        )
        return Parsed(parsed.document, tuple(chunks))

    async def store(self, batch: Sequence[Parsed], report: IngestReport) -> None:
        """Embed what is new in these documents together, and write them in one transaction.

        Raises:
            ProviderError, BudgetExceeded: the embedding model failed; nothing of the batch is stored.

        """
        texts = {store.hash_text(chunk.searched): chunk.searched for parsed in batch for chunk in parsed.chunks}
        known = {} if self._options.again else await self._known(list(texts))
        new = [key for key in texts if key not in known]
        vectors = known | dict(zip(new, await self._embed([texts[key] for key in new]), strict=True))
        report.embedded += len(new)
        await self._write(batch, vectors, report)

    async def _known(self, hashes: Sequence[str]) -> dict[str, Vector]:
        """The vectors of chunks that read the same: of the document's last version, or of one under another name."""
        tenant = self._database.tenant
        async with self._database.transaction() as connection:
            stamp = await stamps.find_stamp(connection, tenant, self._settings.embedding.model)
            return {} if stamp is None else {**await store.known_vectors(connection, tenant, stamp, hashes)}

    def _context(self) -> CallContext:
        return self._gateway.context(tenant=self._database.tenant, api_key_id=self._options.api_key_id)

    async def _embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector per text, packed; several calls at a time, each with the time that one answer has."""

        async def call(start: int) -> list[Vector]:
            async with self._calls:
                context = self._context()
                batch = list(texts[start : start + EMBEDDING_BATCH])
                return [array("f", vector) for vector in await self._gateway.embed(batch, context=context)]

        with one_error():
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(call(start)) for start in range(0, len(texts), EMBEDDING_BATCH)]
        return [vector for done in calls for vector in done.result()]

    async def _write(self, batch: Sequence[Parsed], vectors: Mapping[str, Vector], report: IngestReport) -> None:
        """Store the documents, all or none: a transaction costs as much as a small document."""
        tenant, model = self._database.tenant, self._settings.embedding.model
        lengths = {len(vector) for vector in vectors.values()}  # those that are used again may have another one
        embedded = [
            Embedded(document, chunks, [vectors[store.hash_text(chunk.searched)] for chunk in chunks])
            for document, chunks in ((parsed.document, parsed.chunks) for parsed in batch)
        ]
        async with self._database.transaction() as connection:
            stamp = await stamps.check_stamp(connection, tenant, model, *lengths)
            existed = await store.replace_documents(connection, stamp, tenant, embedded, recipe=self._recipe)
        for parsed in batch:
            source = parsed.document.source
            report.note(source, is_new=source not in existed, chunks=len(parsed.chunks))


def calls_at_a_time(gateway: Gateway) -> int:
    """How many calls of the embedding model may be under way.

    One that runs in this process takes few texts at once, and its calls compete for the same cores.
    """
    return max(1, CALLS_AT_A_TIME * gateway.deployments("embedding")[0].batch // EMBEDDING_BATCH)


def recipe(settings: Settings) -> str:
    """The hash of what decides, besides the bytes, how a document is read, cut and searched."""
    contexts = [load_prompt("context").content_hash, settings.chat.model] if settings.contextual_chunks else None
    decided = [RECIPE_VERSION, settings.chunk_characters, settings.chunk_overlap, contexts]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]
