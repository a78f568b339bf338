"""Feedback: what people thought of their answers, with a comment and what would have been right.

The caller opens the transaction. Knows nothing of what becomes of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.answers import answer_of
from app.db.tables import answers, feedback
from app.errors import NotFound
from app.types import Answer, Rating

ROW = feedback.c
SHOWN = (ROW.id, ROW.answer_id, ROW.rating, ROW.comment, ROW.correction, ROW.created_at, ROW.reviewed_at)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the owner of an answer said of it; `reviewed_at` is when it went to those who review it."""

    id: str
    answer_id: str
    rating: Rating
    comment: str
    correction: str
    created_at: datetime
    reviewed_at: datetime | None


Rated = tuple[Feedback, Answer]


async def save_feedback(
    connection: AsyncConnection,
    tenant: str,
    owner: str,
    answer_id: str,
    *,
    rating: Rating,
    comment: str = "",
    correction: str = "",
) -> Feedback:
    """Rate one of the owner's answers; what was said of it before is replaced, and is to be reviewed again.

    Raises:
        NotFound: there is no such answer, or it is somebody else's.

    """
    said = {"rating": rating, "comment": comment, "correction": correction}
    mine = (answers.c.tenant == tenant) & (answers.c.owner == owner) & (answers.c.id == answer_id)
    if await connection.scalar(select(answers.c.id).where(mine).with_for_update(read=True, key_share=True)) is None:
        raise NotFound(f"there is no answer {answer_id}")
    row = {"id": func.gen_random_uuid(), "tenant": tenant, "owner": owner, "answer_id": answer_id}
    changed = said | {"created_at": func.now(), "reviewed_at": None}
    query = (
        insert(feedback).values(row | said).on_conflict_do_update(index_elements=["answer_id", "owner"], set_=changed)
    )
    return Feedback(*(await connection.execute(query.returning(*SHOWN))).one())


async def list_feedback(
    connection: AsyncConnection, tenant: str, owner: str, *, limit: int, after: str | None = None
) -> list[Feedback]:
    """The owner's, newest first, from the one after `after` on.

    Raises:
        NotFound: there is no feedback `after`.

    """
    query = select(*SHOWN).where(ROW.tenant == tenant, ROW.owner == owner)
    if after is not None:
        last = (await connection.execute(query.where(ROW.id == after))).one_or_none()
        if last is None:
            raise NotFound(f"there is no feedback {after}")
        query = query.where(tuple_(ROW.created_at, ROW.id) < (last.created_at, last.id))
    rows = await connection.execute(query.order_by(ROW.created_at.desc(), ROW.id.desc()).limit(limit))
    return [Feedback(*row) for row in rows]


async def read_rated(connection: AsyncConnection, tenant: str, *, limit: int, to_review: bool = False) -> list[Rated]:
    """What everybody said, newest first, with the answers; or of that what is to be reviewed, held until the commit.

    That is what says which answer is right, and was not reviewed before.
    """
    said = [column.label(f"said_{column.name}") for column in SHOWN]
    query = select(answers, *said).join(feedback, ROW.answer_id == answers.c.id).where(ROW.tenant == tenant)
    if to_review:
        query = query.where(ROW.reviewed_at.is_(None), (ROW.rating == "up") | (ROW.correction != ""))
        query = query.with_for_update(of=feedback)
    rows = await connection.execute(query.order_by(ROW.created_at.desc(), ROW.id.desc()).limit(limit))
    return [
        (Feedback(**{field.name: row[f"said_{field.name}"] for field in fields(Feedback)}), answer_of(row))
        for row in rows.mappings()
    ]


async def mark_reviewed(connection: AsyncConnection, tenant: str, feedback_ids: Sequence[str]) -> None:
    """Remember that it is with those who review it."""
    these = (ROW.tenant == tenant) & ROW.id.in_(feedback_ids)
    await connection.execute(update(feedback).where(these).values(reviewed_at=func.now()))
