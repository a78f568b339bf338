"""Liveness of the process, readiness of what it needs."""

from fastapi import APIRouter, Response

from app.api.deps import FromServices
from app.errors import DatabaseUnavailable

router = APIRouter(tags=["health"])


@router.get("/livez")
async def live() -> dict[str, str]:
    """The process answers. Says nothing of the database or a model, so that no restart is wasted on them."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(services: FromServices, response: Response) -> dict[str, str]:
    """200 when questions can be answered; 503 with the part that is missing."""
    try:
        database = "ok" if await services.database.is_migrated() else "migrations missing: run `app migrate`"
    except DatabaseUnavailable:
        database = "unreachable"
    is_ready = database == services.models == "ok"
    response.status_code = 200 if is_ready else 503
    return {"status": "ok" if is_ready else "not ready", "database": database, "models": services.models}
