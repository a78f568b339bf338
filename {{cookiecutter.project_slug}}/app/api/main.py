"""The HTTP application: its parts are made when it starts, its routes are found in `routes/`.

Importing this module opens nothing and loads no model; `create_app` reads the settings.
"""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import chain

import structlog
from fastapi import FastAPI, HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import routes
from app.api.deps import Services
from app.api.disconnect import StopWhenClientLeaves
from app.api.errors import add_error_handlers
from app.api.security import Authenticate
from app.db.engine import open_database
from app.errors import ConfigurationError
from app.gateway import litellm_adapter
from app.gateway.deployments import price_unknown, resolve
from app.gateway.gateway import open_gateway, warm
from app.settings import Settings, load_settings
from app.telemetry import configure_logging

log = structlog.get_logger(__name__)
MULTIPART_OVERHEAD = 100_000


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; `uvicorn app.api.main:create_app --factory` serves it.

    Raises:
        ConfigurationError: a setting is wrong, or a model cannot work with what is set.

    """
    settings = settings or load_settings()
    configure_logging(settings)
    resolve(settings)  # a wrong model is told before anything starts

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_database(settings) as database, open_gateway(settings, database) as gateway:
            services = app.state.services = Services(settings, database, gateway)
            warming = asyncio.create_task(_warm(services))
            yield
            warming.cancel()
            with suppress(asyncio.CancelledError):
                await warming

    app = FastAPI(
        title=settings.app_name,
        version="0.1.0",
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(Authenticate)
    app.add_middleware(BodyLimit, most_bytes=settings.max_document_bytes + MULTIPART_OVERHEAD)
    app.add_middleware(StopWhenClientLeaves)
    add_error_handlers(app)
    for module in pkgutil.iter_modules(routes.__path__):
        app.include_router(importlib.import_module(f"{routes.__name__}.{module.name}").router)
    return app


class BodyLimit:
    """Refuses a larger body in the shape of every error; FastAPI's own limit answers in plain text."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count what arrives, unless the announced length is too much already."""
        length = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        announced, read = int(length) if length.isdecimal() else 0, 0
        too_large = HTTPException(413, f"the request has more than {self._most_bytes:,} bytes")

        async def limited() -> Message:
            nonlocal read
            if announced > self._most_bytes:
                raise too_large
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most_bytes:
                raise too_large
            return message

        await self._app(scope, limited, send)


async def _warm(services: Services) -> None:
    """Load models while the server already answers liveness; readiness waits for it."""
    try:
        await warm()
        await _check_prices(services.settings)
    except ConfigurationError as error:
        log.error("the server will not become ready", reason=error.message)  # noqa: TRY400  # a setting, not a fault
        services.models = error.message
    except Exception:
        log.exception("the models could not be loaded; the server will not become ready")
        services.models = "could not be loaded: the log says why"
    else:
        services.models = "ok"


async def _check_prices(settings: Settings) -> None:
    """Under a budget no model may be without a price: each of its calls would be refused."""
    if settings.tenant_budget_usd is None and settings.key_budget_usd is None:
        return
    for deployment in chain.from_iterable(resolve(settings).values()):
        if not (await litellm_adapter.facts(deployment)).priced:
            raise price_unknown(deployment)
