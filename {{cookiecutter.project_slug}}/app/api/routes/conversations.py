"""/v1/conversations: begin, list, read and delete; `conversation_id` of POST /v1/ask adds to one."""

from dataclasses import asdict, dataclass
from uuid import UUID

from fastapi import APIRouter

from app.api.deps import After, FromWork, Limit, Page, page_of
from app.api.security import needs
from app.db import conversations
from app.db.answers import RatedAnswer, read_rated
from app.db.conversations import Conversation

router = APIRouter(prefix="/v1/conversations", tags=["conversations"], dependencies=[needs("chat")])


@dataclass(frozen=True, slots=True)
class WholeConversation(Conversation):
    """A conversation with its newest answers, at most 100, oldest first."""

    answers: list[RatedAnswer]


@router.post("", status_code=201)
async def create_conversation(work: FromWork) -> Conversation:
    """Begin a conversation. Its title will be the first question."""
    async with work.database.transaction() as connection:
        return await conversations.create_conversation(connection, work.caller.tenant, work.caller.owner)


@router.get("")
async def list_conversations(work: FromWork, limit: Limit = 20, after: After = None) -> Page[Conversation]:
    """List your conversations, the one with the newest answer first."""
    async with work.database.transaction() as connection:
        found = await conversations.list_conversations(
            connection, work.caller.tenant, work.caller.owner, limit=limit + 1, after=str(after) if after else None
        )
    return page_of(found, [one.id for one in found], limit)


@router.get("/{conversation_id}")
async def read_conversation(conversation_id: UUID, work: FromWork) -> WholeConversation:
    """Read a conversation with its answers, in the order in which they were given."""
    asked = (work.caller.tenant, work.caller.owner, str(conversation_id))
    async with work.database.transaction() as connection:
        found = await conversations.read_conversation(connection, *asked)
        answers = await read_rated(connection, *asked)
    return WholeConversation(**asdict(found), answers=answers)


@router.delete("/{conversation_id}", status_code=204)
async def delete_conversation(conversation_id: UUID, work: FromWork) -> None:
    """Remove a conversation with its answers and their feedback."""
    async with work.database.transaction() as connection:
        await conversations.delete_conversation(connection, work.caller.tenant, work.caller.owner, str(conversation_id))
