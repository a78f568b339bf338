"""GET /v1/models: what a request may name as its model."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.openai.models import MODELS, Model, OpenAIRoute, model_named
from app.api.security import needs

router = APIRouter(prefix="/v1/models", tags=["openai"], dependencies=[needs("chat")], route_class=OpenAIRoute)


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("")
async def list_models() -> ModelList:
    """List the models."""
    return ModelList(data=[model_named(name) for name in MODELS])


@router.get("/{model_id}")
async def get_model(model_id: str) -> Model:
    """Say what a model is."""
    return model_named(model_id)
