"""Liveness of the process, readiness of what it needs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.api.deps import FromServices
from app.api.stopping import Stopping, stopping_of
from app.errors import DatabaseUnavailable

router = APIRouter(tags=["health"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez", responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}})
async def live() -> dict[str, str]:
    """The process answers. Says nothing of the database or a model, so that no restart is wasted on them."""
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    responses={
        200: {"content": {"application/json": {"example": {"status": "ok", "database": "ok", "models": "ok"}}}},
        503: {"description": "a part is missing, or the server is being stopped", "model": dict[str, str]},
    },
)
async def ready(
    services: FromServices, stopping: Annotated[Stopping, Depends(stopping_of)], response: Response
) -> dict[str, str]:
    """200 when questions can be answered; 503 with the part that is missing, and while the server stops."""
    try:
        database = "ok" if await services.database.is_migrated() else "migrations missing: run `app migrate`"
    except DatabaseUnavailable:
        database = "unreachable"
    is_ready = database == services.models == "ok" and not stopping.begun
    response.status_code = 200 if is_ready else 503
    status = "ok" if is_ready else "stopping" if stopping.begun else "not ready"
    return {"status": status, "database": database, "models": services.models}
