"""Files into the store, one transaction per document; what has not changed is not touched.

A document that fails is reported and skipped, and leaves nothing behind. Knows nothing of HTTP or the terminal.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from app.db import store
from app.db.engine import Database
from app.errors import InvalidInput
from app.gateway.gateway import EMBEDDING_BATCH, Gateway
from app.rag.chunking import split
from app.rag.loaders import hash_content, load_bytes, read_file
from app.settings import Settings
from app.types import Document


@dataclass
class IngestReport:
    """What happened to each source; `skipped` pairs a source with the reason."""

    added: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0


class Ingester:
    """Loads, cuts, embeds and stores documents for one tenant."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings

    async def ingest_files(
        self, files: Iterable[Path], on_file: Callable[[Path], None] = lambda _: None
    ) -> IngestReport:
        """Bring the store up to date with `files`; `on_file` is called after each."""
        report = IngestReport()
        for file in files:
            try:
                await self._ingest_file(file, report)
            except (InvalidInput, OSError) as error:
                name = str(file).encode(errors="replace").decode()  # a name may hold bytes that nobody can print
                report.skipped.append((name, getattr(error, "message", str(error))))
            on_file(file)
        return report

    async def ingest(self, document: Document, report: IngestReport) -> None:
        """Store one document, unless the same content is stored under its source already.

        Raises:
            IndexMismatch: the index holds vectors of another embedding model.
            ProviderError: the embedding model failed.

        """
        if await self._is_stored(document.source, document.content_hash):
            report.unchanged.append(document.source)
            return
        tenant = self._database.tenant
        chunks = await asyncio.to_thread(split, document, max_characters=self._settings.chunk_characters)
        batches = -(-len(chunks) // EMBEDDING_BATCH)
        context = self._gateway.context(tenant=tenant, seconds=self._settings.deadline_seconds * batches)
        vectors = await self._gateway.embed([chunk.searched for chunk in chunks], context=context)
        async with self._database.transaction() as connection:
            stamp = await store.check_stamp(connection, tenant, self._settings.embedding.model, len(vectors[0]))
            await store.replace_document(connection, stamp, tenant, document, chunks, vectors)
        report.added.append(document.source)
        report.chunks += len(chunks)

    async def _ingest_file(self, file: Path, report: IngestReport) -> None:
        """Parse a file only where its bytes are new: parsing costs more than all the rest of an unchanged run."""
        limit = self._settings.max_document_bytes
        source, data = await asyncio.to_thread(read_file, file, max_bytes=limit)
        if await self._is_stored(source, hash_content(data)):
            report.unchanged.append(source)
        else:
            await self.ingest(await asyncio.to_thread(load_bytes, data, source=source, max_bytes=limit), report)

    async def _is_stored(self, source: str, content_hash: str) -> bool:
        async with self._database.transaction() as connection:
            return await store.content_hash(connection, self._database.tenant, source) == content_hash

    async def clear(self) -> None:
        """Forget every document, so that another embedding model can begin."""
        async with self._database.transaction() as connection:
            await store.clear(connection, self._database.tenant)
