"""What every response says beside its body: the id of its request, and what a browser may do with it.

The id is also in every line of the log that the request leads to. Knows nothing of routes: what one of them sets
itself stays as it is.
"""

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

LONGEST_ID = 128
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HSTS = "max-age=31536000; includeSubDomains"


class ResponseHeaders:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, *, production: bool) -> None:
        self._app = app
        self._production = production

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with an id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {})["request_id"] = _request_id(Headers(scope=scope))
        defaults = self._defaults(scope) | {"X-Request-ID": request_id}

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in defaults.items():
                    headers.setdefault(name, value)
            await send(message)

        with bound_contextvars(request_id=request_id, path=scope["path"]):
            await self._app(scope, receive, headed)

    def _defaults(self, scope: Scope) -> dict[str, str]:
        kept = {"Cache-Control": "no-store"} if scope["path"].startswith("/v1/") else {}
        over_tls = {"Strict-Transport-Security": HSTS} if self._production and scope["scheme"] == "https" else {}
        return SECURITY | kept | over_tls


def _request_id(headers: Headers) -> str:
    """The client's, where it is fit for a log and a header; else a new one."""
    given = headers.get("x-request-id", "")
    fit = 0 < len(given) <= LONGEST_ID and given.isascii() and given.isprintable()
    return given if fit else str(uuid.uuid4())
