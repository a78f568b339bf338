"""The HTTP API in process, its own start and stop included: answers, events, documents, and the shape of errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.api.main import create_app
from app.db.engine import Database
from app.gateway import litellm_adapter
from app.settings import ChatSettings, Settings
from tests.conftest import PROJECT
from tests.provider import CutStream, Provider, RateLimited, Rejected

PATIENCE_SECONDS = 20
LIMIT = 20_000
OPEN = {"queued", "running"}
READING_SECONDS = 60  # the first upload also starts a reader, and loads the embedding model
FORM_START = b'--x\r\nContent-Disposition: form-data; name="file"; filename="large.md"\r\n\r\n'
QUESTION = {"question": "What does k1 do in BM25?"}
BM25 = PROJECT / "corpus" / "bm25.md"
SUPPORTED = [BM25, PROJECT / "corpus" / "retrieval-metrics.html", PROJECT / "corpus" / "error-analysis.pdf"]


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The application, started, and a client that sees what a browser would see."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on the empty database; documents may have LIMIT bytes."""
    assert database
    async with serving(settings.model_copy(update={"max_document_bytes": LIMIT})) as client:
        yield client


async def upload(client: httpx.AsyncClient, name: str, data: bytes) -> httpx.Response:
    """Send a file as a form does; when it was taken, give the upload as it is in the end."""
    response = await client.post("/v1/documents", files={"file": (name, data)})
    if response.status_code == 202:
        async with asyncio.timeout(READING_SECONDS):
            while (response := await client.get(f"/v1/uploads/{response.json()['id']}")).json()["status"] in OPEN:
                pass
    return response


