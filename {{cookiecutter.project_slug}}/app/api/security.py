"""Who asks: an API key, or on a developer's own machine nobody in particular; and what each may do.

Knows nothing of what the routes do.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request, params
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from app.db.engine import Database
from app.db.keys import SHAPE, find_key, list_keys
from app.db.roles import excessive_powers
from app.errors import ConfigurationError, Forbidden, InvalidApiKey
from app.settings import Settings
from app.types import DEFAULT_TENANT, SCOPES, Scope

if TYPE_CHECKING:
    from app.api.deps import Services

PROTECTED = "/v1"
NAME = re.compile(r"\[?(.*?)\]?(?::\d*)?")  # of a Host header, without its port


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. `owner` is the name of the key: its conversations, uploads and feedback are its own."""

    tenant: str = DEFAULT_TENANT
    key_id: str = ""
    owner: str = ""
    scopes: frozenset[Scope] = SCOPES


_DECLARED = Depends(HTTPBearer(scheme_name="ApiKey", description="`Authorization: Bearer KEY`", auto_error=False))


async def _allowed(request: Request, needed: SecurityScopes, _: Annotated[object, _DECLARED]) -> None:
    """The middleware found out who asks; the bearer scheme is here for the OpenAPI document alone."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        raise InvalidApiKey
    if missing := sorted(set(needed.scopes) - caller.scopes):
        raise Forbidden(f"this API key lacks the scope {missing[0]}")


def needs(scope: Scope) -> params.Security:
    """What a router or a route depends on: a caller without this scope gets 403.

    Raises:
        InvalidApiKey: there is no caller.
        Forbidden: the caller's key lacks the scope.

    """
    return params.Security(_allowed, scopes=[scope])


class Authenticate:
    """Says whose each request is, or refuses it. Only what is below /v1 belongs to somebody."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass it on, with its caller.

        Raises:
            InvalidApiKey: a key is needed and there is none, or there is one that is not live.
            Forbidden: none is needed, and a web page of another site sends this.
            DatabaseUnavailable: nobody can tell.

        """
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PROTECTED}/"):
            services: Services = scope["app"].state.services
            scope.setdefault("state", {})["caller"] = await _caller(scope, services)
        await self._app(scope, receive, send)


async def _caller(scope: Connection, services: "Services") -> Caller:
    headers, settings = Headers(scope=scope), services.settings
    if needs_key(settings):  # else a key that is sent has nothing to be compared with; OpenAI's clients always send one
        return await _holder(headers.get("authorization", ""), services)
    if scope["client"] and not _is_loopback(scope["client"][0]):
        raise InvalidApiKey("from another machine this needs API keys: set API_KEY_SECRET, and HOST where it listens")
    _refuse_other_sites(headers, settings)
    return Caller()


async def _holder(authorization: str, services: "Services") -> Caller:
    """Whatever is wrong with a key, the answer is the same."""
    scheme, _, given = authorization.partition(" ")
    pepper = services.settings.api_key_secret
    if pepper is None or scheme.lower() != "bearer" or not SHAPE.fullmatch(given.strip()):
        raise InvalidApiKey
    async with services.database.across_tenants() as connection:
        key = await find_key(connection, given.strip(), pepper)
    if key is None:
        raise InvalidApiKey
    return Caller(key.tenant, key.id, key.name, frozenset(key.scopes))


def _refuse_other_sites(headers: Headers, settings: Settings) -> None:
    """A page that a developer has open somewhere must not use the server that has no keys.

    Its name may lead to this machine (DNS rebinding), or it sends a form, which no browser asks about first.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if not ((name := NAME.fullmatch(host)) and _is_loopback(name[1])):
        raise Forbidden("without API keys this server has no name but localhost: set API_KEY_SECRET to give it one")
    if not {origin, "*"}.isdisjoint(settings.allowed_origins):
        return
    if (origin is not None and origin.partition("://")[2] != host) or headers.get("sec-fetch-site") == "cross-site":
        raise Forbidden("a page of another site may not use this server: CORS_ORIGINS names those that may")


def needs_key(settings: Settings) -> bool:
    """Whether nobody gets in without an API key."""
    production = settings.environment == "production"
    return production or not _is_loopback(settings.host) or settings.api_key_secret is not None


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def check_safe(settings: Settings, database: Database) -> None:
    """Look at what the settings alone cannot tell, before anybody is served.

    Raises:
        ConfigurationError: keys are needed and none can be live; or, in production, the database's user may too much.
        DatabaseUnavailable: nobody can tell.

    """
    if needs_key(settings) and settings.api_key_secret is None:
        raise ConfigurationError(f"HOST={settings.host} lets other machines in: set API_KEY_SECRET, and give them keys")
    if settings.environment != "production":
        return
    async with database.across_tenants() as connection:
        powers, keys = await excessive_powers(connection), await list_keys(connection)
    if powers:
        raise ConfigurationError(
            f"the user of DATABASE_URL {' and '.join(powers)}: the server needs one that is only a member of "
            "app_tenant and app_worker, and `app migrate` another (docs/howto/deploy.md)"
        )
    if not any(key.live for key in keys):
        raise ConfigurationError("there is no live API key, so nobody could ask: make one with `app keys create`")
