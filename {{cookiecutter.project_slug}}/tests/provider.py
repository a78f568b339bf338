"""A model provider that does as it is told: real HTTP on loopback, OpenAI's wire format, misbehaving on command.

    with Provider() as provider:
        provider.then(RateLimited(retry_after=0), Reply("Hello."))
        ...  # the first call is turned away, the second answered, and all later ones get a plain Reply()
        assert len(provider.requests) == 2

Knows nothing of the application that it is made to test.
"""

import asyncio
import json
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
DIMENSIONS = 4


@dataclass(frozen=True)
class Call:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Behaviour(ABC):
    """What the provider does with one request."""

    @abstractmethod
    async def answer(self, call: Call) -> Response:
        """Make the response, or fail to."""


@dataclass(frozen=True)
class Reply(Behaviour):
    """Answer with `text`, one chunk a word where the call streams; a call for embeddings gets vectors."""

    text: str = "Hello from the test model."
    finish: str = "stop"
    usage: ClassVar[dict[str, int] | None] = USAGE

    async def answer(self, call: Call) -> Response:
        """Answer as the endpoint does that was called."""
        if call.path.endswith("/embeddings"):
            return JSONResponse(_embeddings(call.body["input"]))
        if call.body.get("stream"):
            return StreamingResponse(self._stream(), media_type="text/event-stream")
        choice = {"message": {"role": "assistant", "content": self.text}, "finish_reason": self.finish}
        return JSONResponse(_chat("chat.completion", choice, usage=self.usage))

    async def _stream(self) -> AsyncIterator[str]:
        for word in self.text.split(" "):
            yield _event({"delta": {"role": "assistant", "content": word + " "}, "finish_reason": None})
        yield _event({"delta": {}, "finish_reason": self.finish})
        if self.usage:
            yield _event(None, usage=self.usage)
        yield "data: [DONE]\n\n"


class NoUsage(Reply):
    """Answer without counting tokens."""

    usage = None


@dataclass(frozen=True)
class CutStream(Reply):
    """Begin a stream and end it `after` so many chunks: cleanly, or by dropping the connection."""

    after: int = 2
    dropped: bool = False

    async def _stream(self) -> AsyncIterator[str]:
        sent = 0
        async for event in super()._stream():
            if sent == self.after:
                break
            sent += 1
            yield event
        if self.dropped:
            raise ConnectionError("as told")


@dataclass(frozen=True)
class StallStream(CutStream):
    """Begin a stream, and after some chunks send nothing more; `left` is set when the client has gone."""

    left: threading.Event = field(default_factory=threading.Event)

    async def _stream(self) -> AsyncIterator[str]:
        try:
            async for event in super()._stream():
                yield event
            await asyncio.Event().wait()
        finally:
            self.left.set()


class Hang(Behaviour):
    """Take the request and never answer."""

    async def answer(self, _: Call) -> Response:
        """Never return."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable: nobody sets the event")


@dataclass(frozen=True)
class Rejected(Behaviour):
    """Refuse with a status and a text; `retry_after` goes out as it is, None leaves the header out."""

    status: int = 400
    text: str = "as told"
    retry_after: float | str | None = None

    async def answer(self, _: Call) -> Response:
        """Give the error object."""
        error = {"message": self.text, "type": "test_error", "param": None, "code": None}
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse({"error": error}, self.status, headers)


@dataclass(frozen=True)
class ServerError(Rejected):
    """Fail on the provider's side."""

    status: int = 500


@dataclass(frozen=True)
class RateLimited(Rejected):
    """Ask for fewer requests."""

    status: int = 429


@dataclass(frozen=True)
class Garbage(Behaviour):
    """Answer 200 with a body that is not what the protocol says."""

    body: str = "<html>this is not JSON</html>"

    async def answer(self, _: Call) -> Response:
        """Give the body as it is."""
        return Response(self.body, media_type="application/json")


class Provider:
    """The server. `then` queues behaviours, one a request; `requests` is the history."""

    def __init__(self) -> None:
        self.requests: list[Call] = []
        self._behaviours: deque[Behaviour] = deque()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        app = Starlette(routes=[Route("/v1/{path:path}", self._answer, methods=["POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True  # without waiting for a call that hangs
        self._thread.join()

    def then(self, *behaviours: Behaviour) -> None:
        """Do this with the next requests, in order; after them every request gets a `Reply()`."""
        self._behaviours.extend(behaviours)

    def reset(self) -> None:
        """Forget the history and what was queued."""
        self.requests.clear()
        self._behaviours.clear()

    async def _answer(self, request: Request) -> Response:
        call = Call(request.url.path, dict(request.headers), await request.json())
        self.requests.append(call)
        behaviour = self._behaviours.popleft() if self._behaviours else Reply()
        return await behaviour.answer(call)


def _chat(kind: str, choice: dict[str, Any] | None, usage: dict[str, int] | None) -> dict[str, Any]:
    choices = [{"index": 0, **choice}] if choice else []
    body = {"id": "chatcmpl-1", "object": kind, "created": 0, "model": "another-name", "choices": choices}
    return body | ({"usage": usage} if usage else {})


def _event(choice: dict[str, Any] | None, usage: dict[str, int] | None = None) -> str:
    return f"data: {json.dumps(_chat('chat.completion.chunk', choice, usage))}\n\n"


def _embeddings(texts: list[str]) -> dict[str, Any]:
    """A vector per text, the same for the same text."""
    data = [
        {"object": "embedding", "index": n, "embedding": [float(len(text) + d) for d in range(DIMENSIONS)]}
        for n, text in enumerate(texts)
    ]
    return {"object": "list", "model": "another-name", "data": data, "usage": USAGE}
