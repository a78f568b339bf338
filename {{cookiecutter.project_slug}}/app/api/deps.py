"""What a request needs: the parts of the application, who asks, and pages of lists."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from fastapi import Depends, Query, Request
from pydantic import BaseModel

from app.api.security import Caller
from app.db.engine import Database
from app.errors import InvalidApiKey
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.jobs.queue import Queue
from app.rag.pipeline import Pipeline
from app.settings import Settings

Item = TypeVar("Item")


@dataclass
class Services:
    """The parts of the application, made when the server starts.

    `models` turns from "loading" to "ok", or to what is wrong with them.
    """

    settings: Settings
    database: Database
    gateway: Gateway
    queue: Queue
    models: str = "loading"


@dataclass(frozen=True)
class Work:
    """The same for one request: the caller's own rows, and a context for what is called on the caller's account."""

    caller: Caller
    database: Database
    gateway: Gateway
    settings: Settings
    context: CallContext
    queue: Queue

    @property
    def pipeline(self) -> Pipeline:
        """Answers from the caller's documents."""
        return Pipeline(self.database, self.gateway, self.settings)


class Page(BaseModel, Generic[Item]):
    """A part of a list. Ask for the next one with `after` set to `last_id`, as long as `has_more` says so."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """Name it in the OpenAPI document, and so in clients: a page of Upload is UploadPage."""
        return f"{params[0].__name__}Page"


Limit = Annotated[int, Query(ge=1, le=100, description="how many at most")]
After = Annotated[UUID | None, Query(description="the id after which to go on")]


def page_of(items: Sequence[Item], ids: Sequence[str], limit: int) -> Page[Item]:
    """The first `limit` of items, of which one more than that was looked for."""
    shown = ids[:limit]
    first, last = (shown[0], shown[-1]) if shown else (None, None)
    return Page(data=list(items[:limit]), first_id=first, last_id=last, has_more=len(ids) > limit)


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


FromServices = Annotated[Services, Depends(_services)]


async def _caller(request: Request) -> Caller:
    """Who asks, as the middleware found out; nobody is not everybody."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        raise InvalidApiKey
    return caller


FromCaller = Annotated[Caller, Depends(_caller)]


async def _work(request: Request, services: FromServices, caller: FromCaller) -> Work:
    work: Work | None = getattr(request.state, "work", None)
    if work is None:
        context = services.gateway.context(tenant=caller.tenant, api_key_id=caller.key_id)
        context = replace(context, request_id=request.state.request_id)
        database = services.database.for_tenant(caller.tenant)
        work = request.state.work = Work(caller, database, services.gateway, services.settings, context, services.queue)
    return work


FromWork = Annotated[Work, Depends(_work)]
