"""A model provider that does as it is told: real HTTP on loopback, OpenAI's wire format, misbehaving on command.

    with Provider() as provider:
        provider.then(RateLimited(retry_after=0), Reply("Hello."))
        ...  # the first call is turned away, the second answered, and all later ones get a plain Reply()
        assert provider.count.answered == 1

`python -m tests.provider --port 9999 --faults 0.3` serves it for a walk by hand. It runs on aiohttp, which litellm
brings along, for its speed. Knows nothing of the application that it is made to test.
"""

import argparse
import asyncio
import json
import random
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any, Self

from aiohttp import web

MODEL = "gpt-4o"  # whatever was asked for: who goes by it takes the wrong price
DIMENSIONS = 4
FRAGMENT_CHARACTERS = 5
KEPT_CALLS = 1_000
PATIENCE_SECONDS = 60  # a process that has to load litellm first needs ten of them on a busy machine

Usage = Mapping[str, Any]


def tokens(asked: int, said: int, *, cached: int = 0) -> Usage:
    """OpenAI's object for what a call used; `cached` tokens are a part of those asked."""
    details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said, **details}


USAGE = tokens(11, 7)


@dataclass(frozen=True)
class Call:
    """A request as it arrived; `left` is set when the client goes before the end of its answer."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    left: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)


@dataclass
class Count:
    """What has happened so far. `answered` are whole answers; the tokens are those that were told to the client."""

    calls: int = 0
    answered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    disconnects: int = 0
    open: int = 0


class Dropped(Exception):
    """Raised by a behaviour: close the connection, whatever has been sent."""


@dataclass(frozen=True)
class Wire:
    """The way back to the client of one call."""

    call: Call
    request: web.BaseRequest
    note: Callable[..., None]

    async def stream(self, events: Iterator[str], pause: float) -> web.StreamResponse:
        """Server-sent events, each on the wire before the next is made, `pause` seconds apart."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(self.request)
        for event in events:
            await asyncio.sleep(pause)
            await response.write(f"data: {event}\n\n".encode())
        return response

    def answered(self, usage: Usage | None) -> None:
        """Count a whole answer, before its last bytes leave: a client that has read them may look at the count."""
        told = usage or {}
        asked, said = told.get("prompt_tokens", 0), told.get("completion_tokens", 0)
        self.note(answered=1, input_tokens=asked, output_tokens=said)


class Behaviour(ABC):
    """What the provider does with one request."""

    @abstractmethod
    async def answer(self, wire: Wire) -> web.StreamResponse:
        """Make the response, or fail to."""


Rule = Callable[[Call], Behaviour]


