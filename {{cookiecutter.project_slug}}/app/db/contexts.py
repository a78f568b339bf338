"""What a model wrote to place chunks in their documents, by the hash of what it was asked.

The caller opens the transaction. Knows nothing of what a key is made of.
"""

from collections.abc import Sequence

from sqlalchemy import ARRAY, Text, any_, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import chunk_contexts


async def read_contexts(connection: AsyncConnection, tenant: str, keys: Sequence[str]) -> dict[str, str]:
    """Those of the keys that are known, with their contexts."""
    row = chunk_contexts.c
    asked = (row.tenant == tenant) & (row.key == any_(literal(list(keys), ARRAY(Text))))
    found = await connection.execute(select(row.key, row.context).where(asked))
    return dict(found.all())


async def write_context(connection: AsyncConnection, tenant: str, source: str, key: str, context: str) -> None:
    """Store it for a document, with which it will go, unless another process was first."""
    row = {"tenant": tenant, "source": source, "key": key, "context": context}
    await connection.execute(insert(chunk_contexts).values(row).on_conflict_do_nothing())
