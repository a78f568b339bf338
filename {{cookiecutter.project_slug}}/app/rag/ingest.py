"""Files into the store: the index is brought up to date, and what has not changed is not touched.

A file that cannot be read is reported and skipped, and leaves nothing behind. A model that fails ends the run: what
was stored before stays, and another run goes on from there. Knows nothing of HTTP or the terminal.
"""

import asyncio
from asyncio import Queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from app.db import store
from app.db.engine import Database
from app.db.vectors import INDEX_FROM, tend, unindexed
from app.errors import AppError, ContentFiltered, ContextTooLong, InvalidInput
from app.gateway.gateway import EMBEDDING_BATCH, Gateway
from app.rag.indexing import Indexer, IngestReport, Options
from app.rag.parsing import Parsed, Parser
from app.rag.sources import check_name, hash_content, read_file
from app.rag.stages import drain, fill, one_error, work_off
from app.settings import Settings
from app.types import Origin

__all__ = ["ITS_OWN_FAULT", "IngestReport", "Ingester", "Options", "is_below", "source_of"]

READ_AT_ONCE = 256  # files, compared with the store in one query
READ_BYTES = 8_000_000  # or fewer of them, as soon as they come to this
PARSING = 4  # documents at a time; the parser has its own limit of processes
STORING = 4  # batches at a time: while one is written, others are embedded
TEND_FROM = 1_000  # chunks written by one run

# What one document is to blame for: it is skipped, and the others go on.
ITS_OWN_FAULT = (InvalidInput, ContentFiltered, ContextTooLong, OSError)
USUAL = Options()


