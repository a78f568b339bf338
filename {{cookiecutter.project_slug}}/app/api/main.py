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
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app.api import routes
from app.api.deps import Services
from app.api.disconnect import StopWhenClientLeaves
from app.api.errors import AnswerErrors, add_error_handlers
from app.api.headers import ResponseHeaders
from app.api.idempotency import Idempotency
from app.api.limits import RATE_HEADERS, RateLimits, one_stream
from app.api.openapi import describe, operation_id
from app.api.overload import BodyLimit, Capacity, TimeLimit, few_values
from app.api.security import Authenticate, check_safe
from app.api.stopping import Stopping
from app.db.engine import Database, open_database
from app.errors import ConfigurationError
from app.gateway import litellm_adapter
from app.gateway.deployments import price_unknown, resolve
from app.gateway.gateway import open_gateway, warm
from app.jobs.queue import open_queue
from app.jobs.worker import working
from app.settings import Settings, load_settings
from app.telemetry import configure_logging

log = structlog.get_logger(__name__)


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
        async with (
            _open_safe(settings) as database,
            open_gateway(settings, database) as gateway,
            open_queue(database) as queue,
            working(database, gateway, settings, queue, concurrency=settings.worker_concurrency) as stop_working,
        ):
            app.state.stopping.at_begin(stop_working)
            services = app.state.services = Services(settings, database, gateway, queue)
            warming = asyncio.create_task(_warm(services))
            yield
            await app.state.stopping.idle()
            warming.cancel()
            with suppress(asyncio.CancelledError):
                await warming

    app = FastAPI(
        title=settings.app_name,
        version="0.1.0",
        lifespan=lifespan,
        dependencies=[Depends(few_values), Depends(one_stream)],
        redirect_slashes=False,  # a redirection may leave TLS, and a client sends its key along
        docs_url=None,  # these pages come from another host
        redoc_url=None,
        generate_unique_id_function=operation_id,
        form_limits={"max_fields": 10, "max_files": 1, "max_part_size": 64_000},
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.stopping = Stopping()
    _add_middleware(app, settings, app.state.stopping)
    add_error_handlers(app)
    for module in pkgutil.iter_modules(routes.__path__):
        app.include_router(importlib.import_module(f"{routes.__name__}.{module.name}").router)
    describe(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings, stopping: Stopping) -> None:
    """The innermost first: each stands around those before it."""
    app.add_middleware(Idempotency, settings=settings)
    app.add_middleware(AnswerErrors)  # RateLimits adds to refusals, too, what is left
    app.add_middleware(RateLimits)
    app.add_middleware(Authenticate)
    app.add_middleware(TimeLimit, settings=settings, stopping=stopping)
    app.add_middleware(StopWhenClientLeaves)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Capacity, settings=settings, stopping=stopping)
    app.add_middleware(AnswerErrors)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # OpenAI's client sends a dozen of its own; a page that is named may send any
            expose_headers=["X-Request-ID", "Retry-After", "Idempotent-Replayed", "Location", *RATE_HEADERS],
        )
    app.add_middleware(ResponseHeaders, production=settings.environment == "production")


@asynccontextmanager
async def _open_safe(settings: Settings) -> AsyncIterator[Database]:
    """The database; before anything else is started, whether it is safe to serve from."""
    async with open_database(settings) as database:
        await check_safe(settings, database)
        yield database


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
