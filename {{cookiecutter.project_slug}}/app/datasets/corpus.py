"""The tenant of evaluations: for one of them at a time, and with just the documents that its cases ask about.

Knows nothing of cases.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.db import store
from app.db.engine import Database
from app.db.locks import try_lock
from app.errors import IndexMismatch, InvalidInput
from app.evals import TENANT
from app.rag.ingest import Ingester, source_of
from app.rag.sources import find_files

UNDER_WAY = "another evaluation is under way on this database: wait for it, or give one its own DATABASE_URL"


@asynccontextmanager
async def alone(database: Database) -> AsyncIterator[Database]:
    """The tenant of evaluations, for nobody else meanwhile; who was given it already has it.

    Raises:
        InvalidInput: another evaluation has it, and each would search what the other ingests.

    """
    if database.tenant == TENANT:
        yield database
        return
    async with try_lock(database, TENANT) as held:
        if not held:
            raise InvalidInput(UNDER_WAY)
        yield database.for_tenant(TENANT)


async def stored(database: Database) -> tuple[dict[str, str], dict[str, str]]:
    """The text and the content's hash of each document, by source."""
    async with database.transaction() as connection:
        texts = await store.read_texts(connection, database.tenant)
        versions = await store.versions(connection, database.tenant, list(texts))
    return texts, {source: version.content_hash for source, version in versions.items()}


async def ingest_only(documents: list[Path], ingester: Ingester) -> None:
    """Make the ingester's tenant hold just these documents, and close the ingester.

    Raises:
        InvalidInput: a document could not be read: scores over a part of the corpus would mislead.

    """
    files = list(find_files(documents))
    async with ingester:
        try:
            report = await ingester.ingest_files(files)
        except IndexMismatch:  # an earlier run was with another model
            await ingester.clear()
            report = await ingester.ingest_files(files)
        await ingester.remove_missing(map(source_of, files), ["", "/"])
    if report.skipped:
        raise InvalidInput("; ".join(f"{source}: {reason}" for source, reason in report.skipped))
