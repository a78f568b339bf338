"""POST /v1/ask: a question, and an answer whole or as server-sent events."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypedDict
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.api.deps import FromWork, Work
from app.api.errors import ErrorBody
from app.api.security import needs
from app.api.streaming import EventStream
from app.db.answers import read_turns
from app.db.conversations import read_conversation
from app.gateway.context import CallContext
from app.rag.asking import LONGEST_FILTER, MOST_FILTERS
from app.rag.pipeline import Event
from app.types import Answer, Citation, Filter, Place, RejectedCitation, TextDelta, Turn

router = APIRouter(prefix="/v1", tags=["ask"], dependencies=[needs("chat")])

NAMES: dict[type, str] = {TextDelta: "delta", Citation: "citation", RejectedCitation: "rejected", Answer: "answer"}
AnyEvent = TypeAdapter[Event](Event)


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"example": 'event: delta\ndata: {"text": "At most ten days."}\n\n'}},
        "links": {
            "citation": {
                "operationId": "read_citation",
                "parameters": {"answer_id": "$response.body#/id", "marker": "$response.body#/citations/0/marker"},
            },
            "feedback": {"operationId": "rate", "requestBody": {"answer_id": "$response.body#/id", "rating": "up"}},
        },
    },
    404: {},
    502: {},
}


class Filters(BaseModel):
    """What the answer may be taken from: documents with all of this metadata, below this path."""

    model_config = ConfigDict(extra="forbid")  # a filter with a misspelt name must not be one that filters nothing

    metadata: dict[str, str] = Field({}, max_length=MOST_FILTERS)
    source_prefix: str = Field("", max_length=LONGEST_FILTER)


class _Given(TypedDict):
    filters: Filter
    history: Sequence[Turn]
    place: Place
    context: CallContext


class Question(BaseModel):
    """What is asked. With `stream` the answer comes as events: delta, citation, rejected, then answer or error.

    In a conversation the question may go back to what was said before, and the answer becomes a part of it.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"question": "What does a circuit breaker do?"}]}
    )

    question: str = Field(json_schema_extra={"minLength": 1, "pattern": r"\S"})  # the pipeline says it in words
    stream: bool = False
    filters: Filters = Filters()
    conversation_id: UUID | None = None


@router.post("/ask", response_model=Answer, responses=RESPONSES)
async def ask(request: Question, work: FromWork) -> Answer | StreamingResponse:
    """Answer from the documents with citations that were checked, or say that they do not answer."""
    filters = Filter(request.filters.metadata, request.filters.source_prefix)
    place = Place(work.caller.owner, str(request.conversation_id) if request.conversation_id else None)
    history = await _history(work, place)
    given: _Given = {"filters": filters, "history": history, "place": place, "context": work.context}
    if not request.stream:
        return await work.pipeline.ask(request.question, **given)
    events = work.pipeline.stream(request.question, **given)
    return EventStream(_encoded(events), ending=_error, seconds=work.settings.deadline_seconds)


async def _history(work: Work, place: Place) -> Sequence[Turn]:
    """What was said before in a conversation, which is the caller's own."""
    if place.conversation_id is None:
        return ()
    async with work.database.transaction() as connection:
        await read_conversation(connection, work.database.tenant, place.owner, place.conversation_id)
        return await read_turns(connection, work.database.tenant, place.conversation_id)


async def _encoded(events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        async for event in events:
            yield _event(event)


def _event(event: Event) -> bytes:
    return format_sse_event(event=NAMES[type(event)], data_str=AnyEvent.dump_json(event).decode())


def _error(error: ErrorBody) -> bytes:
    return format_sse_event(event="error", data_str=json.dumps(error))