async def stored(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The list of documents."""
    data: list[dict[str, Any]] = (await client.get("/v1/documents")).json()["data"]
    return data


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object, once status and shape are as promised."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert error["message"]
    return error


def events_of(response: httpx.Response) -> list[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines()) for block in response.text.split("\n\n") if block
    ]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


async def test_readiness_waits_for_the_models_and_liveness_does_not(settings: Settings, database: Database) -> None:
    """While models load the process is alive and not ready; then it is ready."""
    assert database
    with ExitStack() as loading:
        loading.enter_context(litellm_adapter._loading)
        async with asyncio.timeout(PATIENCE_SECONDS), serving(settings) as client:
            live, early = await client.get("/livez"), await client.get("/readyz")
            loading.close()
            while (ready := await client.get("/readyz")).status_code == 503:
                pass
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert early.json() == {"status": "not ready", "database": "ok", "models": "loading"}
    assert ready.json() == {"status": "ok", "database": "ok", "models": "ok"}


async def test_the_server_may_stop_while_models_load(settings: Settings) -> None:
    """Stopping does not wait for the models, and is no error."""
    with litellm_adapter._loading:
        async with asyncio.timeout(PATIENCE_SECONDS) as patience, serving(settings) as client:
            assert (await client.get("/livez")).status_code == 200
            probed = [(await client.head(path)).status_code for path in ("/livez", "/readyz")]
    assert not patience.expired()
    assert probed == [200, 503], "monitors that send HEAD learn the same"


async def test_readiness_names_a_missing_migration(
    settings: Settings, migrated_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the schema readiness and the log say what to run; clients cannot do anything about it."""
    url = make_url(migrated_url).set(database="template1").render_as_string(hide_password=False)
    async with serving(settings.model_validate({**settings.model_dump(), "database_url": url})) as client:
        ready = await client.get("/readyz")
        asked = await client.post("/v1/ask", json=QUESTION)
    assert (ready.status_code, ready.json()["database"]) == (503, "migrations missing: run `app migrate`")
    assert error_of(asked, 503)["code"] == "database_unavailable"
    assert "run `app migrate`" in capsys.readouterr().err


async def test_an_older_version_stays_ready(client: httpx.AsyncClient, owner: Database) -> None:
    """A schema that is newer than the code is one: while a version is rolled out the one before answers on."""
    newest = "(SELECT version_num FROM alembic_version)"
    async with owner.engine.begin() as connection:
        known = await connection.scalar(text(f"SELECT {newest}"))
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        ready = await client.get("/readyz")
    finally:
        async with owner.engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :known"), {"known": known})
    assert ready.json()["database"] == "ok"


async def test_pages_of_other_origins_are_let_in_where_they_are_named(settings: Settings, database: Database) -> None:
    """CORS_ORIGINS names them; others, and everybody by default, get no permission. An error has it too."""
    assert database
    ours, theirs = ({"Origin": origin} for origin in ("https://app.example.com", "https://evil.example"))
    sends = "authorization, idempotency-key, x-stainless-lang"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": sends}
    for origins, allowed in (("", False), ("https://app.example.com, http://localhost:3000", True)):
        async with serving(settings.model_copy(update={"cors_origins": origins})) as client:
            seen = [await client.options("/v1/ask", headers=who | asks) for who in (ours, theirs)]
            seen += [await client.get("/v1/nothing", headers=who) for who in (ours, theirs)]
        assert ["access-control-allow-origin" in response.headers for response in seen] == [allowed, False] * 2
        assert seen[0].is_success is allowed
        assert "access-control-allow-credentials" not in seen[0].headers


async def test_an_id_of_the_client_goes_through_to_the_ledger(settings: Settings, database: Database) -> None:
    """What X-Request-ID says is in the response, of an error too, and with each call of a model."""
    async with serving(settings) as client:
        await upload(client, BM25.name, BM25.read_bytes())
        answer = await client.post("/v1/ask", json=QUESTION, headers={"X-Request-ID": "trace-1"})
        missing = await client.get("/v1/nothing", headers={"X-Request-ID": "trace-2"})
    assert [response.headers["x-request-id"] for response in (answer, missing)] == ["trace-1", "trace-2"]
    async with database.across_tenants() as connection:
        calls = await connection.scalars(text("SELECT role FROM inferences WHERE request_id = 'trace-1'"))
    assert set(calls) == {"chat", "embedding"}


async def test_models_that_cannot_load_are_logged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server lives on and never says that it is ready; the log says why."""
    monkeypatch.setattr(litellm_adapter, "load", lambda: 1 / 0)
    async with serving(settings) as client:
        while "could not be loaded" not in (logged := capsys.readouterr().err):
            ready = await client.get("/readyz")
    assert "division by zero" in logged
    assert (ready.status_code, ready.json()["models"]) == (503, "could not be loaded: the log says why")


async def test_no_path_redirects(client: httpx.AsyncClient) -> None:
    """A client would send its key along, wherever that leads."""
    for path in ("/v1/documents/", "/v1/ask/", "//v1/documents"):
        assert (await client.get(path)).status_code == 404


async def test_a_lost_database_is_503_and_shows_no_password(settings: Settings) -> None:
    """The process stays alive, is not ready, and says that the database cannot be reached, not where it is."""
    url = "postgresql://me:canary@127.0.0.1:1/app"
    async with serving(settings.model_validate({**settings.model_dump(), "database_url": url})) as client:
        live, ready = await client.get("/livez"), await client.get("/readyz")
        asked = await client.post("/v1/ask", json=QUESTION)
    assert (live.status_code, ready.status_code, ready.json()["database"]) == (200, 503, "unreachable")
    error = error_of(asked, 503)
    assert (error["code"], error["message"]) == ("database_unavailable", "The database cannot be reached.")
    assert asked.headers["retry-after"] == "1"


async def test_an_answer_is_json_with_citations_that_can_be_followed(client: httpx.AsyncClient) -> None:
    """The answer names the model and says what it is, and its quote stands in the uploaded file."""
    await upload(client, BM25.name, BM25.read_bytes())
    response = await client.post("/v1/ask", json=QUESTION)
    answer = response.json()
    assert (response.status_code, answer["abstained"], answer["model"]) == (200, False, "offline/extractive")
    assert "no language model was used" in answer["notice"]
    assert [citation["source"] for citation in answer["citations"]] == ["upload/bm25.md"] * len(answer["citations"])
    first = answer["citations"][0]
    assert BM25.read_text(encoding="utf-8")[first["start"] : first["end"]] == first["quote"]
    assert "[1]" in answer["text"]


async def test_a_stream_sends_text_and_citations_and_then_the_answer(client: httpx.AsyncClient) -> None:
    """The deltas join to the text of the answer, which is the last event; nothing keeps the stream."""
    await upload(client, BM25.name, BM25.read_bytes())
    response = await client.post("/v1/ask", json=QUESTION | {"stream": True})
    events = events_of(response)
    names = [name for name, _ in events]
    answer = events[-1][1]
    assert (names[0], names[-1], set(names)) == ("delta", "answer", {"delta", "citation", "answer"})
    assert "".join(data["text"] for name, data in events if name == "delta") == answer["text"]
    assert [data for name, data in events if name == "citation"] == answer["citations"]
    assert response.headers["cache-control"] == "no-store"


async def test_a_stream_that_breaks_ends_with_an_error_event(settings: Settings, database: Database) -> None:
    """Once the status has been sent, an error of the provider is the last event, in the shape of every error."""
    assert database
    with Provider() as provider:
        online = {"chat": ChatSettings(model="openai/test-model", api_base=provider.url)}
        cited = " ".join(f'[{n}: "Lucene defaults to k1"]' for n in range(1, 11))  # one of them is right
        provider.then(CutStream(f"So: {cited} and what follows is lost.", after=53))
        async with serving(settings.model_copy(update=online)) as client:
            await upload(client, BM25.name, BM25.read_bytes())
            response = await client.post("/v1/ask", json=QUESTION | {"stream": True})
    *deltas, (last, data) = events_of(response)
    assert response.status_code == 200
    assert {"delta", "citation"} <= {name for name, _ in deltas}
    assert (last, data["error"]["code"], data["error"]["type"]) == ("error", "answer_cut", "server_error")


async def test_an_unforeseen_error_is_told_without_details(client: httpx.AsyncClient, owner: Database) -> None:
    """An answer that could not be stored is no answer: the response or the last event says so."""
    await upload(client, BM25.name, BM25.read_bytes())
    async with owner.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE answers ADD CONSTRAINT none_at_all CHECK (false) NOT VALID"))
    try:
        events = events_of(await client.post("/v1/ask", json=QUESTION | {"stream": True}))
        whole = await client.post("/v1/ask", json=QUESTION)
    finally:
        async with owner.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE answers DROP CONSTRAINT none_at_all"))
    assert (events[0][0], events[-1][0]) == ("delta", "error")
    assert events[-1][1]["error"]["code"] == "internal_error"
    assert error_of(whole, 500) == events[-1][1]["error"]
    assert "none_at_all" not in whole.text


async def test_a_providers_errors_keep_their_status(settings: Settings, database: Database) -> None:
    """A rate limit is 503 with Retry-After, a refusal 502; both before a stream has begun."""
    assert database
    with Provider() as provider:
        online = {"chat": ChatSettings(model="openai/test-model", api_base=provider.url)}
        provider.then(RateLimited(retry_after=90), Rejected(401))
        async with serving(settings.model_copy(update=online)) as client:
            await upload(client, BM25.name, BM25.read_bytes())
            limited = await client.post("/v1/ask", json=QUESTION)
            refused = await client.post("/v1/ask", json=QUESTION | {"stream": True})
    assert error_of(limited, 503)["code"] == "provider_rate_limited"
    assert limited.headers["retry-after"] == "90"
    assert error_of(refused, 502)["code"] == "provider_misconfigured"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("question", "told"),
    [("", "empty"), (" \n", "empty"), ("long " * 20_000, "4,000 are allowed"), ("\ud800", "not valid Unicode")],
    ids=["empty", "blank", "100 kB", "half a character"],
)
async def test_a_question_that_is_none_is_refused(
    client: httpx.AsyncClient, question: str, told: str, *, stream: bool
) -> None:
    """Empty, endless and broken questions are the client's mistake, with a reason."""
    body = json.dumps({"question": question, "stream": stream})
    error = error_of(await client.post("/v1/ask", content=body, headers={"content-type": "application/json"}), 400)
    assert error["code"] == "invalid_input"
    assert told in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_asking_before_there_are_documents_says_so(client: httpx.AsyncClient, *, stream: bool) -> None:
    """There is nothing to answer from yet: 409, and how to add documents."""
    error = error_of(await client.post("/v1/ask", json=QUESTION | {"stream": stream}), 409)
    assert error["code"] == "no_documents"
    assert "POST /v1/documents" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("{", None),
        ("", None),
        ("[]", None),
        ("{}", "question"),
        ('{"question": 1}', "question"),
        ('{"question": "x", "stream": "maybe"}', "stream"),
    ],
)
async def test_a_body_that_is_no_question_names_the_field(
    client: httpx.AsyncClient, body: str, param: str | None
) -> None:
    """Malformed JSON and wrong types are 422 with the field that is wrong."""
    response = await client.post("/v1/ask", content=body, headers={"content-type": "application/json"})
    error = error_of(response, 422)
    assert error["code"] == "invalid_request"
    if param:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/ask", 405), ("PUT", "/livez", 405)]
)
async def test_a_wrong_address_has_the_shape_of_every_error(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    """Unknown paths and methods are answered like any other mistake."""
    response = await client.request(method, path)
    assert error_of(response, status)["code"] == "http_error"
    assert ("allow" in response.headers) is (status == 405)


@pytest.mark.parametrize("file", SUPPORTED, ids=lambda file: file.suffix)
async def test_a_document_is_uploaded_listed_and_deleted(client: httpx.AsyncClient, file: Any) -> None:
    """Each kind is stored once, shown with its chunks, and gone after its deletion."""
    added, again = [await upload(client, file.name, file.read_bytes()) for _ in range(2)]
    assert [upload.json()["outcome"] for upload in (added, again)] == ["added", "unchanged"]
    [document] = await stored(client)
    assert (await client.get(f"/v1/documents/{document['id']}")).json() == document
    assert (document["source"], document["chunks"]) == (f"upload/{file.name}", added.json()["chunks"])
    assert document["title"]
    assert (await client.delete(f"/v1/documents/{document['id']}")).status_code == 204
    assert await stored(client) == []
    error_of(await client.get(f"/v1/documents/{document['id']}"), 404)
    assert (await client.get(f"/v1/uploads/{added.json()['id']}")).json() == added.json()


async def test_the_same_name_again_replaces_the_document(client: httpx.AsyncClient) -> None:
    """A new version takes the place of the old one."""
    for version, outcome in ((b"# First\n\nOne.", "added"), (b"# Second\n\nTwo.", "changed")):
        assert (await upload(client, "note.md", version)).json()["outcome"] == outcome
    assert [(d["source"], d["title"]) for d in await stored(client)] == [("upload/note.md", "Second")]


@pytest.mark.parametrize("name", ["../../note.md", "files\\note.md", "/etc/note.md"])
async def test_only_the_last_part_of_a_name_is_kept(client: httpx.AsyncClient, name: str) -> None:
    """Where a file stood on the client's machine is not stored."""
    assert (await upload(client, name, b"# Note\n\nText.")).json()["source"] == "upload/note.md"


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("large.md", b"x" * (LIMIT + 1), 413, "document_too_large"),
        ("/", b"# Note", 400, "invalid_input"),
        ("next\x85line.md", b"# Note", 400, "invalid_input"),
        ("long" * 600 + ".md", b"# Note", 400, "invalid_input"),
    ],
)
async def test_a_file_that_nobody_could_store_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, name: str, data: bytes, status: int, code: str
) -> None:
    """The refusal says why, and there is no upload."""
    assert error_of(await upload(client, name, data), status)["code"] == code
    assert (await client.get("/v1/uploads")).json()["data"] == []


