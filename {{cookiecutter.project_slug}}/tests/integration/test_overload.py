"""How much the server takes on: places, a queue, a time and a size for each request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api import overload
from app.api.errors import AnswerErrors
from app.api.overload import BodyLimit, Capacity, TimeLimit
from app.api.stopping import Stopping
from app.db.engine import Database
from app.settings import Settings
from tests.integration.keyed import in_process

PATIENCE_SECONDS = 10
SMALL = {"max_attachment_bytes": 3_000, "max_document_bytes": 1_000}


class Server:
    """An application behind the limits, whose requests are in work until they are let go."""

    def __init__(self, **settings: Any) -> None:
        self.stopping = Stopping()
        self.go = asyncio.Event()
        self.begun = 0
        given = Settings.model_validate(settings)
        limited = TimeLimit(self._work, settings=given, stopping=self.stopping)
        self.app = AnswerErrors(Capacity(BodyLimit(limited, settings=given), settings=given, stopping=self.stopping))

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        body = await Request(scope, receive).body()
        if scope["path"] not in {"/livez", "/readyz"}:
            await self.go.wait()
        await Response(str(len(body)))(scope, receive, send)

    async def until_begun(self, count: int) -> None:
        """So many requests are in work."""
        while self.begun < count:
            await asyncio.sleep(0)


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client in this process."""
    transport = httpx.ASGITransport(server.app)
    async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        yield client


def code_of(response: httpx.Response) -> str:
    """What the error says to programs."""
    return str(response.json()["error"]["code"])


async def test_who_does_not_fit_waits_and_gets_the_next_place() -> None:
    """Two at a time: the third is answered when one of the first is done."""
    server = Server(max_requests=2, max_waiting=1, waiting_seconds=5)
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        asked = [group.create_task(client.get("/x")) for _ in range(3)]
        await server.until_begun(2)
        server.go.set()
    assert [(await one).status_code for one in asked] == [200] * 3


@pytest.mark.parametrize(("waiting", "seconds"), [(0, 60), (1, 0.01)])
async def test_who_finds_no_place_is_turned_away(waiting: int, seconds: float) -> None:
    """At once where the queue is full, else after WAITING_SECONDS: 503, and when to come back."""
    server = Server(max_requests=1, max_waiting=waiting, waiting_seconds=seconds)
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.get("/x"))
        await server.until_begun(1)
        turned_away = await client.get("/x")
        server.go.set()
    assert (turned_away.status_code, code_of(turned_away), turned_away.headers["retry-after"]) == (
        503,
        "overloaded",
        "1",
    )
    assert (await first).status_code == 200


async def test_probes_are_answered_while_everything_is_busy() -> None:
    """A busy server is alive."""
    server = Server(max_requests=1, max_waiting=0)
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        group.create_task(client.get("/x"))
        await server.until_begun(1)
        assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]
        server.go.set()


async def test_who_leaves_the_queue_gives_up_the_place_in_it() -> None:
    """The next one may wait instead, and is served."""
    server = Server(max_requests=1, max_waiting=1, waiting_seconds=5)
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        group.create_task(client.get("/x"))
        await server.until_begun(1)
        gone = asyncio.create_task(client.get("/x"))
        await asyncio.sleep(0)
        while not server.app._app._waiting:  # type: ignore[attr-defined]  # Capacity's
            await asyncio.sleep(0)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        third = group.create_task(client.get("/x"))
        await asyncio.sleep(0)
        server.go.set()
    assert (await third).status_code == 200


async def test_a_server_that_stops_takes_nothing_new_and_ends_what_is_late() -> None:
    """503 for who comes, and at the end for who is still waiting for an answer; probes are still answered."""
    server = Server()
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        open_one = group.create_task(client.get("/x"))
        await server.until_begun(1)
        server.stopping.begin()
        refused, probe = await client.get("/x"), await client.get("/livez")
        server.stopping.cut_short()
    assert (refused.status_code, code_of(refused), probe.status_code) == (503, "shutting_down", 200)
    assert ((await open_one).status_code, code_of(await open_one)) == (503, "shutting_down")


async def test_stopping_is_told_once_and_waits_for_what_is_open() -> None:
    """What is to be done at the beginning is done, and idle returns when the last request has ended."""
    server, told = Server(), []
    server.stopping.at_begin(lambda: told.append("begun"))
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        group.create_task(client.get("/x"))
        await server.until_begun(1)
        server.stopping.begin()
        idle = group.create_task(server.stopping.idle())
        await asyncio.sleep(0)
        assert (idle.done(), told) == (False, ["begun"])
        server.go.set()
    assert idle.done()


