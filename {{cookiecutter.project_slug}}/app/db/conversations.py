"""Conversations: each belongs to one owner of a tenant, and is the answers that were given in it.

The caller opens the transaction. Knows nothing of how a follow-up question is understood.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Table, case, delete, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from app.db.idempotency import forget_kept
from app.db.tables import answers, conversations
from app.errors import NotFound

LONGEST_TITLE = 80  # characters
ROW = conversations.c
SHOWN = (ROW.id, ROW.title, ROW.created_at, ROW.updated_at)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a list of conversations shows. The title is the first question, cut; empty before there is one."""

    id: str
    title: str
    created_at: datetime
    updated_at: datetime


async def create_conversation(connection: AsyncConnection, tenant: str, owner: str) -> Conversation:
    """Begin one."""
    row = {"id": func.gen_random_uuid(), "tenant": tenant, "owner": owner, "title": ""}
    made = await connection.execute(insert(conversations).values(row).returning(*SHOWN))
    return Conversation(*made.one())


async def read_conversation(connection: AsyncConnection, tenant: str, owner: str, conversation_id: str) -> Conversation:
    """One of the owner's.

    Raises:
        NotFound: it is not there, or somebody else's.

    """
    found = (await connection.execute(select(*SHOWN).where(_is(tenant, owner, conversation_id)))).one_or_none()
    if found is None:
        raise _none(conversation_id)
    return Conversation(*found)


async def list_conversations(
    connection: AsyncConnection, tenant: str, owner: str, *, limit: int, after: str | None = None
) -> list[Conversation]:
    """The owner's, the one with the newest answer first, from the one after `after` on.

    Raises:
        NotFound: there is no conversation `after`.

    """
    query = select(*SHOWN).where(_of(conversations, tenant, owner))
    if after is not None:
        last = await read_conversation(connection, tenant, owner, after)
        query = query.where(tuple_(ROW.updated_at, ROW.id) < (last.updated_at, last.id))
    rows = await connection.execute(query.order_by(ROW.updated_at.desc(), ROW.id.desc()).limit(limit))
    return [Conversation(*row) for row in rows]


async def take_answer(connection: AsyncConnection, tenant: str, owner: str, conversation_id: str, asked: str) -> None:
    """Move it to the top, and name it after its first question; until the commit nobody can delete it.

    Raises:
        NotFound: it is not there any more.

    """
    title = case((ROW.title == "", title_of(asked)), else_=ROW.title)
    moved = update(conversations).values(title=title, updated_at=func.clock_timestamp())
    await _one(connection, moved.where(_is(tenant, owner, conversation_id)).returning(ROW.id), conversation_id)


async def delete_conversation(connection: AsyncConnection, tenant: str, owner: str, conversation_id: str) -> None:
    """Remove it with its answers and their feedback, and what was kept for requests that are sent again.

    Raises:
        NotFound: it is not there, or somebody else's.

    """
    await forget_kept(connection, tenant, owner)
    gone = delete(conversations).where(_is(tenant, owner, conversation_id)).returning(ROW.id)
    await _one(connection, gone, conversation_id)


async def delete_history(connection: AsyncConnection, tenant: str, owner: str) -> tuple[int, int]:
    """Remove all that somebody has asked, with its feedback: how many conversations and how many answers there were.

    An answer that is on its way into one of the conversations waits for this, and is then refused.
    """
    said = await connection.execute(delete(answers).where(_of(answers, tenant, owner)))
    await forget_kept(connection, tenant, owner)
    held = await connection.execute(delete(conversations).where(_of(conversations, tenant, owner)))
    return held.rowcount, said.rowcount


def title_of(question: str) -> str:
    """The question on one line, cut at a word where it is longer than LONGEST_TITLE."""
    line = " ".join(question.split())
    if len(line) <= LONGEST_TITLE:
        return line
    cut = line[: LONGEST_TITLE - 1]
    words = cut.rpartition(" ")[0]
    return (words if len(words) > LONGEST_TITLE // 2 else cut) + "…"


def _of(table: Table, tenant: str, owner: str) -> ColumnElement[bool]:
    return (table.c.tenant == tenant) & (table.c.owner == owner)


def _is(tenant: str, owner: str, conversation_id: str) -> ColumnElement[bool]:
    return _of(conversations, tenant, owner) & (ROW.id == conversation_id)


async def _one(
    connection: AsyncConnection, change: ReturningUpdate[tuple[str]] | ReturningDelete[tuple[str]], conversation_id: str
) -> None:
    if (await connection.execute(change)).one_or_none() is None:
        raise _none(conversation_id)


def _none(conversation_id: str) -> NotFound:
    return NotFound(f"there is no conversation {conversation_id}")
