"""Event streams and how they end: whole, with an error, cut by the server, left by who does not read."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message
from structlog.testing import capture_logs

from app.api import streaming
from app.api.errors import AnswerErrors, ErrorBody, add_error_handlers
from app.api.stopping import Stopping
from app.api.streaming import EventStream
from app.errors import NoDocuments, ProviderRejected

PATIENCE_SECONDS = 10
ONE, TWO = b"data: 1\n\n", b"data: 2\n\n"
PING = b": ping\n\n"


def ending(error: ErrorBody) -> bytes:
    """The last event of a stream that broke."""
    return b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"


class Events:
    """Steps of a stream: bytes are sent, errors raised, an asyncio event is awaited, a number of seconds too."""

    def __init__(self, *steps: Any, seconds: float = PATIENCE_SECONDS) -> None:
        self.closed = asyncio.Event()
        self.stopping = Stopping()
        self._steps, self._seconds = steps, seconds

    async def _events(self) -> AsyncGenerator[bytes]:
        try:
            for step in self._steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.closed.set()

    def app(self) -> FastAPI:
        """An application that serves them."""
        app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
        app.add_middleware(AnswerErrors)
        add_error_handlers(app)
        app.state.stopping = self.stopping

        @app.get("/")
        async def serve() -> EventStream:
            return EventStream(self._events(), ending=ending, seconds=self._seconds)

        return app

    async def read(self) -> httpx.Response:
        """The whole response."""
        transport = httpx.ASGITransport(self.app())
        async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient(transport=transport) as client:
            response = await client.get("http://app.test/")
        assert self.closed.is_set()
        return response


def code_of(response: httpx.Response) -> str:
    """The code of the error that is the last event."""
    last = response.text.split("\n\n")[-2]
    return str(json.loads(last.removeprefix("event: error\ndata: "))["error"]["code"])


async def test_events_go_out_as_they_are() -> None:
    """In order, as one response that nobody may keep, and the source is closed."""
    response = await Events(ONE, TWO).read()
    assert (response.status_code, response.content) == (200, ONE + TWO)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"


async def test_a_stream_without_events_is_an_empty_response() -> None:
    """It has a beginning and an end."""
    response = await Events().read()
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoDocuments(), 409, "no_documents"),
        (ProviderRejected("no"), 502, "provider_rejected"),
        (KeyError(), 500, "internal_error"),
    ],
)
async def test_an_error_before_the_first_event_is_an_ordinary_response(
    error: Exception, status: int, code: str
) -> None:
    """Its status says what it is."""
    response = await Events(error).read()
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProviderRejected("secret"), "provider_rejected"),
        (KeyError("secret"), "internal_error"),
        (TimeoutError(), "internal_error"),
    ],
)
async def test_an_error_after_the_first_event_is_the_last_event(error: Exception, code: str) -> None:
    """The status is out, so the error is told in the stream, without what is for the log."""
    with capture_logs() as logged:
        response = await Events(ONE, error).read()
    assert response.status_code == 200
    assert response.content.startswith(ONE)
    assert code_of(response) == code
    assert "secret" not in response.text
    assert [line["log_level"] for line in logged] == ["error"]


@pytest.mark.parametrize("before", [(), (ONE,)])
async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch, before: tuple[bytes, ...]) -> None:
    """Also before the first event: then the response has begun, and an error is the last event."""
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.01)
    gate = asyncio.Event()
    events = Events(*before, gate, TWO, NoDocuments())
    asyncio.get_running_loop().call_later(0.2, gate.set)
    response = await events.read()
    assert response.content.startswith(b"".join(before) + PING)
    assert TWO in response.content
    assert code_of(response) == "no_documents"


async def test_nothing_is_filled_in_where_events_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment goes out only where a whole while was silent, however long the stream is."""
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.3)
    response = await Events(*[ONE, 0.03] * 25).read()
    assert response.content == ONE * 25


@pytest.mark.parametrize(("before", "status"), [((), 503), ((ONE,), 200)])
async def test_a_server_that_stops_says_so(before: tuple[bytes, ...], status: int) -> None:
    """As the last event, or as an ordinary error where nothing was sent; the source is closed."""
    events = Events(*before, asyncio.Event())
    asyncio.get_running_loop().call_later(0.05, events.stopping.cut_short)
    response = await events.read()
    assert response.status_code == status
    assert "shutting_down" in response.text


async def test_a_stream_that_begins_when_all_is_cut_ends_too() -> None:
    """It was let in before, and must not outlive the others."""
    events = Events(asyncio.Event())
    events.stopping.cut_short()
    assert (await events.read()).status_code == 503


async def test_a_stream_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that never ends is cut, and the client is told."""
    monkeypatch.setattr(streaming, "READING_SECONDS", 0)
    assert code_of(await Events(ONE, asyncio.Event(), seconds=0.05).read()) == "deadline_exceeded"


@pytest.mark.parametrize("reads_the_end", [False, True])
async def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch, *, reads_the_end: bool) -> None:
    """After its time the source is closed, so that a model's place is free, though the client still hangs on."""
    monkeypatch.setattr(streaming, "READING_SECONDS", 0)
    monkeypatch.setattr(streaming, "LAST_EVENT_SECONDS", 0.05)
    events = Events(*[ONE] * 99, seconds=0.05)
    sent: list[bytes] = []

    async def full(message: Message) -> None:
        body = message.get("body", b"")
        if body == ONE or (body and not reads_the_end):
            await asyncio.Event().wait()
        sent.append(body)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "state": {}}
    async with asyncio.timeout(PATIENCE_SECONDS):
        await events.app()(scope, never, full)
    assert events.closed.is_set()
    assert b"deadline_exceeded" in b"".join(sent) if reads_the_end else len(sent) == 1


async def never() -> Message:
    """A client that says nothing."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable: nobody sets the event")
