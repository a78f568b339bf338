"""Markdown, as it is, its front matter taken off, and pictures that are written into it."""

import re
from itertools import pairwise

import yaml
from markdown_it import MarkdownIt

from app.rag.loaders import Loaded

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL)
PICTURE = re.compile(  # `![alt](data:...)`, or the line `[name]: data:...` that a picture refers to
    r"(!\[[^\]\n]{0,1000}\])\([ \t]*<?data:[^()\n]*\)|^ {0,3}\[[^\]\n]{1,1000}\]:[ \t]*<?data:.*$",
    re.IGNORECASE | re.MULTILINE,
)
LONGEST_FRONT_MATTER = 20_000
TITLE_WITHIN = 200_000  # no title stands further down


def load(data: bytes) -> Loaded:
    """Flat values of the front matter are metadata; the title is the first heading of level one, or its `title`."""
    text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    metadata, text = _without_front_matter(text)
    text = PICTURE.sub(r"\1", text)
    return Loaded([text], first_heading(text) or metadata.get("title", ""), metadata)


def first_heading(markdown: str) -> str:
    """The first heading of level one; a parser, because a `#` may also stand in code or end a name."""
    tokens = MarkdownIt("commonmark").disable("inline").parse(markdown[:TITLE_WITHIN])
    return next((inline.content for opening, inline in pairwise(tokens) if opening.tag == "h1"), "")


def _without_front_matter(text: str) -> tuple[dict[str, str], str]:
    """What is no YAML mapping between two lines of dashes is left in the text."""
    found = FRONT_MATTER.match(text, 0, LONGEST_FRONT_MATTER)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError):  # the second: a date that no calendar has
        values = None
    if not (found and isinstance(values, dict)):
        return {}, text
    flat = {str(key): _scalar(value) for key, value in values.items() if not isinstance(value, dict | list | set)}
    return {key: value for key, value in flat.items() if value}, text[found.end() :]


def _scalar(value: object) -> str:
    """As YAML writes it: a filter says `draft=true`."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
