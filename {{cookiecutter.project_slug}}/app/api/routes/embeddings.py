"""POST /v1/embeddings, as OpenAI's clients call it."""

import base64
import struct
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.api.deps import FromWork
from app.api.openai.models import EMBEDDING, OpenAIRoute, model_named
from app.api.openai.requests import Strict
from app.api.security import needs
from app.errors import InvalidParameter
from app.gateway.context import CallContext

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[needs("chat")], route_class=OpenAIRoute)
MOST_TEXTS = 2_048
LONGEST_TEXT = 100_000  # characters; the offline model needs 0.2 s and 20 MB for so many
MOST_CHARACTERS = 1_000_000  # of all texts


def _texts(given: object) -> object:
    """OpenAI's clients may count tokens by themselves; ours are other ones."""
    texts = given if isinstance(given, list) else [given]
    if any(isinstance(item, int | list) for item in texts):
        raise PydanticCustomError("tokens", "lists of tokens are not taken: send text")
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise PydanticCustomError("texts", f"send 1 to {MOST_TEXTS:,} texts")
    if not all(isinstance(text, str) and 1 <= len(text) <= LONGEST_TEXT for text in texts):
        raise PydanticCustomError("text", f"each text has 1 to {LONGEST_TEXT:,} characters")
    if sum(map(len, texts)) > MOST_CHARACTERS:
        raise PydanticCustomError("texts", f"all texts together have at most {MOST_CHARACTERS:,} characters")
    return given


Words = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Texts = Annotated[list[Words], Field(min_length=1, max_length=MOST_TEXTS)]


class EmbeddingRequest(Strict):
    """Texts to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "embedding", "input": ["A text.", "Another."]}]}
    )

    model: str = Field(description="`embedding`")
    input: Annotated[Words | Texts, BeforeValidator(_texts)] = Field(
        description="a text, or a list of them; lists of tokens are not taken"
    )
    encoding_format: Literal["float", "base64"] | None = Field(None, description="float by default")
    dimensions: int | None = Field(None, ge=1, lt=2**31, description="the model's own number, or nothing")
    user: str | None = Field(None, description="without effect")


class EmbeddedText(BaseModel):
    """A vector: numbers, or in base64 the bytes of 32-bit floats, least significant first."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingTokens(BaseModel):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """One vector per text, in order."""

    object: Literal["list"] = "list"
    data: list[EmbeddedText]
    model: str = EMBEDDING
    usage: EmbeddingTokens


@router.post("/embeddings", responses={404: {}, 502: {}})
async def embed(request: EmbeddingRequest, work: FromWork) -> EmbeddingList:
    """Turn texts into vectors of the model that the documents are searched with."""
    model_named(request.model, EMBEDDING)
    texts = [request.input] if isinstance(request.input, str) else request.input
    vectors = await work.gateway.embed(texts, context=work.context)
    if request.dimensions not in (None, len(vectors[0])):
        raise InvalidParameter("dimensions", f"the vectors of this model have {len(vectors[0])} dimensions")
    data = [EmbeddedText(index=n, embedding=_encoded(vector, request)) for n, vector in enumerate(vectors)]
    tokens = _tokens(work.context)
    return EmbeddingList(data=data, usage=EmbeddingTokens(prompt_tokens=tokens, total_tokens=tokens))


def _encoded(vector: list[float], request: EmbeddingRequest) -> list[float] | str:
    if request.encoding_format != "base64":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _tokens(context: CallContext) -> int:
    """Of every call that was made for these texts."""
    attempts = (attempt for inference in context.inferences for attempt in inference.attempts)
    return sum(attempt.usage.input_tokens for attempt in attempts)
