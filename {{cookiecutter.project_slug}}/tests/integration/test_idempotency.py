"""Requests with an Idempotency-Key are done once: sent again, changed, at the same time, broken off, after a crash."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy import text
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import idempotency
from app.api.disconnect import StopWhenClientLeaves
from app.api.errors import AnswerErrors, add_error_handlers, response_to
from app.api.idempotency import Idempotency
from app.api.security import Caller
from app.api.stopping import Stopping
from app.api.streaming import EventStream
from app.db.engine import Database
from app.errors import Forbidden, NotFound, ProviderUnavailable, RateLimited
from app.settings import Settings
from tests.integration.test_disconnect import serving

PATIENCE_SECONDS = 10
KEY = {"Idempotency-Key": "one"}


class Shop:
    """An application that counts what was ordered. The body says how an order goes."""

    def __init__(self, database: Database) -> None:
        self.orders = 0
        self.caller = Caller("default", "", "somebody")
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()
        self.app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
        self.app.state.services = type("Services", (), {"database": database})
        self.app.state.stopping = Stopping()
        for middleware in (Idempotency, _Callers):
            self.app.add_middleware(
                middleware, **{"settings": Settings()} if middleware is Idempotency else {"shop": self}
            )
        self.app.add_middleware(StopWhenClientLeaves)
        self.app.add_middleware(AnswerErrors)
        add_error_handlers(self.app)
        self.app.add_api_route("/v1/orders", self._order, methods=["POST"], response_model=None)
        self.app.add_api_route("/v1/others", self._order, methods=["POST"], response_model=None)
        self.app.add_api_route("/orders", self._order, methods=["POST"], response_model=None)

    async def _order(self, request: Request) -> Response:
        body = (await request.body()).decode()
        self.orders += 1
        go = self.go
        self.begun.set()
        await go.wait()
        if body.startswith("stream"):
            return EventStream(self._events(body), ending=lambda _: b"data: broken\n\n", seconds=PATIENCE_SECONDS)
        if body in ERRORS:
            return response_to(ERRORS[body])
        if body.startswith("large"):
            return Response(b"x" * (idempotency.MOST_BYTES + 1))
        headers = {"Location": f"/v1/orders/{self.orders}", "X-Other": "not kept"}
        return Response(f"order {self.orders}", 201, headers, "text/plain")

    async def _events(self, body: str) -> AsyncGenerator[bytes]:
        yield f"data: order {self.orders}\n\n".encode()
        if body == "stream that breaks":
            raise ProviderUnavailable

    def client(self) -> httpx.AsyncClient:
        """A client in this process."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://app.test")


ERRORS = {
    "busy": RateLimited(),
    "down": ProviderUnavailable(),
    "crash": KeyError(),
    "no rights": Forbidden(),
    "not yet": NotFound(),
}


class _Callers:
    def __init__(self, app: ASGIApp, shop: Shop) -> None:
        self._app, self._shop = app, shop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = self._shop.caller
        await self._app(scope, receive, send)


@pytest.fixture
def shop(database: Database) -> Shop:
    """One that nobody has ordered from."""
    return Shop(database)


@pytest.fixture
async def client(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with shop.client() as client:
        yield client


async def order(client: httpx.AsyncClient, body: str = "tea", path: str = "/v1/orders", **more: Any) -> httpx.Response:
    """Send one, with the key."""
    return await client.post(path, content=body, **{"headers": KEY, **more})


def code_of(response: httpx.Response) -> str:
    """What the error says to programs."""
    return str(response.json()["error"]["code"])


async def test_the_same_request_again_gets_the_same_answer(shop: Shop, client: httpx.AsyncClient) -> None:
    """Status, body and where the new thing is; a header says that it is a replay."""
    first, again = await order(client), await order(client)
    assert (first.status_code, first.text) == (again.status_code, again.text) == (201, "order 1")
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert ("x-other" in again.headers, shop.orders) == (False, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"body": "coffee"},
        {"path": "/v1/others"},
        {"path": "/v1/orders?x=1"},
        {"headers": KEY | {"content-type": "a/b"}},
    ],
)
async def test_the_same_key_for_another_request_is_a_mistake(
    shop: Shop, client: httpx.AsyncClient, other: dict[str, Any]
) -> None:
    """422, and nothing is done."""
    await order(client)
    refused = await order(client, **other)
    assert (refused.status_code, code_of(refused), shop.orders) == (422, "key_reused", 1)


