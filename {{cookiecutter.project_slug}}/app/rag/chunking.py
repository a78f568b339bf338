"""Document to chunks: a library cuts along the structure, we add the heading path and keep the offsets.

Knows nothing of embeddings or storage.
"""

import re
from bisect import bisect_right
from itertools import pairwise

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from app.types import Chunk, Document

STRUCTURED = {"text/markdown", "text/html"}
LINE_END = re.compile(r"\r\n?|\n")  # Markdown's; splitlines knows others

LONGEST_HEADING = 200


def split(document: Document, *, max_characters: int) -> list[Chunk]:
    """Cut `document` into chunks of at most `max_characters`, in order, without overlap.

    Only white space between chunks is left out; `heading` is the path of titles that a chunk stands under.
    """
    structured = document.media_type in STRUCTURED
    splitter = MarkdownSplitter(max_characters) if structured else TextSplitter(max_characters)
    headings = _headings(document.text) if structured else []
    starts = [start for start, _ in headings]
    chunks = []
    for ordinal, (start, text) in enumerate(splitter.chunk_indices(document.text)):
        above = bisect_right(starts, start)
        heading = headings[above - 1][1] if above else document.title
        chunks.append(Chunk(ordinal, start, start + len(text), heading, text))
    return chunks


def _headings(markdown: str) -> list[tuple[int, str]]:
    """Where each heading begins, in characters, with its path: `Guide > Part > Section`."""
    offsets = [0, *(end.end() for end in LINE_END.finditer(markdown))]
    tokens = MarkdownIt("commonmark").parse(markdown)
    path: dict[int, str] = {}
    found = []
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.map:
            level = int(opening.tag[1:])
            path = {n: title for n, title in path.items() if n < level} | {level: inline.content}
            found.append((offsets[opening.map[0]], " > ".join(path.values())[:LONGEST_HEADING]))
    return found
