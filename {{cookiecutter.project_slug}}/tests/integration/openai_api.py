"""The application with a model behind HTTP, for the tests of the routes that OpenAI's clients call."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.api.deps import Work
from app.api.main import create_app
from app.api.security import Caller
from app.db.engine import Database
from app.gateway.gateway import Gateway
from app.jobs.queue import open_queue
from app.settings import ChatSettings, Settings
from tests.provider import Provider

HELLO = "Hello from the test model."
QUESTION = "What does k1 do in BM25?"
CITED = "It is so. " + " ".join(f'[{n}: "Lucene defaults to k1"]' for n in range(1, 11))  # one of them is right
IMAGE = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {"name": "get_weather", "description": "Look.", "parameters": {"type": "object"}, "strict": True}
SCHEMA = {"name": "person", "schema": {"type": "object"}, "strict": True}


@asynccontextmanager
async def working(database: Database, provider: Provider | None, settings: Settings) -> AsyncIterator[Work]:
    """What a request of nobody in particular has; without a provider the chat model is offline."""
    if provider:
        chat = ChatSettings(model="openai/test-model", api_base=provider.url)
        settings = settings.model_copy(update={"chat": chat})
    gateway = Gateway(settings)
    async with open_queue(database) as queue:
        yield Work(Caller(), database, gateway, settings, gateway.context(), queue)


@asynccontextmanager
async def serving(settings: Settings, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, whose chat model is the provider double; embeddings are offline."""
    chat = ChatSettings(model="openai/test-model", api_base=provider.url, images=True)
    once = {"chat": chat, "max_attempts": 1, "breaker_failures": 10_000, "worker_concurrency": 0}
    app = create_app(settings.model_copy(update=once))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        yield client


async def post(client: httpx.AsyncClient, path: str, body: object) -> httpx.Response:
    """Send JSON in ASCII, so that it may hold half a character."""
    return await client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def says(text: str) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def told(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event of a stream, without the last one that only says that it is the last."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error, once it has its status and its shape."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error