class Ingester:
    """Brings one tenant's documents up to date. Leaving it ends the processes that read, unless they are shared."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings, parser: Parser | None = None) -> None:
        self._parts = (database, gateway, settings)
        self._database = database
        self._settings = settings
        self._parser = parser or Parser(settings)
        self._owns_parser = parser is None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owns_parser:
            await self._parser.aclose()

    async def ingest(
        self, data: bytes, *, source: str, origin: Origin = "upload", options: Options = USUAL
    ) -> IngestReport:
        """Store one document, unless the same content is stored under its source already.

        Raises:
            InvalidInput: it cannot be read.
            ContentFiltered, ContextTooLong: the embedding model does not take it.
            IndexMismatch: the index holds vectors of another embedding model.
            ProviderError, BudgetExceeded: the embedding model failed.

        """
        check_name(source)
        report, indexer = IngestReport(), self._indexer(options)
        await indexer.check_model()
        version = (await indexer.versions([source])).get(source)
        if indexer.is_stored(version, hash_content(data)):
            report.unchanged.append(source)
            return report
        parsed = await indexer.parse(data, source, origin)
        if options.dry:
            report.note(source, is_new=version is None, chunks=len(parsed.chunks))
        else:
            await indexer.store([parsed], report)
        return report

    async def ingest_files(
        self, files: Iterable[Path], on_file: Callable[[Path], None] = lambda _: None, options: Options = USUAL
    ) -> IngestReport:
        """Bring the store up to date with `files`; `on_file` is called when one is done.

        Raises:
            IndexMismatch: the index holds vectors of another embedding model.
            ProviderError, BudgetExceeded: the run ended early; what it had stored stays.

        """
        report, indexer = IngestReport(), self._indexer(options)
        await indexer.check_model()
        run = _Run(indexer, report, on_file, self._settings.max_document_bytes, options.dry)
        try:
            await run.go(iter(files))
        except AppError as error:
            error.message += "; what was stored before that stays: run it again to go on from there"
            error.args = (error.message,)
            raise
        report.sort()
        if report.chunks and not options.dry:
            await self._tend(report.chunks)
        return report

    async def remove_missing(self, present: Iterable[str], below: Iterable[str], *, dry: bool = False) -> list[str]:
        """Remove the documents that came from files below these folders and are not among `present`; name them.

        Both are named as `source_of` names them.
        """
        kept, folders = set(present), list(below)
        async with self._database.transaction() as connection:
            stored = await store.sources(connection, self._database.tenant, origin="file")
            gone = sorted(name for name in stored if name not in kept and any(is_below(name, f) for f in folders))
            if not dry:
                await store.delete_sources(connection, self._database.tenant, gone)
        return gone

    async def clear(self) -> None:
        """Forget every document and every vector."""
        async with self._database.transaction() as connection:
            await store.clear(connection, self._database.tenant)

    async def _tend(self, written: int) -> None:
        """After many changes, and when an index that grew in small steps or by uploads has become large."""
        if written >= TEND_FROM or await unindexed(self._database, INDEX_FROM):
            await tend(self._database, index_from=INDEX_FROM)

    def _indexer(self, options: Options) -> Indexer:
        return Indexer(*self._parts, options, self._parser)


@dataclass(frozen=True)
class _File:
    """A file that was found: its name, bytes and their hash, or why it could not be read."""

    path: Path
    source: str
    data: bytes = b""
    content_hash: str = ""
    error: Exception | None = None
    is_new: bool = True


_Item = tuple[_File, Parsed]


@dataclass
class _Run:
    """Files on their way through four stages at once: what has changed, what is in it, batches, the store."""

    indexer: Indexer
    report: IngestReport
    on_file: Callable[[Path], None]
    max_bytes: int
    dry: bool
    parsed: Queue[_Item | None] = field(default_factory=lambda: Queue(PARSING))

    async def go(self, files: Iterator[Path]) -> None:
        """All of them, to the end."""
        changed: Queue[_File | None] = Queue(PARSING)
        batches: Queue[list[_Item] | None] = Queue(1)
        with one_error():
            async with asyncio.TaskGroup() as group:
                group.create_task(fill(changed, self._changed(files)))
                group.create_task(work_off(changed, self._parse, workers=PARSING, then_end=self.parsed))
                group.create_task(fill(batches, _batches(drain(self.parsed))))
                group.create_task(work_off(batches, self._store, workers=STORING))

    async def _changed(self, files: Iterator[Path]) -> AsyncIterator[_File]:
        """Those whose bytes, or the way to read them, are not what is stored."""
        seen = set[str]()
        while some := await asyncio.to_thread(_read_some, files, self.max_bytes):
            known = await self.indexer.versions([file.source for file in some if not file.error])
            for file in some:
                version = known.get(file.source)
                if file.error:
                    self._skip(file, file.error)
                elif file.source in seen:  # it was named twice
                    self.on_file(file.path)
                elif self.indexer.is_stored(version, file.content_hash):
                    self.report.unchanged.append(file.source)
                    self.on_file(file.path)
                else:
                    yield replace(file, is_new=version is None)
                seen.add(file.source)

    async def _parse(self, file: _File) -> None:
        try:
            parsed = await self.indexer.parse(file.data, file.source, "file")
        except ITS_OWN_FAULT as error:
            self._skip(file, error)
            return
        if self.dry:
            self.report.note(file.source, is_new=file.is_new, chunks=len(parsed.chunks))
            self.on_file(file.path)
        else:
            await self.parsed.put((replace(file, data=b""), parsed))  # nobody needs its bytes any more

    async def _store(self, batch: list[_Item]) -> None:
        """Where the model refuses a batch, each of its documents alone: one of them is to blame."""
        try:
            await self.indexer.store([parsed for _, parsed in batch], self.report)
        except (ContentFiltered, ContextTooLong) as error:
            if len(batch) == 1:
                self._skip(batch[0][0], error)
                return
            for item in batch:
                await self._store([item])
        else:
            for file, _ in batch:
                self.on_file(file.path)

    def _skip(self, file: _File, error: Exception) -> None:
        self.report.skip(file.source, error)
        self.on_file(file.path)


def _read_some(files: Iterator[Path], max_bytes: int) -> list[_File]:
    """The next files: bytes that nobody needs yet would only fill the memory."""
    some: list[_File] = []
    length = 0
    while len(some) < READ_AT_ONCE and length < READ_BYTES and (path := next(files, None)):
        some.append(_read(path, max_bytes))
        length += len(some[-1].data)
    return some


def _read(path: Path, max_bytes: int) -> _File:
    try:
        source, data = read_file(path, max_bytes=max_bytes)
    except (InvalidInput, OSError) as error:
        return _File(path, str(path), error=error)
    return _File(path, source, data, hash_content(data))


def source_of(path: Path) -> str:
    """A file's name in the store: relative where it lies below the working directory. A folder's ends with a slash."""
    absolute, here = path.resolve(), Path.cwd()
    name = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    return f"{name.as_posix()}/".removeprefix("./") if path.is_dir() else name.as_posix()


def is_below(source: str, folder: str) -> bool:
    """Whether a document came from below a folder, both named as `source_of` names them.

    The working directory's name is empty, and what lies elsewhere is no part of it.
    """
    return source.startswith(folder) if folder else not source.startswith("/")


async def _batches(items: AsyncIterator[_Item]) -> AsyncIterator[list[_Item]]:
    """As many documents together as fill one call of the embedding model; a long document goes alone."""
    batch: list[_Item] = []
    length = 0
    async for item in items:
        _, parsed = item
        length += len(parsed.chunks)
        if length > EMBEDDING_BATCH and batch:
            yield batch
            batch, length = [], len(parsed.chunks)
        batch.append(item)
    if batch:
        yield batch
