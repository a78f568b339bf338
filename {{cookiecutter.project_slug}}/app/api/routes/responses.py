"""POST /v1/responses, as OpenAI's clients call it; nothing is stored."""

from typing import Any

from fastapi import APIRouter
from fastapi import Response as HTTPResponse

from app.api.deps import FromWork
from app.api.openai.answering import pieces, reply
from app.api.openai.models import OpenAIRoute
from app.api.openai.response_events import ResponseEvents
from app.api.openai.response_objects import Response, response_of
from app.api.openai.response_requests import ResponseRequest, from_response
from app.api.openai.wire import whole
from app.api.security import needs
from app.api.streaming import EventStream

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[needs("chat")], route_class=OpenAIRoute)
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Response, "content": {"text/event-stream": {}}},
    404: {},
    502: {},
}


@router.post("/responses", response_model=None, responses=RESPONSES)
async def respond(request: ResponseRequest, work: FromWork) -> HTTPResponse:
    """Answer: with the model as it is, or from the documents."""
    asked = from_response(request)
    if not request.stream:
        return whole(response_of(request, await reply(work, asked)))
    response = ResponseEvents(request)
    events = response.stream(pieces(work, asked))
    return EventStream(events, ending=response.failed, seconds=work.settings.deadline_seconds)