@dataclass(frozen=True)
class Tool:
    """A function that the model wants called; nothing demands that `arguments` be JSON."""

    name: str = "get_weather"
    arguments: str = '{"city": "Oslo"}'
    id: str = "call_1"

    def call(self, arguments: str) -> dict[str, Any]:
        """The call as it stands in a message, or with no arguments yet as it opens a stream."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True)
class Reply(Behaviour):
    """Answer, one chunk a word where the call streams; a call for embeddings gets vectors.

    `usage` None leaves it out. `pause` is in seconds, before each chunk or before the whole reply.
    """

    text: str = "Hello from the test model."
    finish: str = "stop"
    usage: Usage | None = field(default_factory=lambda: USAGE)
    refusal: str = ""
    tools: tuple[Tool, ...] = ()
    pause: float = 0

    async def answer(self, wire: Wire) -> web.StreamResponse:
        """Answer as the endpoint does that was called."""
        if wire.call.body.get("stream"):
            return await wire.stream(self._events(wire), self.pause)
        await asyncio.sleep(self.pause)
        if wire.call.path.endswith("/embeddings"):
            asked = (self.usage or {}).get("prompt_tokens", 0)
            usage = {"prompt_tokens": asked, "total_tokens": asked} if asked else {}
            wire.answered(usage)
            return web.json_response(_embeddings(wire.call.body["input"]) | {"usage": usage})
        wire.answered(self.usage)
        choice = {"message": self._message(), "finish_reason": self.finish}
        return web.json_response(_chat("chat.completion", choice, self.usage))

    def _message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None, "refusal": self.refusal or None}
        return message | ({"tool_calls": [tool.call(tool.arguments) for tool in self.tools]} if self.tools else {})

    def _events(self, wire: Wire) -> Iterator[str]:
        """The role alone, as real providers begin; the pieces; the finish; the usage, for those who ask; the end."""
        yield _chunk({"role": "assistant", "content": ""})
        for name, text in (("content", self.text), ("refusal", self.refusal)):
            yield from (_chunk({name: f"{word} "}) for word in text.split(" ") if text)
        yield from (_chunk({"tool_calls": [fragment]}) for fragment in _fragments(self.tools))
        yield _chunk({}, self.finish)
        asked = (wire.call.body.get("stream_options") or {}).get("include_usage")
        wire.answered(self.usage if asked else None)
        if self.usage and asked:
            yield json.dumps(_chat("chat.completion.chunk", None, self.usage))
        yield "[DONE]"


@dataclass(frozen=True)
class NoUsage(Reply):
    """Answer without counting tokens."""

    usage: Usage | None = None


@dataclass(frozen=True)
class CallTools(Reply):
    """Answer with tool calls; in a stream the pieces of several come interleaved."""

    text: str = ""
    finish: str = "tool_calls"
    tools: tuple[Tool, ...] = (Tool(),)


@dataclass(frozen=True)
class CutStream(Reply):
    """Begin a stream and end it `after` so many pieces: cleanly, or by dropping the connection."""

    after: int = 2
    dropped: bool = False

    def _events(self, wire: Wire) -> Iterator[str]:
        yield from islice(super()._events(wire), self.after + 1)  # the role is not a piece
        if self.dropped:
            raise Dropped


@dataclass(frozen=True)
class StallStream(CutStream):
    """Begin a stream, and after some pieces send nothing more; `left` is set when the client has gone."""

    left: threading.Event = field(default_factory=threading.Event, compare=False)

    async def answer(self, wire: Wire) -> web.StreamResponse:
        """Leave the response open."""
        response = await super().answer(wire)
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        return response


@dataclass(frozen=True)
class GarbledStream(CutStream):
    """Begin a stream, and go from an event that is no chunk straight to a good end."""

    event: str = '{"id": "chatcmpl-1", "choi'

    def _events(self, wire: Wire) -> Iterator[str]:
        yield from super()._events(wire)
        yield from (self.event, _chunk({}, self.finish), "[DONE]")


class Hang(Behaviour):
    """Take the request and never answer."""

    async def answer(self, _: Wire) -> web.StreamResponse:
        """Never return."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable: nobody sets the event")


class Drop(Behaviour):
    """Take the request and close the connection without a byte."""

    async def answer(self, _: Wire) -> web.StreamResponse:
        """Have the connection closed."""
        raise Dropped


@dataclass(frozen=True)
class Rejected(Behaviour):
    """Refuse with a status and a text; `retry_after` goes out as it is, None leaves the header out."""

    status: int = 400
    text: str = "as told"
    retry_after: float | str | None = None
    code: str | None = None

    async def answer(self, _: Wire) -> web.StreamResponse:
        """Give the error object."""
        error = {"message": self.text, "type": "test_error", "param": None, "code": self.code}
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return web.json_response({"error": error}, status=self.status, headers=headers)


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
    """Answer with a body that is not what the protocol says."""

    body: str = "<html>this is not JSON</html>"
    status: int = 200
    media: str = "application/json"

    async def answer(self, _: Wire) -> web.StreamResponse:
        """Give the body as it is."""
        return web.Response(text=self.body, status=self.status, content_type=self.media)


QUOTA_EXCEEDED = Rejected(429, "You exceeded your current quota, please check your plan.", code="insufficient_quota")
CONTENT_FILTER = Rejected(400, "The response was filtered by the content management policy.", code="content_filter")
CONTEXT_EXCEEDED = Rejected(
    400,
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    code="context_length_exceeded",
)
BAD_GATEWAY = Garbage("<html><head><title>502 Bad Gateway</title></head></html>", 502, "text/html")
FAULTS: tuple[Behaviour, ...] = (
    ServerError(retry_after=0),
    RateLimited(retry_after=0),
    BAD_GATEWAY,
    Garbage(),
    Drop(),
    CutStream(after=0),
    CutStream(),
    CutStream(dropped=True),
    GarbledStream(),
)
"""What goes wrong at once, so that thousands of calls can meet it: nothing here waits."""


def sometimes(share: float, faults: Sequence[Behaviour] = FAULTS, *, seed: int, otherwise: Behaviour) -> Rule:
    """A rule: one of `faults` in that share of all calls (0 to 1), the same ones for the same seed."""
    dice = random.Random(seed)  # noqa: S311  # repeatable, not secret
    return lambda _: dice.choice(faults) if dice.random() < share else otherwise


