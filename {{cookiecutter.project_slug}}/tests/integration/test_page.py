"""The files of the chat page over HTTP: their types and headers, and nothing but them; tests/browser uses the page."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.api.main import create_app
from app.db.engine import Database
from app.settings import ChatSettings, Settings
from tests.conftest import PROJECT

STATIC = PROJECT / "app" / "api" / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application."""
    assert database
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


async def test_every_file_is_served_with_its_type_and_the_policy(client: httpx.AsyncClient) -> None:
    """A module of another type would not run; the policy allows nothing but the page's own files."""
    page = await client.get("/")
    for file in STATIC.iterdir():
        served = await client.get(f"/static/{file.name}")
        assert served.content == file.read_bytes()
        assert served.headers["content-type"].startswith(TYPES[file.suffix])
        assert served.headers["content-security-policy"] == page.headers["content-security-policy"]
    assert page.content == (STATIC / "index.html").read_bytes()
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "trusted-types 'none'" in policy
    assert "unsafe" not in policy


async def test_what_a_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    """It asks each time whether the file has changed; HEAD tells the same without the file."""
    first = await client.get("/static/main.js")
    again = await client.get("/static/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("wanted", ["bytes=abc", "bytes=99999999-", "bytes=0-9"])
async def test_a_file_is_sent_whole_whatever_part_is_asked_for(client: httpx.AsyncClient, wanted: str) -> None:
    """Parts of such small files serve nobody, and errors about them would have a shape of their own."""
    served = await client.get("/", headers={"Range": wanted})
    assert (served.status_code, served.content) == (200, (STATIC / "index.html").read_bytes())


@pytest.mark.parametrize("takes", ["gzip", "identity"])
async def test_files_are_compressed_for_those_who_take_it(client: httpx.AsyncClient, takes: str) -> None:
    """Also for a cache between, which must tell the two apart."""
    served = await client.get("/", headers={"Accept-Encoding": takes})
    assert served.headers.get("content-encoding", "identity") == takes
    assert served.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "path", ["nothing.js", "", "..%2fmain.py", "%2e%2e/main.py", "%2e%2e%2froutes/page.py", "%2fetc/passwd", "%00"]
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    """What is not in the folder is not there, however its path is written."""
    served = await client.get(f"/static/{path}")
    assert (served.status_code, served.json()["error"]["code"]) == (404, "http_error")


@pytest.mark.parametrize(("model", "offline"), [("offline/extractive", True), ("openai/gpt-5.4-mini", False)])
async def test_the_page_learns_what_it_is_about(settings: Settings, model: str, *, offline: bool) -> None:
    """Its name, whether a language model answers, whether keys are needed, and how large a file may be."""
    chosen = settings.model_copy(update={"chat": ChatSettings(model=model, api_key="x"), "app_name": "Field guide"})
    app = create_app(chosen)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
        about = (await client.get("http://127.0.0.1/app.json")).json()
    assert about == {"name": "Field guide", "offline": offline, "needs_key": False, "max_document_bytes": 20_000_000}
