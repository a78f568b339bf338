"""A follow-up question to one that stands alone: "and in winter?" cannot be searched for.

The chat model rewrites it with what was said before. An offline model cannot, and any model may fail; then a rule
decides whether the question is searched for together with an earlier one (docs/howto/conversations.md has figures).
Knows nothing of where conversations are kept.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import structlog
from pydantic import BaseModel, Field

from app.errors import ProviderError
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.gateway.offline import terms
from app.gateway.prices import CHARACTERS_PER_TOKEN, estimate_tokens
from app.gateway.structured import parse
from app.prompts.fence import neutral, restored
from app.prompts.loader import load_prompt
from app.settings import Settings
from app.types import Turn

FEWEST_TERMS = 2  # with fewer, a question says too little to be searched for alone
# Unless it names something (BM25, the Nile), or introduces it.
NAMES = re.compile(r"\w[A-Z]|\d|(?<=\s)(?!I\b)[A-Z]")
INTRODUCES = re.compile(r"^\W*what (?:is|are) (?!the\b)", re.IGNORECASE)
GOES_BACK = re.compile(
    r"^\W*(?:and|or|but|so|then|also|what about|how about|what else|why not)\b"
    r"|\b(?:its?|they|them|theirs?|that|this|these|those|he|she|him|hers?|his|ones?|there|former|latter|same)\b",
    re.IGNORECASE,
)

log = structlog.get_logger(__name__)


class Standalone(BaseModel):
    """The question, rewritten."""

    question: str = Field(description="the latest question, to be understood alone")


async def stand_alone(
    question: str, history: Sequence[Turn], *, gateway: Gateway, settings: Settings, context: CallContext
) -> str:
    """The question as it is searched for; `history` is what was said before, oldest first.

    A model has half of the time that is left. Without a history, or where HISTORY_TOKENS is 0, it is the question.

    Raises:
        BudgetExceeded: nothing is left for today.

    """
    turns = newest(history, settings.history_tokens)
    if not turns:
        return question
    most = settings.max_question_characters
    is_offline = gateway.deployments()[0].is_offline
    rewritten = "" if is_offline else await _rewritten(question, turns, gateway, context)
    return rewritten[:most] or joined(question, turns, most=most)


async def _rewritten(question: str, turns: Sequence[Turn], gateway: Gateway, context: CallContext) -> str:
    """What the model makes of it; empty where it failed."""
    context = replace(context, ends=context.ends - context.seconds_left / 2)
    messages = load_prompt("followup").messages(conversation=_fenced(turns), question=neutral(question))
    try:
        parsed = await parse(gateway, messages, Standalone, context=context, parameters={"temperature": 0})
    except ProviderError as error:
        log.warning("a follow-up question was not rewritten: a rule decides", reason=error.code)
        return ""
    return restored(parsed.value.question).replace("\0", "").strip()


def newest(history: Sequence[Turn], tokens: int) -> list[Turn]:
    """The newest turns, oldest first, of about so many tokens together; the first of them may be cut."""
    kept: list[Turn] = []
    for turn in reversed(history):
        if tokens <= 0:
            break
        asked = turn.question[: tokens * CHARACTERS_PER_TOKEN]
        tokens -= estimate_tokens(asked)
        said = turn.answer[: tokens * CHARACTERS_PER_TOKEN]
        tokens -= estimate_tokens(said)
        kept.append(Turn(asked, said))
    return kept[::-1]


def goes_back(question: str) -> bool:
    """Whether a question seems to need what was said before it. Knows English, as the offline models do."""
    if GOES_BACK.search(question):
        return True
    return len(terms(question)) < FEWEST_TERMS and not (INTRODUCES.search(question) or NAMES.search(question))


def joined(question: str, turns: Sequence[Turn], *, most: int) -> str:
    """A question that goes back, after the newest one that does not; `most` characters, at the cost of that one."""
    if not goes_back(question):
        return question
    asked = [turn.question for turn in turns]
    subject = next((one for one in reversed(asked) if not goes_back(one)), asked[0])
    return f"{subject[: max(0, most - len(question) - 1)]} {question}".strip()


def _fenced(turns: Sequence[Turn]) -> str:
    """Each question and answer in a fence that it cannot leave."""
    said = (
        (f"{kind} {number}", text)
        for number, turn in enumerate(turns, 1)
        for kind, text in (("question", turn.question), ("answer", turn.answer))
    )
    return "\n\n".join(f'<passage id="{name}">\n{neutral(text)}\n</passage>' for name, text in said)
