"""Question to search queries: the chat model says it in the words that a document would use.

The question itself is always searched for, first; where the model fails, alone. Knows nothing of the search.
"""

from dataclasses import replace

import structlog
from pydantic import BaseModel, Field

from app.errors import ProviderError
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.gateway.structured import parse
from app.prompts.fence import neutral
from app.prompts.loader import load_prompt
from app.settings import Settings

MOST_QUERIES = 3
MOST_CHARACTERS = 300  # of a query

log = structlog.get_logger(__name__)


class Queries(BaseModel):
    """What to search for."""

    queries: list[str] = Field(description="at most three, each one line")


async def rewrite(question: str, *, gateway: Gateway, settings: Settings, context: CallContext) -> list[str]:
    """The question and up to MOST_QUERIES more, none twice; half of the time that is left is the most it takes.

    The question alone where REWRITE is off, the chat model is offline, or it failed.

    Raises:
        BudgetExceeded: nothing is left for today.

    """
    if not settings.rewrite or gateway.deployments()[0].is_offline:
        return [question]
    context = replace(context, ends=context.ends - context.seconds_left / 2)
    messages = load_prompt("rewrite").messages(question=neutral(question))
    try:
        parsed = await parse(gateway, messages, Queries, context=context, parameters={"temperature": 0})
    except ProviderError as error:
        log.warning("rewriting failed: the question is searched for as it is", reason=error.code)
        return [question]
    return [question, *_new(parsed.value.queries, question)]


def _new(queries: list[str], question: str) -> list[str]:
    """Those that say something that was not there before."""
    seen, new = {"", _plain(question).casefold()}, []
    for query in map(_plain, queries):
        if query.casefold() not in seen:
            seen.add(query.casefold())
            new.append(query)
    return new[:MOST_QUERIES]


def _plain(text: str) -> str:
    """One line, of no more than its length, that Postgres takes."""
    return " ".join(text.replace("\0", " ").split())[:MOST_CHARACTERS].strip()
