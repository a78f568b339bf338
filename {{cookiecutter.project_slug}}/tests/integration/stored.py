"""Documents straight into the store, read and cut in this process: what tests of answers begin with."""

from collections.abc import Mapping, Sequence

from app.db.engine import Database
from app.gateway.gateway import Gateway
from app.rag.chunking import split
from app.rag.indexing import Indexer, IngestReport, Options
from app.rag.loading import load_bytes
from app.rag.parsing import Parsed, Parser
from app.settings import Settings


async def keep(
    database: Database, gateway: Gateway, settings: Settings, documents: Mapping[str, str | bytes], **metadata: str
) -> None:
    """Store each document, source to content, in place of what its source had before."""
    parsed = [_parsed(source, content, settings, metadata) for source, content in documents.items()]
    await store_parsed(database, gateway, settings, parsed)


async def store_parsed(database: Database, gateway: Gateway, settings: Settings, parsed: Sequence[Parsed]) -> None:
    """Store documents that are cut already."""
    parser = Parser(settings)
    await Indexer(database, gateway, settings, Options(), parser).store(parsed, IngestReport())
    await parser.aclose()


def _parsed(source: str, content: str | bytes, settings: Settings, metadata: Mapping[str, str]) -> Parsed:
    data = content if isinstance(content, bytes) else content.encode()
    document = load_bytes(data, source=source, max_bytes=settings.max_document_bytes, metadata=metadata)
    return Parsed(document, tuple(split(document, max_characters=settings.chunk_characters)))
