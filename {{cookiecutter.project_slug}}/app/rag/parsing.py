"""Documents are read in processes of their own: a few that live long, and are replaced when a document kills them.

Whatever a hostile file does to its reader, this process loses no memory, no time and no secrets to it: it sends bytes,
waits for PARSE_SECONDS at most, and checks what comes back. Knows nothing of formats or the database.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from app import errors
from app.errors import AppError, UnsupportedDocument
from app.rag.child import Frame, read_frame, write_frame
from app.rag.sources import check_name, check_size
from app.settings import Settings
from app.types import Chunk, Document, Origin

MOST_CHILDREN = 4
START_SECONDS = 60  # to import what a child needs; a machine may be busy
HEAD_BYTES = 8_000_000  # of a reply, beside the text
COMMAND = (sys.executable, *(["-B"] if sys.dont_write_bytecode else []), "-m", "app.rag.child")
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONUTF8": "1"}  # and nothing of ours: a key in there would be the file's for the asking
REFUSALS = ("InvalidInput", "UnsupportedDocument", "DocumentTooLarge")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document as text, and the chunks that it was cut into."""

    document: Document
    chunks: tuple[Chunk, ...]


class Parser:
    """Reads and cuts documents, several at a time. Children start with the first document, and end with `aclose`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        size = min(MOST_CHILDREN, os.cpu_count() or 1)
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Child] = []
        self._threads = ThreadPoolExecutor(2 * size, thread_name_prefix="parser")  # twice: the killed ones may linger

    async def parse(
        self, data: bytes, *, source: str, origin: Origin = "file", metadata: Mapping[str, str] | None = None
    ) -> Parsed:
        """Read one document. A cancelled call kills its child; the next one gets another.

        Raises:
            UnsupportedDocument: no loader reads it, or reading it takes too much time or memory.
            DocumentTooLarge: more bytes, text, pages or parts than are allowed.
            InvalidInput: its name cannot be stored.

        """
        check_name(source)
        check_size(source, len(data), self._settings.max_document_bytes)
        request = self._recipe() | {"source": source, "origin": origin, "metadata": dict(metadata or {})}
        async with self._free:
            child = await self._child()
            try:
                reply = await self._within(self._settings.parse_seconds, child, child.exchange, request, data)
            except TimeoutError:
                raise UnsupportedDocument(f"{source}: {self._late()}") from None
        if reply is None:
            raise UnsupportedDocument(f"{source}: {self._broke()}")
        head, body = reply
        if (name := head.get("error")) in REFUSALS:
            raise getattr(errors, name)(str(head.get("message")))
        try:
            return _parsed(head, body.decode(), source, origin)
        except (LookupError, TypeError, ValueError) as error:  # a file has taken the child over
            raise UnsupportedDocument(f"{source}: its reader gave an answer that makes no sense") from error

    async def aclose(self) -> None:
        """End the children."""
        while self._idle:
            self._idle.pop().end()
        await asyncio.to_thread(self._threads.shutdown)

    def _recipe(self) -> dict[str, Any]:
        return {
            "max_bytes": self._settings.max_document_bytes,
            "max_pages": self._settings.max_document_pages,
            "max_characters": self._settings.chunk_characters,
            "overlap": self._settings.chunk_overlap,
        }

    async def _child(self) -> "_Child":
        """One that waits for work, or a new one."""
        while self._idle:
            child = self._idle.pop()
            if child.process.poll() is None:
                return child
            child.end()
        child = _Child(self._settings)
        with suppress(TimeoutError):
            if await self._within(START_SECONDS, child, child.wait_until_ready):
                return self._idle.pop()
        raise AppError("the process that reads documents does not start")

    async def _within(
        self, seconds: float, child: "_Child", call: Callable[..., T | None], *arguments: object
    ) -> T | None:
        """What `call` gives; after that the child is idle, or gone where the call gave nothing or took too long."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        try:
            await asyncio.wait([work], timeout=seconds)
        finally:
            if not work.done():  # the thread waits for the child, so it goes on when the child is dead
                child.process.kill()
                work.add_done_callback(lambda _: child.end())
            elif work.result() is None:
                child.end()
            else:
                self._idle.append(child)
        if not work.done():
            raise TimeoutError
        return work.result()

    def _late(self) -> str:
        limit = f"PARSE_SECONDS={self._settings.parse_seconds:g}"
        return f"reading it took more than {limit}; raise it if you trust the file"

    def _broke(self) -> str:
        limit = f"PARSE_MEMORY_BYTES={self._settings.parse_memory_bytes}"
        return f"it broke its reader: it is damaged, or needs more than {limit}; raise it if you trust the file"


class _Child:
    """A process that runs child.py, and how to talk with it; its calls block."""

    def __init__(self, settings: Settings) -> None:
        limits = (str(settings.parse_memory_bytes), str(settings.parse_seconds))
        self._max_bytes = settings.max_document_bytes + HEAD_BYTES
        self.process = subprocess.Popen(  # noqa: S603  # our own module
            [*COMMAND, *limits],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends it
        )

    def wait_until_ready(self) -> Frame | None:
        """Wait for its first words."""
        return self._receive()

    def exchange(self, request: dict[str, Any], data: bytes) -> Frame | None:
        """Send a document and wait for the answer; None where there is none."""
        try:
            write_frame(cast("BinaryIO", self.process.stdin), request, data)
        except OSError:
            return None
        return self._receive()

    def _receive(self) -> Frame | None:
        try:
            return read_frame(cast("BinaryIO", self.process.stdout), max_bytes=self._max_bytes)
        except (OSError, ValueError, RecursionError):
            return None

    def end(self) -> None:
        """Kill it, and leave nothing of it."""
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                cast("BinaryIO", stream).close()
        self.process.wait()


def _parsed(head: dict[str, Any], text: str, source: str, origin: Origin) -> Parsed:
    """The document and its chunks, whose text is cut out of the document's again.

    Raises:
        LookupError, TypeError, ValueError: `head` is not what child.py writes.

    """
    starts = tuple(map(int, head["page_starts"]))
    metadata = {str(key): str(value) for key, value in dict(head["metadata"]).items()}
    title, media_type, content_hash = (str(head[name]) for name in ("title", "media_type", "content_hash"))
    document = Document(source, title, text, media_type, content_hash, origin, metadata, starts)
    headings = list(map(str, head["headings"]))
    chunks = []
    for ordinal, (start, end, heading, page) in enumerate(head["chunks"]):
        if not 0 <= start < end <= len(text):
            raise ValueError("a chunk lies outside of its document")
        chunks.append(Chunk(ordinal, start, end, headings[heading], text[start:end], page))
    return Parsed(document, tuple(chunks))
