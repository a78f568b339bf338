"""Drafts: the chat model makes cases of documents, for a person to accept, edit or reject.

A draft whose quote does not stand in its document is dropped. Knows nothing of where drafts are kept, or of the index.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path

from pydantic import BaseModel, Field

from app.errors import AppError, ConfigurationError
from app.evals.dataset import Case, DrawSplit, Split, question_id
from app.gateway.gateway import Gateway
from app.gateway.structured import parse
from app.prompts.fence import neutral, restored
from app.prompts.loader import load_prompt
from app.rag.ingest import ITS_OWN_FAULT
from app.rag.parsing import Parser
from app.rag.quotes import locate
from app.rag.sources import read_file
from app.types import Chunk, Document, Message

CALLS_AT_A_TIME = 4
FAILURES_IN_A_ROW = 4  # after so many, the next call would fail too
COPIED_WORDS = 6  # in a row, from the text into the question
NEAR_MISS_EVERY = 3  # chunks: a quarter of the drafts
Picked = tuple[Document, Chunk]


class Draft(BaseModel):
    """What the model makes of one chunk."""

    question: str
    quote: str = Field(description="the words of the passage that answer the question")
    reference: str = Field(description="the answer, in one short sentence")
    near_miss: str = Field(description="a question that the document does not answer")


@dataclass
class Drafts:
    """Where drafts go, each at once, and what becomes of them; `split` is drawn for each document.

    Dropped ones are counted by reason. `failures` are of the calls that have failed in a row.
    """

    keep: Callable[[Case], None]
    split: DrawSplit
    kept: set[str] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    failures: list[AppError] = field(default_factory=list)

    def take(self, found: Case | str) -> None:
        """A case, or why there is none."""
        if isinstance(found, Case) and found.id not in self.kept:
            self.keep(found)
            self.kept.add(found.id)
        else:
            self.dropped["the question was asked before" if isinstance(found, Case) else found] += 1


async def pick(files: Sequence[Path], gateway: Gateway, skipped: list[str], *, count: int, seed: int) -> list[Picked]:
    """Chunks by chance, one of each document before the second of any; no more is read than that takes.

    Raises:
        ConfigurationError: the chat model is offline, and could draft nothing.

    """
    if (model := gateway.deployments()[0]).is_offline:
        told = (
            f"drafting needs a model that writes, and {model.model} quotes: set CHAT_MODEL and CHAT_API_KEY in .env, "
        )
        raise ConfigurationError(told + "as docs/howto/add-a-provider.md says")
    dice = random.Random(seed)  # noqa: S311  # repeatable, not secret
    read: list[list[Picked]] = []
    async with aclosing(Parser(gateway.settings)) as parser:
        for file in dice.sample(files, len(files)):
            if len(read) == count:
                break
            try:
                source, data = read_file(file, max_bytes=gateway.settings.max_document_bytes)
                one = await parser.parse(data, source=source)
            except ITS_OWN_FAULT as error:
                skipped.append(str(error))
            else:
                read.append([(one.document, chunk) for chunk in dice.sample(one.chunks, len(one.chunks))])
    return [turn for turn in chain.from_iterable(zip_longest(*read)) if turn][:count]


async def draft(
    picked: Sequence[Picked], drafts: Drafts, gateway: Gateway, *, near_misses: bool, on_call: Callable[[], None]
) -> None:
    """Ask for a case of each chunk; `near_misses` adds a question without an answer to each NEAR_MISS_EVERY-th.

    Raises:
        AppError: FAILURES_IN_A_ROW calls have failed, or all of them; this is the first one's.

    """
    left = list(enumerate(picked))

    async def work() -> None:
        while left and len(drafts.failures) < FAILURES_IN_A_ROW:
            number, (document, chunk) = left.pop(0)
            try:
                made = (await parse(gateway, _messages(document, chunk), Draft)).value
            except AppError as error:
                drafts.failures.append(error)
                drafts.dropped[error.message] += 1
            else:
                drafts.failures.clear()
                drafts.take(_with_answer(made, document, chunk, drafts.split(document.source)))
                if near_misses and number % NEAR_MISS_EVERY == 0:
                    drafts.take(_without(made, drafts.split(document.source)))
            on_call()

    await asyncio.gather(*(work() for _ in range(CALLS_AT_A_TIME)))
    if drafts.failures and (left or not drafts.kept):
        raise drafts.failures[0]


def _messages(document: Document, chunk: Chunk) -> list[Message]:
    return load_prompt("draft").messages(title=neutral(document.title), passage=neutral(chunk.text))


def _with_answer(made: Draft, document: Document, chunk: Chunk, split: Split) -> Case | str:
    """The quote is given in the document's own letters."""
    if not made.question.strip():
        return "there was nothing to ask"
    if not (span := locate(restored(made.quote), chunk.text)):
        return "the quote does not stand in the document"
    if _copies(made.question, chunk.text):
        return "the question copies the text"
    evidence = [{"document": document.source, "quote": chunk.text[slice(*span)]}]
    return _case(made.question, split, relevant=[document.source], evidence=evidence, reference=made.reference.strip())


def _without(made: Draft, split: Split) -> Case | str:
    return _case(made.near_miss, split, tags=["near-miss"]) if made.near_miss.strip() else "there was nothing to ask"


def _case(question: str, split: Split, **given: object) -> Case:
    case = {"id": f"draft-{question_id(question)}", "split": split, "question": " ".join(question.split())}
    return Case.model_validate(case | {"answerable": "relevant" in given, "source": "draft"} | given)


def _copies(question: str, text: str) -> bool:
    """Whether COPIED_WORDS of the question stand in the text in a row: a search for words would find it too easily."""
    asked, written = (re.findall(r"\w+", one.casefold()) for one in (question, text))
    runs = (asked[n : n + COPIED_WORDS] for n in range(len(asked) - COPIED_WORDS + 1))
    return any(f" {' '.join(run)} " in f" {' '.join(written)} " for run in runs)
