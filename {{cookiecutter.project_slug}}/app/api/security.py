"""Who asks: an API key, or on a developer's own machine nobody in particular; and what each may do.

Knows nothing of what the routes do.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from app.types import DEFAULT_TENANT

Scope = Literal["chat", "documents:read", "documents:write"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. `owner` is the name of the key: its conversations, uploads and feedback are its own."""

    tenant: str = DEFAULT_TENANT
    key_id: str = ""
    owner: str = ""
    scopes: frozenset[Scope] = SCOPES


class Authenticate:
    """Says whose each request is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass it on, with its caller."""
        scope.setdefault("state", {})["caller"] = Caller()
        await self._app(scope, receive, send)