async def test_a_form_is_the_same_with_another_boundary(shop: Shop, client: httpx.AsyncClient) -> None:
    """Each try of a client makes a new one; another file is another request."""
    sent = [await client.post("/v1/orders", files={"file": data}, headers=KEY) for data in (b"x", b"x", b"y")]
    assert [response.status_code for response in sent] == [201, 201, 422]
    assert shop.orders == 1


@pytest.mark.parametrize(
    "other", [Caller("default", "", "else"), Caller("another", "", "somebody")], ids=["owner", "tenant"]
)
async def test_a_key_is_its_owners(shop: Shop, client: httpx.AsyncClient, other: Caller) -> None:
    """Somebody else may use the same one, and learns nothing."""
    await order(client)
    shop.caller = other
    assert (await order(client, "coffee")).text == "order 2"


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\t", "\xe4"])
async def test_a_key_that_is_none_is_refused(shop: Shop, client: httpx.AsyncClient, key: str) -> None:
    """400, and nothing is done."""
    refused = await order(client, headers={"Idempotency-Key": key.encode("latin-1")})
    assert (refused.status_code, code_of(refused), shop.orders) == (400, "invalid_input", 0)


async def test_without_a_key_and_outside_of_the_api_everything_is_done(shop: Shop, client: httpx.AsyncClient) -> None:
    """A longest key is a key."""
    for headers, path in (({}, "/v1/orders"), (KEY, "/orders")):
        assert len({(await order(client, path=path, headers=headers)).text for _ in range(2)}) == 2
    longest = {"Idempotency-Key": "x" * 255}
    assert (await order(client, headers=longest)).text == (await order(client, headers=longest)).text == "order 5"
    assert shop.orders == 5


async def test_while_the_first_is_under_way_the_second_is_told_to_wait(shop: Shop, client: httpx.AsyncClient) -> None:
    """409 with Retry-After; afterwards it gets the answer."""
    shop.go.clear()
    first = asyncio.create_task(order(client))
    await shop.begun.wait()
    second = await order(client)
    shop.go.set()
    assert (second.status_code, code_of(second), second.headers["retry-after"]) == (409, "still_running", "1")
    assert ((await first).text, (await order(client)).text) == ("order 1", "order 1")


async def test_of_many_at_once_one_is_done(shop: Shop, client: httpx.AsyncClient) -> None:
    """All others are told to wait, or get its answer."""
    sent = await asyncio.gather(*(order(client) for _ in range(8)))
    assert shop.orders == 1
    assert {response.status_code for response in sent} <= {201, 409}


@pytest.mark.parametrize("body", [*ERRORS, "stream that breaks"])
async def test_what_may_go_better_is_done_again(shop: Shop, client: httpx.AsyncClient, body: str) -> None:
    """Too many requests, no rights, what is not there yet, a server's error and a stream that broke are not kept."""
    statuses = [(await order(client, body)).status_code for _ in range(2)]
    assert (statuses[0], shop.orders) == (statuses[1], 2)


async def test_a_whole_stream_is_kept(shop: Shop, client: httpx.AsyncClient) -> None:
    """It comes again as a stream."""
    first, again = await order(client, "stream"), await order(client, "stream")
    assert (first.content, again.headers["content-type"]) == (again.content, first.headers["content-type"])
    assert shop.orders == 1


async def test_an_answer_that_is_too_large_is_not_made_twice(shop: Shop, client: httpx.AsyncClient) -> None:
    """The client has it once; the second time it learns that it was done."""
    first, again = await order(client, "large"), await order(client, "large")
    assert (first.status_code, again.status_code, code_of(again)) == (200, 409, "too_large_to_keep")
    assert shop.orders == 1


async def test_a_client_that_leaves_finds_its_answer(shop: Shop) -> None:
    """The order is finished without it, and kept."""
    shop.go.clear()
    async with serving(shop.app) as client:
        leaving = asyncio.create_task(order(client))
        await asyncio.wait_for(shop.begun.wait(), PATIENCE_SECONDS)
        leaving.cancel()
        shop.go.set()
        while (again := await order(client)).status_code == 409:
            pass
    assert (again.status_code, again.text, shop.orders) == (201, "order 1", 1)


