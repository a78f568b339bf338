"""What every response says beside its body: ids that can be traced, and rules for browsers."""

import re
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.api.headers import LONGEST_ID, SECURITY, ResponseHeaders

MADE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Say what the log would know, with a header of its own."""
    bound: dict[str, Any] = structlog.contextvars.get_contextvars()
    text = f"{scope['state']['request_id']} {bound['request_id']} {bound['path']}"
    await PlainTextResponse(text, headers={"Content-Security-Policy": "own"})(scope, receive, send)


async def ask(
    path: str = "/x", *, production: bool = False, scheme: str = "http", request_id: str | None = None
) -> httpx.Response:
    """One request."""
    transport = httpx.ASGITransport(ResponseHeaders(answer, production=production))
    async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://app.test") as client:
        return await client.get(path, headers={} if request_id is None else {"X-Request-ID": request_id})


async def test_each_request_has_an_id_in_the_response_and_in_the_log() -> None:
    """A new one each time; afterwards nothing of it is left for the next request."""
    first, second = await ask(), await ask()
    ids = [response.headers["x-request-id"] for response in (first, second)]
    assert all(MADE.fullmatch(one) for one in ids)
    assert ids[0] != ids[1]
    assert first.text == f"{ids[0]} {ids[0]} /x"
    assert structlog.contextvars.get_contextvars() == {}


@pytest.mark.parametrize(
    ("given_id", "is_taken"),
    [("a", True), ("trace 1/2", True), ("x" * LONGEST_ID, True), ("x" * (LONGEST_ID + 1), False), ("", False)],
)
async def test_a_clients_id_is_taken_where_it_is_fit(given_id: str, *, is_taken: bool) -> None:
    """Printable, and not too long."""
    response = await ask(request_id=given_id)
    assert (response.headers["x-request-id"] == given_id) is is_taken


@given(st.binary(max_size=200))
async def test_whatever_comes_as_an_id_nothing_unprintable_goes_out(raw: bytes) -> None:
    """Bytes that a log or a header cannot hold are replaced by a new id."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/x", "scheme": "http", "headers": [(b"x-request-id", raw)]}
    await ResponseHeaders(answer, production=False)(scope, never, send)
    given_back = Headers(raw=sent[0]["headers"])["x-request-id"]
    assert given_back.isascii()
    assert given_back.isprintable()
    assert given_back == raw.decode("latin-1") or MADE.fullmatch(given_back)


async def test_browsers_are_told_to_be_careful_and_a_routes_own_word_stands() -> None:
    """Every rule is there; a policy that the route set is not replaced."""
    headers = (await ask()).headers
    for name, value in SECURITY.items():
        assert headers[name] == ("own" if name == "Content-Security-Policy" else value)


@pytest.mark.parametrize(("path", "kept"), [("/v1/ask", "no-store"), ("/static/app.js", None), ("/v1", None)])
async def test_nobody_keeps_what_the_api_answers(path: str, kept: str | None) -> None:
    """What is not of the API may be kept."""
    assert (await ask(path)).headers.get("cache-control") == kept


@pytest.mark.parametrize("production", [True, False])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_only_production_over_tls_asks_for_tls_for_ever(scheme: str, *, production: bool) -> None:
    """A developer's machine must not be locked out of http."""
    response = await ask(production=production, scheme=scheme)
    assert ("strict-transport-security" in response.headers) is (production and scheme == "https")


async def test_what_is_no_request_passes() -> None:
    """The server's own messages have no headers."""
    seen: list[Scope] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope)

    await ResponseHeaders(app, production=False)({"type": "lifespan"}, never, never)  # type: ignore[arg-type]  # not called
    assert seen == [{"type": "lifespan"}]


async def never() -> Any:
    """Nobody calls this."""
    raise AssertionError