async def test_a_file_that_cannot_be_read_fails_at_once_with_the_reason(client: httpx.AsyncClient) -> None:
    """Another try would not help, and the list of documents stays as it was."""
    broken = {
        "empty.md": b"",
        "blank.txt": b" \n ",
        "picture.png": b"\x89PNG\r\n\x1a\n\0\0\0",
        "broken.pdf": b"%PDF-1.7\nbroken",
    }
    for name, data in broken.items():
        failed = (await upload(client, name, data)).json()
        assert (failed["status"], failed["attempts"], failed["error"]["code"]) == ("failed", 1, "unsupported_document")
        assert name in failed["error"]["message"]
    assert await stored(client) == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused(client: httpx.AsyncClient, *, announced: bool) -> None:
    """More than the largest document and its form is 413: unread where its length is announced, else once it shows."""
    taken = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal taken
        for piece in (FORM_START, *[bytes(LIMIT)] * 50):
            taken += 1
            yield piece

    headers = {"content-type": "multipart/form-data; boundary=x"} | ({"content-length": "1000000"} if announced else {})
    error = error_of(await client.post("/v1/documents", content=pieces(), headers=headers), 413)
    assert error["message"] == "the request has more than 120,000 bytes"
    assert taken == (0 if announced else 7)
    assert await stored(client) == []


