"""POST /v1/ask: a question, and an answer whole or as server-sent events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.api.deps import FromWork
from app.api.disconnect import EventStream
from app.api.errors import body, public, report
from app.errors import AppError
from app.rag.asking import LONGEST_FILTER, MOST_FILTERS
from app.rag.pipeline import Event
from app.types import Answer, Citation, Filter, RejectedCitation, TextDelta

router = APIRouter(prefix="/v1", tags=["ask"])
log = structlog.get_logger(__name__)
READING_SECONDS = 30  # a client may take so much longer to read than the model to write

NAMES: dict[type, str] = {TextDelta: "delta", Citation: "citation", RejectedCitation: "rejected", Answer: "answer"}
AnyEvent = TypeAdapter[Event](Event)


class Filters(BaseModel):
    """What the answer may be taken from: documents with all of this metadata, below this path."""

    model_config = ConfigDict(extra="forbid")  # a filter with a misspelt name must not be one that filters nothing

    metadata: dict[str, str] = Field({}, max_length=MOST_FILTERS)
    source_prefix: str = Field("", max_length=LONGEST_FILTER)


class Question(BaseModel):
    """What is asked. With `stream` the answer comes as events: delta, citation, rejected, then answer or error."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"question": "What does a circuit breaker do?"}]}
    )

    question: str
    stream: bool = False
    filters: Filters = Filters()


@router.post("/ask", response_model=Answer, responses={200: {"content": {"text/event-stream": {}}}})
async def ask(request: Question, work: FromWork) -> Answer | StreamingResponse:
    """Answer from the documents with citations that were checked, or say that they do not answer."""
    filters = Filter(request.filters.metadata, request.filters.source_prefix)
    if not request.stream:
        return await work.pipeline.ask(request.question, filters=filters, context=work.context)
    encoded = _encoded(work.pipeline.stream(request.question, filters=filters, context=work.context))
    return EventStream(await anext(encoded), encoded, seconds=work.settings.deadline_seconds + READING_SECONDS)


async def _encoded(events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    """Events as bytes. An error before the first is an ordinary error response; later it is the last event."""
    async with aclosing(events):
        yield _event(await anext(events))
        try:
            async for event in events:
                yield _event(event)
        except AppError as error:
            report(error)
            yield _error(public(error))
        except Exception:  # the client must learn that the answer is not whole
            log.exception("unforeseen error in a stream")
            yield _error(body(500, "something went wrong inside the application", "internal_error"))


def _event(event: Event) -> bytes:
    return format_sse_event(event=NAMES[type(event)], data_str=AnyEvent.dump_json(event).decode())


def _error(error: dict[str, dict[str, str | None]]) -> bytes:
    return format_sse_event(event="error", data_str=TypeAdapter(dict).dump_json(error).decode())