async def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """504 a moment after DEADLINE_SECONDS."""
    monkeypatch.setattr(overload, "MARGIN_SECONDS", 0)
    server = Server(deadline_seconds=0.05)
    async with client_of(server) as client:
        response = await client.get("/x")
    assert (response.status_code, code_of(response)) == (504, "deadline_exceeded")


async def test_what_has_begun_in_time_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the time limit nor a stopping server breaks a response off."""
    monkeypatch.setattr(overload, "MARGIN_SECONDS", 0)
    sent: list[Any] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        stopping.cut_short()
        await asyncio.sleep(0.2)
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    stopping = Stopping()
    limited = TimeLimit(app, settings=Settings(deadline_seconds=0.05), stopping=stopping)
    await limited({"type": "http", "headers": []}, never, send)
    assert sent == ["http.response.start", "http.response.body"]


async def test_a_form_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document may take longer to arrive than an answer to be written."""
    monkeypatch.setattr(overload, "MARGIN_SECONDS", 0)
    server = Server(deadline_seconds=0.05)
    asyncio.get_running_loop().call_later(0.3, server.go.set)
    async with client_of(server) as client:
        assert (await client.post("/x", files={"file": b"x"})).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    ("kind", "most"), [("application/json", 1_004_000), ("multipart/form-data; boundary=x", 101_000)]
)
async def test_a_body_has_a_size(kind: str, most: int, *, announced: bool) -> None:
    """That of the largest attachment or document, and what stands around it: one byte more is 413."""
    server = Server(**SMALL)
    server.go.set()

    async def pieces(size: int) -> AsyncIterator[bytes]:
        yield bytes(size - 1)
        yield b"x"

    async with client_of(server) as client:
        for size, status in ((most, 200), (most + 1, 413)):
            content = bytes(size) if announced else pieces(size)
            response = await client.post("/x", content=content, headers={"content-type": kind})
            assert response.status_code == status
    assert response.json()["error"]["message"] == f"the request has more than {most:,} bytes"


async def test_json_has_only_so_many_parts() -> None:
    """While a body is read and checked nobody else is served, so its size in bytes is not all that counts."""
    server = Server(max_attachment_bytes=1_000_000)
    server.go.set()
    async with client_of(server) as client:
        for most, status in ((50_000, 200), (50_001, 413)):
            body, headers = b"[" * (most - 1) + b"{", {"content-type": "application/json"}
            assert (await client.post("/x", content=body, headers=headers)).status_code == status


@pytest.mark.parametrize("kind", ["application/json", "Application/Scim+JSON; charset=utf-8"])
async def test_json_has_only_so_many_values(settings: Settings, database: Database, kind: str) -> None:
    """A fault is noted of each value that is wrong; so many are refused before any is looked at."""
    assert database
    async with in_process(settings) as client:
        for most, status in ((49_999, 422), (50_000, 413)):
            content = json.dumps({"question": [1] * most})
            response = await client.post("/v1/ask", content=content, headers={"content-type": kind})
            assert response.status_code == status
    assert response.json()["error"]["message"] == "the request has more than 50,000 values"


async def test_what_only_looks_like_a_form_is_none() -> None:
    """Its parts are counted like those of all other bodies; and a form is one however it is written."""
    server = Server(max_attachment_bytes=1_000_000)
    server.go.set()
    body = b"[" * 50_001
    async with client_of(server) as client:
        for kind, status in (
            ("multipart/x+json", 413),
            ("multipart/form-data; x=json", 200),
            ("Multipart/Form-Data; boundary=x", 200),
        ):
            assert (await client.post("/x", content=body, headers={"content-type": kind})).status_code == status


async def test_the_servers_own_messages_have_no_limits() -> None:
    """A start or an end is no request: it waits for nothing, and an error of it is the server's."""
    seen: list[Scope] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope)
        raise KeyError

    settings, stopping = Settings(), Stopping()
    stopping.begin()
    limited = TimeLimit(BodyLimit(app, settings=settings), settings=settings, stopping=stopping)
    with pytest.raises(KeyError):
        await AnswerErrors(Capacity(limited, settings=settings, stopping=stopping))({"type": "lifespan"}, never, never)
    assert seen == [{"type": "lifespan"}]


async def test_an_error_after_the_beginning_is_not_answered_twice() -> None:
    """The server closes the connection, so that nobody takes the half for the whole."""
    sent: list[Any] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(KeyError):
        await AnswerErrors(app)({"type": "http"}, never, send)
    assert [message["status"] for message in sent] == [200]


async def never(*_: Any) -> Any:
    """Nobody calls this."""
    raise AssertionError