async def test_who_is_cut_leaves_the_key_to_the_next(shop: Shop, client: httpx.AsyncClient) -> None:
    """Work that a stopping server ends is nobody's any more."""
    shop.go.clear()
    cut = asyncio.create_task(order(client))
    await shop.begun.wait()
    cut.cancel()
    await asyncio.wait([cut])
    shop.go.set()
    assert (await order(client)).text == "order 2"


async def test_a_body_that_breaks_off_does_nothing(shop: Shop) -> None:
    """Half a request is no request."""
    scope = {"type": "http", "method": "POST", "path": "/v1/orders", "query_string": b"", "app": shop.app}
    scope |= {"headers": [(b"idempotency-key", b"one")], "state": {"caller": shop.caller}}
    messages: list[dict[str, Any]] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b"t", "more_body": True},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop()

    await Idempotency(shop.app, settings=Settings())(scope, receive, receive)  # type: ignore[arg-type]  # nothing is sent
    assert (messages, shop.orders) == ([], 0)


@pytest.mark.parametrize(
    ("seconds", "change", "orders"),
    [
        (119, "status = NULL", 1),
        (121, "status = NULL", 2),
        (86_000, "status = status", 1),
        (86_500, "status = status", 2),
    ],
    ids=["may be alive", "dead", "kept", "old"],
)
async def test_time_frees_a_key(
    shop: Shop, client: httpx.AsyncClient, database: Database, *, seconds: int, change: str, orders: int
) -> None:
    """Whoever began and was killed is taken over a minute after DEADLINE_SECONDS; answers are kept for a day."""
    await order(client)
    await age(database, seconds, change)
    await order(client)
    assert shop.orders == orders


async def test_who_was_taken_for_dead_does_not_replace_the_answer(
    shop: Shop, client: httpx.AsyncClient, database: Database
) -> None:
    """The first is only slow; the second has taken over, and its answer stands."""
    shop.go.clear()
    slow = asyncio.create_task(order(client))
    await shop.begun.wait()
    await age(database, 121)
    first_may_go, shop.go = shop.go, asyncio.Event()
    shop.go.set()
    second = await order(client)
    shop.orders = 7
    first_may_go.set()
    assert ((await slow).text, second.text, (await order(client)).text) == ("order 7", "order 2", "order 2")
    assert await kept(database) == 1


@pytest.mark.parametrize(("body", "status"), [("tea", 201), ("down", 503)])
async def test_a_database_that_goes_away_takes_no_answer(
    client: httpx.AsyncClient, owner: Database, body: str, status: int
) -> None:
    """What was done is answered, though it cannot be kept; the key stays taken for a while."""
    async with broken(owner):
        first = await order(client, body)
    assert (first.status_code, (await order(client, body)).status_code) == (status, 409)


async def test_who_may_not_do_it_gets_no_answer_that_was_kept(client: httpx.AsyncClient, shop: Shop) -> None:
    """A second key of the same name, with other scopes: its request is another one."""
    assert (await order(client)).status_code == 201
    shop.caller = replace(shop.caller, scopes=frozenset({"documents:read"}))
    assert (await order(client)).status_code == 422


async def age(database: Database, seconds: int, change: str = "status = NULL") -> None:
    """Make every key that much older."""
    async with database.across_tenants() as connection:
        await connection.execute(
            text(f"UPDATE idempotency_keys SET {change}, created_at = created_at - make_interval(secs => {seconds})")
        )


async def kept(database: Database) -> int:
    """How many keys there are."""
    async with database.across_tenants() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM idempotency_keys")) or 0)


@asynccontextmanager
async def broken(owner: Database) -> AsyncIterator[None]:
    """Keys can be claimed, and neither changed nor removed."""
    async with owner.engine.begin() as connection:
        await connection.execute(
            text("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN RAISE insufficient_privilege; END'
        """)
        )
        await connection.execute(
            text("""
            CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON idempotency_keys
                FOR EACH ROW EXECUTE FUNCTION refuse()
        """)
        )
    try:
        yield
    finally:
        async with owner.engine.begin() as connection:
            await connection.execute(text("DROP FUNCTION refuse CASCADE"))
