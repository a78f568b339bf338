"""Answers, stored with everything that is needed to check and repeat them."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import answers
from app.types import Answer


async def save_answer(connection: AsyncConnection, tenant: str, answer: Answer) -> None:
    """Store the answer as it was given."""
    row = asdict(answer)
    usage = row.pop("usage")
    row.pop("notice")
    row |= {
        "tenant": tenant,
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "usage_estimated": usage["estimated"],
    }
    await connection.execute(insert(answers).values(row))


async def read_answer(connection: AsyncConnection, tenant: str, answer_id: str) -> dict[str, Any] | None:
    """The stored row as a dictionary; None where there is none."""
    query = select(answers).where(answers.c.tenant == tenant, answers.c.id == answer_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    return dict(row) if row else None
