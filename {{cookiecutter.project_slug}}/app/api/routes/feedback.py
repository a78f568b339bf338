"""/v1/feedback: what somebody thought of an answer, for whoever evaluates the application."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from app.api.deps import After, FromWork, Limit, Page, page_of
from app.api.security import needs
from app.db import feedback
from app.db.feedback import Feedback
from app.types import Rating

router = APIRouter(prefix="/v1/feedback", tags=["feedback"], dependencies=[needs("chat")])
LONGEST = 4_000  # characters
EXAMPLE: JsonDict = {
    "answer_id": "3f0c4f3e-4a5b-4a53-8a55-5b1c2b7f1c11",
    "rating": "down",
    "correction": "Lucene's default for k1 is 1.2.",
}


def _storable(text: str) -> str:
    """Text that Postgres takes."""
    text.encode()  # half a character is a ValueError, and so the client's mistake
    return text.replace("\0", "").strip()


Said = Annotated[str, Field(max_length=LONGEST), AfterValidator(_storable)]


class Rate(BaseModel):
    """What was thought of an answer: `correction` is what would have been right."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    answer_id: UUID
    rating: Rating
    comment: Said = ""
    correction: Said = ""


@router.post("", responses={404: {}})
async def rate(request: Rate, work: FromWork) -> Feedback:
    """Rate one of your answers. Rating it again replaces what you said before."""
    async with work.database.transaction() as connection:
        return await feedback.save_feedback(
            connection,
            work.caller.tenant,
            work.caller.owner,
            str(request.answer_id),
            **request.model_dump(exclude={"answer_id"}),
        )


@router.get("")
async def list_feedback(work: FromWork, limit: Limit = 20, after: After = None) -> Page[Feedback]:
    """List your feedback, newest first."""
    async with work.database.transaction() as connection:
        found = await feedback.list_feedback(
            connection, work.caller.tenant, work.caller.owner, limit=limit + 1, after=str(after) if after else None
        )
    return page_of(found, [one.id for one in found], limit)
