"""A second look at what the search found: a reranker reads question and passage together and scores each passage.

A reranker is one function, and one line in RERANKERS. It is a help, not a condition: where its model fails, passages
keep the order they had. Knows nothing of how they were found.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

import structlog
from pydantic import BaseModel, Field

from app.errors import ConfigurationError, ProviderError
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.gateway.structured import parse
from app.prompts.fence import fence, neutral
from app.prompts.loader import load_prompt
from app.rag import cross_encoder
from app.settings import Settings
from app.types import Passage

TOKENS_PER_RATING = 20

Reranker = Callable[..., Awaitable[list[float]]]
log = structlog.get_logger(__name__)


class Rating(BaseModel):
    """How much one passage helps."""

    passage: int = Field(description="the passage's id")
    relevance: Literal[0, 1, 2, 3]


class Ratings(BaseModel):
    """The passages that help, each once."""

    ratings: list[Rating]


async def rerank(
    question: str, passages: Sequence[Passage], *, gateway: Gateway, settings: Settings, context: CallContext
) -> list[Passage]:
    """The passages, best first, with their `rerank` score; equal ones keep their order.

    As they came, with `rerank` None, where RERANK is off or the reranker failed. Half of the time that is left is the
    most it takes; time and price grow with each passage.

    Raises:
        ConfigurationError: the reranker cannot work as it is set.
        BudgetExceeded: nothing is left for today.

    """
    if settings.rerank == "off" or not passages:
        return list(passages)
    context = replace(context, ends=context.ends - context.seconds_left / 2)
    try:
        reranker = RERANKERS[settings.rerank]
        scores = await reranker(question, passages, gateway=gateway, settings=settings, context=context)
    except ProviderError as error:
        log.warning("reranking failed: the passages keep their order", reranker=settings.rerank, reason=error.code)
        return list(passages)
    ranked = sorted(zip(scores, passages, strict=True), key=lambda scored: -scored[0])
    return [replace(passage, rerank=score) for score, passage in ranked]


async def _llm(
    question: str, passages: Sequence[Passage], *, gateway: Gateway, settings: Settings, context: CallContext
) -> list[float]:
    """The chat role's ratings, 0 to 3 as in TREC's Deep Learning tracks; 0 for what it leaves out."""
    if gateway.deployments()[0].is_offline:
        raise ConfigurationError("RERANK=llm needs a language model: set CHAT_MODEL, or RERANK=cross-encoder")
    messages = load_prompt("rerank").messages(passages=fence(passages), question=neutral(question))
    most = settings.max_output_tokens + TOKENS_PER_RATING * len(passages)
    parameters = {"temperature": 0, "max_tokens": most}
    parsed = await parse(gateway, messages, Ratings, context=context, parameters=parameters)
    rated = {rating.passage: rating.relevance for rating in parsed.value.ratings}
    return [float(rated.get(number, 0)) for number, _ in enumerate(passages, 1)]


async def _cross_encoder(
    question: str, passages: Sequence[Passage], *, settings: Settings, context: CallContext, **_: object
) -> list[float]:
    """The logits of RERANK_MODEL, which reads the heading too."""
    texts = ["\n".join(filter(None, [passage.heading, passage.text])) for passage in passages]
    return await cross_encoder.score(question, texts, settings=settings, context=context)


RERANKERS: dict[str, Reranker] = {"llm": _llm, "cross-encoder": _cross_encoder}
