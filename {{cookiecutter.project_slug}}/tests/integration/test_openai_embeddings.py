"""/v1/embeddings and /v1/models in process, with the offline model; and no request makes a route of OpenAI's fail."""

import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.settings import Settings
from tests.integration.openai_api import error_of, post, serving
from tests.provider import Provider

PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
FIELDS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "chat", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/responses": {"model": "chat", "input": [{"role": "user", "content": "hello"}]},
    "/v1/embeddings": {"model": "embedding", "input": ["hello"]},
}
TYPED = {"content-type": "application/json"}
HALVES = st.text(st.characters(codec=None, categories=None), max_size=5)
WORDS = st.sampled_from(["type", "text", "role", "function", "name", "message", "user", "content", "function_call"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HALVES | WORDS | st.just("\0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | HALVES, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
async def client(
    migrated_url: str, running: Provider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """One application for this module; nothing in here changes the database."""
    offline = Settings(database_url=migrated_url, data_dir=tmp_path_factory.mktemp("data"))
    async with serving(offline, running) as client:
        yield client


async def embed(client: httpx.AsyncClient, **given: Any) -> httpx.Response:
    """Post a request for one text, by default."""
    return await post(client, "/v1/embeddings", {"model": "embedding", "input": "one"} | given)


async def test_there_are_three_models(client: httpx.AsyncClient) -> None:
    """The list has them, and each can be looked up by its name."""
    listed = (await client.get("/v1/models")).json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["chat", "documents", "embedding"])
    for model in listed["data"]:
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model


async def test_an_unknown_model_is_404(client: httpx.AsyncClient) -> None:
    """With the code that OpenAI's clients know; a model that writes does not embed."""
    assert error_of(await client.get("/v1/models/gpt-4o"), 404)["code"] == "model_not_found"
    assert error_of(await embed(client, model="chat"), 404)["code"] == "model_not_found"


async def test_vectors_come_in_the_order_of_the_texts(client: httpx.AsyncClient) -> None:
    """One for each, and the tokens of all."""
    both = (await embed(client, input=["one", "two words"])).json()
    alone = [(await embed(client, input=text)).json()["data"][0]["embedding"] for text in ("one", "two words")]
    assert [item["index"] for item in both["data"]] == [0, 1]
    assert [item["embedding"] for item in both["data"]] == alone
    assert (both["model"], both["usage"]) == ("embedding", {"prompt_tokens": 3, "total_tokens": 3})


async def test_base64_holds_the_same_numbers(client: httpx.AsyncClient) -> None:
    """As 32-bit floats, the least significant byte first."""
    plain = (await embed(client, encoding_format="float")).json()["data"][0]["embedding"]
    packed = base64.b64decode((await embed(client, encoding_format="base64")).json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(plain)}f", packed) == pytest.approx(plain)
    assert len(packed) == 4 * len(plain)


async def test_only_the_models_own_dimensions_are_taken(client: httpx.AsyncClient) -> None:
    """Vectors are not shortened."""
    assert (await embed(client, dimensions=256)).status_code == 200
    error = error_of(await embed(client, dimensions=128), 400)
    assert (error["param"], "256" in error["message"]) == ("dimensions", True)


@pytest.mark.parametrize(
    "given",
    [[1, 2], [[1, 2]], "", [], ["one", ""], [None], "half \ud800", ["x"] * 2_049],
    ids=lambda given: str(given)[:9],
)
async def test_what_is_no_text_is_refused(client: httpx.AsyncClient, given: object) -> None:
    """Lists of tokens too: another model's tokens mean nothing here."""
    error = error_of(await embed(client, input=given), 400)
    assert error["param"] in ("input", None)


async def test_a_client_that_counts_tokens_is_told_to_send_text(client: httpx.AsyncClient) -> None:
    """LangChain's does by default."""
    for tokens in ([1, 2], [[1, 2], [3]]):
        assert "send text" in error_of(await embed(client, input=tokens), 400)["message"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "1 to 2,048 texts"),
        (["x"] * 2_049, "1 to 2,048 texts"),
        ([""], "1 to 100,000 characters"),
        ("x" * 100_001, "1 to 100,000 characters"),
        (["x" * 100_000] * 10 + ["x"], "at most 1,000,000 characters"),
    ],
    ids=["none", "too many", "empty", "too long", "too much"],
)
async def test_texts_have_bounds(client: httpx.AsyncClient, given: object, told: str) -> None:
    """A vector of a whole library would take minutes and gigabytes; the error says what is taken."""
    error = error_of(await embed(client, input=given), 400)
    assert (error["param"], told in error["message"]) == ("input", True)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b"[" * 40_000,
        b'{"model":' * 500 + b"1" + b"}" * 500,
        b'{"model": ' + b"9" * 5_000 + b"}",
        b'{"model": "chat", "metadata": {"a": "\\ud800"}}',
        b'{"model": "chat", "input": "x", "temperature": NaN}',
    ],
)
async def test_a_body_that_is_no_request_is_400(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    """No JSON, JSON of another form, too deep, too long a number, half a character."""
    error_of(await client.post(path, content=body, headers=TYPED), 400)


@pytest.mark.parametrize("depth", [90, 110, 500, 750, 800, 850, 900])
async def test_a_deep_schema_is_taken_or_refused(client: httpx.AsyncClient, depth: int) -> None:
    """However deep, it is no failure of the server."""
    deep = json.loads('{"a":' * depth + "1" + "}" * depth)
    tool = {"type": "function", "name": "f", "parameters": deep}
    for stream in (True, False):
        response = await post(client, "/v1/responses", FIELDS["/v1/responses"] | {"tools": [tool], "stream": stream})
        assert response.status_code in (200, 400)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=25)
@given(
    name=st.sampled_from(["messages", "input", "tools", "tool_choice", "text", "response_format", "stop", "metadata"]),
    value=VALUES,
    stream=st.booleans(),
)
async def test_no_request_makes_the_server_fail(
    client: httpx.AsyncClient, path: str, name: str, value: object, *, stream: bool
) -> None:
    """Whatever stands in a field, it is taken, or it is the client's mistake."""
    items = [{"role": "user", "content": value}, value] if name in ("messages", "input") else value
    for field in (value, items):
        response = await post(client, path, FIELDS[path] | {name: field, "stream": stream})
        assert response.status_code < 500, response.text
        assert "server_error" not in response.text