@pytest.mark.parametrize(
    ("form", "param"), [({"data": {"file": "text"}}, "file"), ({"files": {"other": b"x"}}, "file")]
)
async def test_an_upload_without_a_file_names_the_field(
    client: httpx.AsyncClient, form: dict[str, Any], param: str
) -> None:
    """A form without the file is 422."""
    assert error_of(await client.post("/v1/documents", **form), 422)["param"] == param


@pytest.mark.parametrize(("document", "status"), [("1", 404), ("-1", 422), (str(2**64), 422), ("first", 422)])
async def test_deleting_what_is_not_there_is_an_error(client: httpx.AsyncClient, document: str, status: int) -> None:
    """An unknown number is not found, and a word is no number."""
    error_of(await client.delete(f"/v1/documents/{document}"), status)


async def test_the_documentation_lists_every_route(client: httpx.AsyncClient) -> None:
    """What the modules in `routes/` offer is in the OpenAPI document; a page that needs another host is not served."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/livez", "/readyz", "/v1/ask", "/v1/documents", "/v1/documents/{document_id}"} <= paths.keys()
    assert (await client.get("/docs")).status_code == 404


async def test_a_method_that_there_is_not_is_told_with_those_that_there_are(client: httpx.AsyncClient) -> None:
    """All of them, whichever route has which."""
    refused = await client.put("/v1/documents")
    assert error_of(refused, 405)["type"] == "invalid_request_error"
    assert refused.headers["allow"] == "GET, POST"
