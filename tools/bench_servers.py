"""The processes that `make bench-gateway` compares, each a server on the socket it inherits, and the provider they ask.

    python -m tools.bench_servers KIND FILE_DESCRIPTOR

`bare` is FastAPI over litellm, `gateway` FastAPI over the project's gateway, and `pass` FastAPI that copies bytes.
They run with the generated project's Python, in its folder, with their settings in the environment. Know nothing of
measuring.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import asdict
from typing import Any

CHUNKS = 100
REPLY = "A circuit breaker stops sending requests to a deployment that keeps failing. " * 3
USAGE = {"prompt_tokens": 500, "completion_tokens": CHUNKS, "total_tokens": 500 + CHUNKS}
# As the gateway asks, so that both servers ask the provider for the same.
OPTIONS = {"temperature": 0, "max_tokens": 800, "max_retries": 0, "num_retries": 0, "timeout": 60}

Message = dict[str, Any]
Complete = Callable[[bytes], Awaitable[bytes]]
Stream = Callable[[list[Message]], AsyncIterator[str]]
Handlers = tuple[Complete, Stream | None]


@asynccontextmanager
async def bare() -> AsyncIterator[Handlers]:
    """What a team writes that calls litellm by hand."""
    os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    import litellm  # noqa: PLC0415  # seconds of import

    call = OPTIONS | {"model": os.environ["CHAT_MODEL"], "api_base": os.environ["CHAT_API_BASE"], "api_key": "none"}

    async def complete(body: bytes) -> bytes:
        reply = await litellm.acompletion(messages=json.loads(body)["messages"], **call)
        usage = {"input_tokens": reply.usage.prompt_tokens, "output_tokens": reply.usage.completion_tokens}
        return json.dumps({"text": reply.choices[0].message.content, "usage": usage}).encode()

    async def stream(messages: list[Message]) -> AsyncIterator[str]:
        usage = {"include_usage": True}
        chunks = await litellm.acompletion(messages=messages, stream=True, stream_options=usage, **call)
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    yield complete, stream


@asynccontextmanager
async def gateway() -> AsyncIterator[Handlers]:
    """The generated project's gateway, with all that its settings switch on."""
    from app.db.engine import open_database  # noqa: PLC0415  # this server only
    from app.gateway.gateway import open_gateway  # noqa: PLC0415  # this server only
    from app.settings import load_settings  # noqa: PLC0415  # this server only
    from app.types import TextDelta  # noqa: PLC0415  # this server only

    settings = load_settings()
    async with open_database(settings) as database, open_gateway(settings, database) as opened:

        async def complete(body: bytes) -> bytes:
            reply = await opened.complete(json.loads(body)["messages"])
            return json.dumps({"text": reply.text, "usage": asdict(reply.usage)}).encode()

        async def stream(messages: list[Message]) -> AsyncIterator[str]:
            async with aclosing(opened.stream(messages)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        yield event.text

        yield complete, stream


@asynccontextmanager
async def copy() -> AsyncIterator[Handlers]:
    """The least that a server between a client and a provider can do."""
    import aiohttp  # noqa: PLC0415  # this server only

    url = f"{os.environ['CHAT_API_BASE']}/chat/completions"
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def complete(body: bytes) -> bytes:
            async with session.post(url, data=body) as reply:
                return bytes(await reply.read())

        yield complete, None


async def serve(handlers: AbstractAsyncContextManager[Handlers], listening: socket.socket) -> None:
    """Serve /complete and /stream until the process is told to end."""
    import uvicorn  # noqa: PLC0415  # the provider needs none of these
    from fastapi import FastAPI, Request, Response  # noqa: PLC0415  # as above
    from fastapi.responses import StreamingResponse  # noqa: PLC0415  # as above

    async with handlers as (complete, stream):

        async def whole(request: Request) -> Response:
            return Response(await complete(await request.body()), media_type="application/json")

        async def pieces(request: Request) -> Response:
            assert stream  # noqa: S101  # the copying server is not asked for one
            texts = stream((await request.json())["messages"])
            events = (f"data: {json.dumps({'text': text})}\n\n" async for text in texts)
            return StreamingResponse(events, media_type="text/event-stream")

        app = FastAPI()
        app.add_api_route("/complete", whole, methods=["POST"], response_model=None)
        app.add_api_route("/stream", pieces, methods=["POST"], response_model=None)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).serve([listening])


async def provide(listening: socket.socket) -> None:
    """Answer in OpenAI's wire format, with as little work as can be, so that the other core is the server's own."""
    whole = _frame(_reply("chat.completion", {"message": {"role": "assistant", "content": REPLY}}, "stop", USAGE))
    word = _chunk(_reply("chat.completion.chunk", {"delta": {"content": "word "}}, None, None))
    last = _chunk(_reply("chat.completion.chunk", {"delta": {}}, "stop", None))
    usage = _chunk(_reply("chat.completion.chunk", None, None, USAGE))
    begin = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while body := await _request(reader):
            if b'"stream":true' not in body.replace(b" ", b""):
                writer.write(whole)
                continue
            writer.write(begin)
            for piece in (*[word] * CHUNKS, last, usage, _framed(b"data: [DONE]\n\n"), b"0\r\n\r\n"):
                writer.write(piece)
                await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(answer, sock=listening)
    await server.serve_forever()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request; empty where the client has gone."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        return await reader.readexactly(int(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _reply(kind: str, choice: dict[str, Any] | None, finish: str | None, usage: dict[str, int] | None) -> bytes:
    choices = [{"index": 0, "finish_reason": finish, **choice}] if choice else []
    reply = {"id": "chatcmpl-1", "object": kind, "created": 0, "model": "bench", "choices": choices}
    return json.dumps(reply | ({"usage": usage} if usage else {})).encode()


def _frame(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunk(event: bytes) -> bytes:
    return _framed(b"data: " + event + b"\n\n")


def _framed(data: bytes) -> bytes:
    """A chunk of HTTP's chunked transfer."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


SERVERS: dict[str, Callable[[], AbstractAsyncContextManager[Handlers]]] = {
    "bare": bare,
    "gateway": gateway,
    "pass": copy,
}

if __name__ == "__main__":
    kind, descriptor = sys.argv[1:]
    inherited = socket.socket(fileno=int(descriptor))
    asyncio.run(serve(SERVERS[kind](), inherited) if kind in SERVERS else provide(inherited))