class Provider:
    """The server. `then` queues behaviours, `always` sets what comes after them.

    `requests` are the newest KEPT_CALLS calls, oldest first; `count` counts them all.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Call] = []
        self.count = Count()
        self._behaviours: deque[Behaviour] = deque()
        self._rule: Rule = lambda _: Reply()
        self._changed = threading.Condition()
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()], daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def then(self, *behaviours: Behaviour) -> None:
        """Do this with the next requests, in order."""
        self._behaviours.extend(behaviours)

    def always(self, rule: Behaviour | Rule) -> None:
        """Do this with every request for which nothing is queued; without it that is `Reply()`."""
        self._rule = (lambda _: rule) if isinstance(rule, Behaviour) else rule

    def reset(self) -> None:
        """Forget the history and what was told to be done. Calls that are still open stay counted as open."""
        with self._changed:
            self.requests.clear()
            self.count = Count(open=self.count.open)
            self._behaviours.clear()
            self._rule = lambda _: Reply()

    async def until(self, happened: Callable[[Count], bool]) -> None:
        """Wait for it, PATIENCE_SECONDS at most.

        Raises:
            AssertionError: it did not happen; shows the count.

        """

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: happened(self.count), PATIENCE_SECONDS)

        assert await asyncio.to_thread(wait), self.count

    def _note(self, **changes: int) -> None:
        with self._changed:
            for name, by in changes.items():
                setattr(self.count, name, getattr(self.count, name) + by)
            self._changed.notify_all()

    async def _serve(self) -> None:
        # A client that goes cancels the handler of its call: that is how a disconnect is seen.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        listener = await self._loop.create_server(server, sock=self._socket)
        await self._stop.wait()
        listener.close()
        await server.shutdown(timeout=0.001)  # a call that hangs is not waited for; zero would be for ever
        await asyncio.sleep(0)  # connections close in the loop's next turn

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(request.path, headers, json.loads(await request.content.read() or b"{}"))
        self._note(calls=1, open=1)
        self.requests.append(call)
        del self.requests[:-KEPT_CALLS]
        behaviour = self._behaviours.popleft() if self._behaviours else self._rule(call)
        try:
            return await behaviour.answer(Wire(call, request, self._note))
        except Dropped:
            assert request.transport
            request.transport.close()
            return web.Response()
        except (asyncio.CancelledError, ConnectionError):
            if not self._stop.is_set():
                call.left.set()
                self._note(disconnects=1)
            raise asyncio.CancelledError from None
        finally:
            self._note(open=-1)


def _chat(kind: str, choice: dict[str, Any] | None, usage: Usage | None = None) -> dict[str, Any]:
    choices = [{"index": 0, **choice}] if choice else []
    counted = {"usage": usage} if usage else {}
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": MODEL, "choices": choices, **counted}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> str:
    return json.dumps(_chat("chat.completion.chunk", {"delta": delta, "finish_reason": finish}))


def _fragments(tools: Sequence[Tool]) -> Iterator[dict[str, Any]]:
    """Each call opened with its id and name, then their arguments in pieces, taking turns."""
    yield from ({"index": n, **tool.call("")} for n, tool in enumerate(tools))
    size = FRAGMENT_CHARACTERS
    pieces = [[t.arguments[at : at + size] for at in range(0, len(t.arguments), size)] for t in tools]
    for turn in zip_longest(*pieces):
        yield from ({"index": n, "function": {"arguments": part}} for n, part in enumerate(turn) if part)


def _embeddings(texts: list[str]) -> dict[str, Any]:
    """A vector per text, the same for the same text."""
    data = [
        {"object": "embedding", "index": n, "embedding": [float(len(text) + d) for d in range(DIMENSIONS)]}
        for n, text in enumerate(texts)
    ]
    return {"object": "list", "model": MODEL, "data": data}


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description="A provider that misbehaves.")
    parser.add_argument("--port", type=int, default=9999)
    parser.add_argument("--text", default=Reply.text, help="what it answers")
    parser.add_argument("--pause", type=float, default=0, help="seconds before each chunk")
    parser.add_argument("--faults", type=float, default=0, help="the share of calls that go wrong, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other faults")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt), Provider(given.port) as provider:
        provider.always(sometimes(given.faults, seed=given.seed, otherwise=Reply(given.text, pause=given.pause)))
        print(f"CHAT_MODEL=openai/test CHAT_API_BASE={provider.url} CHAT_API_KEY=none")  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
