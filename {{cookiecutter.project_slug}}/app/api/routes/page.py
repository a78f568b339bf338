"""The chat page: one document, the files it names, and what it has to know before anybody shows a key.

The files are served as they stand in `app/api/static/`; there is no build step. Knows nothing of the routes that the
page calls.
"""

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.api.deps import FromServices
from app.api.security import needs_key

router = APIRouter(include_in_schema=False)
FILES = StaticFiles(directory=Path(__file__).parents[1] / "static")
POLICY = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'"),
    *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    *("require-trusted-types-for 'script'", "trusted-types 'none'"),
)
HEADERS = {
    # A file changes with the next release under the same name, so a browser asks each time; the ETag saves the rest.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(POLICY),
}
RANGE = {b"range", b"if-range"}
mimetypes.add_type("text/javascript", ".js")  # a module of another type does not run, and Windows may know another


class About(BaseModel):
    """The name over the page, whether a language model answers, and what an upload may have."""

    name: str
    offline: bool
    needs_key: bool
    max_document_bytes: int


class Compressed(Response):
    """A response that is sent compressed to a client that takes it; a stream must never be, so this is for files."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        whole = [(name, value) for name, value in scope["headers"] if name not in RANGE]  # errors of it have no body
        await GZipMiddleware(self._response)({**scope, "headers": whole}, receive, send)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page."""
    return await static("index.html", request)


@router.api_route("/static/{path:path}", methods=["GET", "HEAD"])
async def static(path: str, request: Request) -> Response:
    """A file of the page."""
    response = await FILES.get_response(path, request.scope)
    response.headers.update(HEADERS)
    return Compressed(response)


@router.get("/app.json")
async def about(services: FromServices) -> About:
    """What the page says of the application."""
    settings = services.settings
    return About(
        name=settings.app_name,
        offline=settings.chat.model.startswith("offline/"),
        needs_key=needs_key(settings),
        max_document_bytes=settings.max_document_bytes,
    )
