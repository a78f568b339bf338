"""What a request needs, made once when the server starts, and the hand that passes it to the routes."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from app.db.engine import Database
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.rag.pipeline import Pipeline
from app.settings import Settings


@dataclass
class Services:
    """The parts of the application; `models` turns from "loading" to "ok", or to what is wrong with them."""

    settings: Settings
    database: Database
    gateway: Gateway
    models: str = "loading"
    pipeline: Pipeline = field(init=False)
    ingester: Ingester = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = Pipeline(self.database, self.gateway, self.settings)
        self.ingester = Ingester(self.database, self.gateway, self.settings)


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


FromServices = Annotated[Services, Depends(_services)]
