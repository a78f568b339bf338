"""The three models that clients may name, and how a wrong name or parameter is told in OpenAI's way.

Knows nothing of what stands behind the names.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.api.errors import what_is_wrong
from app.errors import InvalidParameter, ModelNotFound

CHAT, DOCUMENTS, EMBEDDING = "chat", "documents", "embedding"
MODELS = {
    CHAT: "the chat model that this application is set up with, as it is",
    DOCUMENTS: "answers over your documents, with citations that were checked",
    EMBEDDING: "the embedding model that this application is set up with",
}


class Model(BaseModel):
    """A model that a request may name."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "app"
    description: str


def model_named(name: str, *known: str) -> Model:
    """The model of that name among those `known`, by default all.

    Raises:
        ModelNotFound: there is none.

    """
    known = known or tuple(MODELS)
    if name not in known:
        raise ModelNotFound(f"there is no such model here; this takes {' or '.join(known)}")
    return Model(id=name, description=MODELS[name])


class OpenAIRoute(APIRoute):
    """A request that is none is 400, as OpenAI's clients expect it, and the error names the parameter."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler that FastAPI makes."""
        handle = super().get_route_handler()

        async def handle_or_tell(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                param, problem = what_is_wrong(error)
                raise InvalidParameter(param and param.partition(".")[0], problem) from None

        return handle_or_tell
