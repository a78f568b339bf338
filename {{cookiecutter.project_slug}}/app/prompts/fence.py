"""How passages stand in a prompt: fenced, numbered from 1, unable to close their own fence.

Written by the pipeline, read back by the offline model. Knows nothing of either.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape

from app.types import Message, Passage

# What is escaped already is escaped once more, so that reading gives back what was written.
TAG = re.compile(r"(?:<|&(?:amp;)*lt;)/?(?:passage|question)\b", re.IGNORECASE)
ESCAPED_TAG = re.compile(r"&(?:amp;)*lt;/?(?:passage|question)\b", re.IGNORECASE)
PASSAGE = re.compile(
    r'<passage id="(\d+)" source="[^"]*"(?: page="\d+")? section="([^"]*)">\n(.*?)\n</passage>', re.DOTALL
)
QUESTION = re.compile(r"<question>\n(.*?)\n</question>", re.DOTALL)


@dataclass(frozen=True)
class FencedPassage:
    """A passage as a model sees it."""

    marker: int
    section: str
    text: str


def fence(passages: Sequence[Passage]) -> str:
    """The passages as text for a prompt."""
    return "\n\n".join(_fenced(n, passage) for n, passage in enumerate(passages, 1))


def _fenced(number: int, passage: Passage) -> str:
    page = "" if passage.page is None else f' page="{passage.page}"'
    source = f'source="{escape(passage.source)}"{page} section="{escape(passage.heading)}"'
    return f'<passage id="{number}" {source}>\n{neutral(passage.text)}\n</passage>'


def neutral(text: str) -> str:
    """`text` without anything that could open or close a fence."""
    return TAG.sub(lambda tag: escape(tag[0]), text)


def restored(text: str) -> str:
    """`text` as it was before `neutral`, and any other text unchanged."""
    return ESCAPED_TAG.sub(lambda tag: unescape(tag[0]), text)


def read_fences(messages: Sequence[Message]) -> tuple[str, list[FencedPassage]]:
    """The question and the passages of a prompt made with `fence`; empty where there are none."""
    prompt = messages[-1]["content"]
    passages = [
        FencedPassage(int(number), unescape(section), restored(text))
        for number, section, text in PASSAGE.findall(prompt)
    ]
    question = QUESTION.search(prompt)
    return (restored(question[1]) if question else ""), passages
