"""Uploads and documents over HTTP: accepted at once, watched, tried again, listed in pages, each owner's own."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.db.engine import Database
from app.db.uploads import SentFile, add_upload
from app.errors import RateLimited
from app.settings import Settings
from app.types import SCOPES, Scope
from tests.integration.keyed import bearer, in_process, make_key, with_keys
from tests.integration.test_api import error_of, serving, upload

NOTE = b"---\nteam: birds\nyear: 2024\n---\n\n# Note\n\nA heron stood in the reeds."
READS: frozenset[Scope] = frozenset({"documents:read"})
WITHOUT_WORKER = {"worker_concurrency": 0}
NO_METADATA = (
    *("{", "[]", "1", "null", '"text"', '{"a": 1}', '{"a": null}', '{"a": {"b": "c"}}', '{"a": "\\u0000"}'),
    *('{"\\u0000": "b"}', '{"a": "\\ud800"}', json.dumps({"a": "x" * 1_001}), json.dumps({"x" * 1_001: "a"})),
    json.dumps({str(n): "" for n in range(21)}),
)


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on the empty database."""
    assert database
    async with serving(settings) as client:
        yield client


@pytest.fixture
async def waiting(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The same where no worker runs: uploads stay as they were sent."""
    assert database
    async with serving(settings.model_copy(update=WITHOUT_WORKER)) as client:
        yield client


async def send(client: httpx.AsyncClient, name: str, data: bytes = NOTE, **form: str) -> dict[str, Any]:
    """Send a file, and give what was answered at once."""
    response = await client.post("/v1/documents", files={"file": (name, data)}, data=form)
    assert response.status_code == 202, response.text
    answered: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/uploads/{answered['id']}"
    return answered


async def pages(client: httpx.AsyncClient, path: str, limit: int) -> list[list[dict[str, Any]]]:
    """Every page of a list, as its own `has_more` and `last_id` lead to the next."""
    found, query = [], f"limit={limit}"
    while True:
        page = (await client.get(f"{path}?{query}")).json()
        found.append(page["data"])
        if not page["has_more"]:
            return found
        query = f"limit={limit}&after={page['last_id']}"


async def test_an_upload_is_accepted_at_once(waiting: httpx.AsyncClient) -> None:
    """The answer has every field of what is read later, and nothing of the file."""
    sent = await send(waiting, "note.md")
    assert (await waiting.get(f"/v1/uploads/{sent['id']}")).json() == sent
    times = [sent.pop(name) for name in ("id", "created_at", "updated_at")]
    assert all(times)
    begun = {"source": "upload/note.md", "bytes": len(NOTE), "status": "queued", "attempts": 0}
    assert sent == begun | {"outcome": "", "chunks": 0, "error": None}
    assert (await waiting.get("/v1/documents")).json()["data"] == []


async def test_uploads_are_listed_in_pages_newest_first(waiting: httpx.AsyncClient) -> None:
    """Each is on one page."""
    sent = [(await send(waiting, f"{n}.md"))["id"] for n in range(5)]
    found = await pages(waiting, "/v1/uploads", 2)
    assert [[one["id"] for one in page] for page in found] == [sent[4:2:-1], sent[2:0:-1], sent[:1]]


async def test_documents_are_listed_in_pages_even_while_some_go(client: httpx.AsyncClient) -> None:
    """The newest first; the next page is there when the last document of this one was deleted meanwhile."""
    for n in range(3):
        await upload(client, f"{n}.md", f"# {n}".encode())
    first = (await client.get("/v1/documents?limit=2")).json()
    assert ([one["title"] for one in first["data"]], first["has_more"]) == (["2", "1"], True)
    assert (first["first_id"], first["last_id"]) == tuple(str(one["id"]) for one in first["data"])
    await client.delete(f"/v1/documents/{first['last_id']}")
    second = (await client.get(f"/v1/documents?limit=2&after={first['last_id']}")).json()
    assert ([one["title"] for one in second["data"]], second["has_more"]) == (["0"], False)


async def test_metadata_of_the_form_wins_over_the_documents_own(client: httpx.AsyncClient) -> None:
    """What the form does not name stays, and a question can be limited to it."""
    given = {"team": "fishers", "place": "lake"}
    sent = await send(client, "note.md", metadata=json.dumps(given))
    while (await client.get(f"/v1/uploads/{sent['id']}")).json()["status"] != "done":
        pass
    [document] = (await client.get("/v1/documents")).json()["data"]
    assert document["metadata"] == given | {"year": "2024"}
    asked = {"question": "Where did the heron stand?", "filters": {"metadata": {"team": "birds"}}}
    assert (await client.post("/v1/ask", json=asked)).json()["passages"] == []


async def test_metadata_that_is_none_is_refused(waiting: httpx.AsyncClient) -> None:
    """The error says what it must be, and nothing is stored."""
    for metadata in NO_METADATA:
        response = await waiting.post("/v1/documents", files={"file": ("a.md", b"# A")}, data={"metadata": metadata})
        assert "metadata must be a JSON object of up to 20 strings" in error_of(response, 400)["message"]
    assert (await waiting.get("/v1/uploads")).json()["data"] == []


async def test_as_much_metadata_as_is_allowed_is_taken(waiting: httpx.AsyncClient) -> None:
    """Up to the limits; none is an empty object."""
    for metadata in ("{}", json.dumps({f"{n:0>1000}": "x\n" * 500 for n in range(20)})):
        assert (await send(waiting, "a.md", metadata=metadata))["status"] == "queued"


async def test_a_file_needs_a_name(waiting: httpx.AsyncClient) -> None:
    """One that is no way up; another folder's is left out."""
    for name in (".", "..", "a/.."):
        response = await waiting.post("/v1/documents", files={"file": (name, NOTE)})
        assert "no file name" in error_of(response, 400)["message"]
    assert (await send(waiting, "../../note.md"))["source"] == "upload/note.md"


async def test_uploads_that_come_together_find_no_more_room_than_there_is(database: Database) -> None:
    """MAX_QUEUED_BYTES holds where each of them would fit alone."""

    async def add(name: str) -> None:
        async with database.transaction() as connection:
            sent = SentFile("somebody", "", f"upload/{name}", {}, bytes(100))
            await add_upload(connection, database.tenant, sent, most_bytes=150)

    ended = await asyncio.gather(*(add(f"{n}.md") for n in range(8)), return_exceptions=True)
    assert [one for one in ended if not isinstance(one, RateLimited)] == [None]


async def test_what_is_no_id_is_refused(waiting: httpx.AsyncClient) -> None:
    """Whatever it is; and a page that would begin anywhere would be a wrong one."""
    for wrong in ("first", "%00", "-1", "9" * 19, "9" * 5_000, "٣", "0" * 37):
        for method, path in (
            ("GET", f"/v1/uploads/{wrong}"),
            ("POST", f"/v1/uploads/{wrong}/retry"),
            ("GET", f"/v1/documents/{wrong}"),
            ("DELETE", f"/v1/documents/{wrong}"),
        ):
            assert error_of(await waiting.request(method, path), 422)["code"] == "invalid_request"
    for path in ("/v1/uploads", "/v1/documents", "/v1/conversations", "/v1/feedback"):
        assert error_of(await waiting.get(path, params={"after": "x"}), 422)["param"] == "after"


async def test_what_failed_can_be_tried_again(client: httpx.AsyncClient, database: Database) -> None:
    """From the bytes that were sent."""
    sent = (await upload(client, "note.md", NOTE)).json()
    async with database.transaction() as connection:
        failed = "UPDATE uploads SET status = 'failed', error_code = 'provider_unavailable', data = :data"
        await connection.execute(text(failed), {"data": NOTE})
    again = await client.post(f"/v1/uploads/{sent['id']}/retry")
    assert (again.status_code, again.json()["status"], again.json()["error"]) == (202, "queued", None)
    assert again.headers["location"] == f"/v1/uploads/{sent['id']}"
    while (ended := (await client.get(f"/v1/uploads/{sent['id']}")).json())["status"] != "done":
        pass
    assert (ended["attempts"], ended["outcome"]) == (1, "unchanged")


async def test_what_is_done_or_hopeless_is_not_tried_again(client: httpx.AsyncClient, database: Database) -> None:
    """The bytes of neither are kept."""
    for name, data, why in (("note.md", NOTE, "has not failed"), ("a.pdf", b"%PDF-1.7", "another try would fail")):
        ended = (await upload(client, name, data)).json()
        error = error_of(await client.post(f"/v1/uploads/{ended['id']}/retry"), 409)
        assert (error["code"], why in error["message"]) == ("conflict", True)
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM uploads WHERE data IS NOT NULL")) == 0


async def test_an_upload_can_be_forgotten(waiting: httpx.AsyncClient, database: Database) -> None:
    """With its bytes; not while a worker reads it."""
    sent, other = await send(waiting, "a.md"), await send(waiting, "b.md")
    path = f"/v1/uploads/{sent['id']}"
    async with database.transaction() as connection:
        running = "UPDATE uploads SET status = 'running' WHERE id = :id"
        await connection.execute(text(running), {"id": other["id"]})
    assert (await waiting.delete(path)).status_code == 204
    error_of(await waiting.get(path), 404)
    error_of(await waiting.delete(path), 404)
    error_of(await waiting.delete(f"/v1/uploads/{other['id']}"), 409)


async def test_what_waits_may_fill_only_so_much(settings: Settings, database: Database) -> None:
    """Over MAX_QUEUED_BYTES a tenant's next file is refused, until one is forgotten; another tenant's is not."""
    assert database
    full = with_keys(settings, max_queued_bytes=2 * len(NOTE))
    async with in_process(full) as client:
        mine, theirs = [bearer(await make_key(database, tenant=tenant)) for tenant in ("mine", "theirs")]
        for status in (202, 202, 429):
            refused = await client.post("/v1/documents", files={"file": ("a.md", NOTE)}, headers=mine)
            assert refused.status_code == status
        assert "MAX_QUEUED_BYTES" in error_of(refused, 429)["message"]
        assert int(refused.headers["retry-after"]) > 0
        sent = await client.post("/v1/documents", files={"file": ("a.md", NOTE)}, headers=theirs)
        assert sent.status_code == 202
        first = (await client.get("/v1/uploads", headers=mine)).json()["first_id"]
        assert (await client.delete(f"/v1/uploads/{first}", headers=mine)).status_code == 204
        sent = await client.post("/v1/documents", files={"file": ("a.md", NOTE)}, headers=mine)
        assert sent.status_code == 202


async def test_every_tenants_first_upload_comes_before_anybodys_second(settings: Settings, database: Database) -> None:
    """Whoever sends many files does not hold up who sends one."""
    many, few = [bearer(await make_key(database, tenant=tenant)) for tenant in ("many", "few")]
    async with in_process(with_keys(settings)) as client:
        for headers, name in ((many, "1.md"), (many, "2.md"), (many, "3.md"), (few, "a.md"), (few, "b.md")):
            sent = await client.post("/v1/documents", files={"file": (name, NOTE)}, headers=headers)
            assert sent.status_code == 202
    done: list[str] = []
    async with in_process(with_keys(settings, worker_concurrency=1)), database.across_tenants() as connection:
        while len(done) < 5:
            done = list(
                await connection.scalars(text("SELECT source FROM uploads WHERE status = 'done' ORDER BY updated_at"))
            )
    assert done == [f"upload/{name}.md" for name in "1a2b3"]


async def test_each_owner_sees_its_own_uploads(settings: Settings, database: Database) -> None:
    """Those of another key of the same tenant are not there; the documents are the tenant's."""
    async with in_process(with_keys(settings, worker_concurrency=2)) as client:
        mine, other, reader = [
            bearer(await make_key(database, name, scopes=scopes))
            for name, scopes in (("mine", SCOPES), ("other", SCOPES), ("reader", READS))
        ]
        sent = await client.post("/v1/documents", files={"file": ("a.md", b"# A")}, headers=mine)
        path = sent.headers["location"]
        while (await client.get(path, headers=mine)).json()["status"] != "done":
            pass
        assert error_of(await client.get(path, headers=other), 404)["code"] == "not_found"
        error_of(await client.post(f"{path}/retry", headers=other), 404)
        error_of(await client.get("/v1/uploads", params={"after": sent.json()["id"]}, headers=other), 404)
        assert (await client.get("/v1/uploads", headers=other)).json()["data"] == []
        [document] = (await client.get("/v1/documents", headers=reader)).json()["data"]
        error_of(await client.delete(f"/v1/documents/{document['id']}", headers=reader), 403)
        error_of(await client.post("/v1/documents", files={"file": ("a.md", b"# A")}, headers=reader), 403)
        assert (await client.get("/v1/uploads", headers=reader)).json()["data"] == []
        error_of(await client.post(f"{path}/retry", headers=reader), 403)
        error_of(await client.delete(path, headers=reader), 403)


async def test_an_upload_is_taken_while_the_queue_is_away(waiting: httpx.AsyncClient, owner: Database) -> None:
    """It is stored, and the upkeep of a worker finds it later: nothing of it is lost."""
    async with owner.engine.begin() as connection:
        await connection.execute(text("ALTER SCHEMA jobs RENAME TO gone"))
    try:
        sent = await send(waiting, "note.md")
    finally:
        async with owner.engine.begin() as connection:
            await connection.execute(text("ALTER SCHEMA gone RENAME TO jobs"))
    assert (await waiting.get(f"/v1/uploads/{sent['id']}")).json()["status"] == "queued"
