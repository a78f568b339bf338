"""The HTTP application: its parts are made when it starts, its routes are found in `routes/`.

Importing this module opens nothing and loads no model; `create_app` reads the settings.
"""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from app.api import routes
from app.api.deps import Services
from app.api.errors import add_error_handlers
from app.db.engine import open_database
from app.gateway.gateway import Gateway
from app.settings import Settings, load_settings
from app.telemetry import configure_logging

MULTIPART_OVERHEAD = 100_000


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; `uvicorn app.api.main:create_app --factory` serves it."""
    settings = settings or load_settings()
    configure_logging(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gateway = Gateway(settings)
        async with open_database(settings) as database:
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
        max_body_size=settings.max_document_bytes + MULTIPART_OVERHEAD,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    add_error_handlers(app)
    for module in pkgutil.iter_modules(routes.__path__):
        app.include_router(importlib.import_module(f"{routes.__name__}.{module.name}").router)
    return app


async def _warm(services: Services) -> None:
    """Load models while the server already answers liveness; readiness waits for it."""
    await services.gateway.warm()
    services.warm = True
