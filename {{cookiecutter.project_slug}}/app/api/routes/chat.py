"""POST /v1/chat/completions, as OpenAI's clients call it."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.deps import FromWork
from app.api.openai.answering import pieces, reply
from app.api.openai.chat import ChatCompletion, chunks_of, completion_of, from_chat
from app.api.openai.models import OpenAIRoute
from app.api.openai.requests import ChatRequest
from app.api.openai.wire import sse, whole
from app.api.security import needs
from app.api.streaming import EventStream

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[needs("chat")], route_class=OpenAIRoute)
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": ChatCompletion, "content": {"text/event-stream": {}}},
    404: {},
    502: {},
}


@router.post("/chat/completions", response_model=None, responses=RESPONSES)
async def complete_chat(request: ChatRequest, work: FromWork) -> Response:
    """Go on with a conversation: with the model as it is, or with an answer from the documents."""
    asked = from_chat(request)
    if not request.stream:
        return whole(completion_of(await reply(work, asked), asked.model))
    wants_usage = bool(request.stream_options and request.stream_options.include_usage)
    chunks = chunks_of(pieces(work, asked), asked.model, include_usage=wants_usage)
    return EventStream(chunks, ending=sse, seconds=work.settings.deadline_seconds)
