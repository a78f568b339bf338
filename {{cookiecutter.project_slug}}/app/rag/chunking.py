"""Document to chunks: a library cuts along the structure, we add the heading path and the page, and keep the offsets.

Knows nothing of embeddings or storage.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from app.types import Chunk, Document

# In these a `#` is a character like any other; loaders of all other formats write Markdown.
PLAIN = {"text/plain", "text/csv", "application/json", "application/jsonl", "application/pdf", "message/rfc822"}
LINE_END = re.compile(r"\r\n?|\n")  # Markdown's; splitlines knows others
MAY_BE_HEADING = re.compile(r"#|^ {0,3}(?:=+|-+)[ \t]*$", re.MULTILINE)

LONGEST_HEADING = 200
# Characters that the splitter gets at once: its time grows with the square of what has no paragraphs.
WINDOW = 32_000


def split(document: Document, *, max_characters: int, overlap: int = 0) -> list[Chunk]:
    """Cut `document` into chunks of at most `max_characters`, in order; nothing but white space is left out.

    A chunk may repeat the end of the one before it, at most `overlap` characters. `heading` is the path of titles that
    a chunk stands under, and `page` the one that it begins on. No chunk holds words of two slides or sheets.
    """
    structured = document.media_type not in PLAIN
    kind = MarkdownSplitter if structured else TextSplitter
    splitter = kind(max_characters, overlap=overlap)
    headings = headings_of(document.text) if structured else []
    starts = [start for start, _ in headings]
    chunks: list[Chunk] = []
    borders = [0, *(document.page_starts if structured else ()), len(document.text)]
    for window, end in _windows(document.text, borders, max(WINDOW, 2 * max_characters)):
        for offset, text in splitter.chunk_indices(document.text[window:end]):
            if not text.strip():  # characters that the splitter does not know as white space
                continue
            start = window + offset
            above = bisect_right(starts, start)
            heading = headings[above - 1][1] if above else document.title
            page = bisect_right(document.page_starts, start) or None
            chunks.append(Chunk(len(chunks), start, start + len(text), heading, text, page))
    return chunks


def _windows(text: str, borders: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Parts of at most `size` characters; each ends at a border, or with a section, a paragraph, a line or a word."""
    for start, stop in pairwise(borders):
        while stop - start > size:
            half, full = start + size // 2, start + size
            ends = (text.rfind(end, half, full) for end in ("\n\n#", "\n\n", "\n", " "))
            end = next((end for end in ends if end > 0), full)
            yield start, end
            start = end  # noqa: PLW2901  # the rest of the same part
        yield start, stop


def headings_of(markdown: str) -> list[tuple[int, str]]:
    """Where each heading begins, in characters, with its path: `Guide > Part > Section`."""
    if not MAY_BE_HEADING.search(markdown):
        return []
    offsets = [0, *(end.end() for end in LINE_END.finditer(markdown))]
    tokens = MarkdownIt("commonmark").disable("inline").parse(markdown)
    path: dict[int, str] = {}
    found = []
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.map:
            level = int(opening.tag[1:])
            path = {n: title for n, title in path.items() if n < level} | {level: inline.content}
            found.append((offsets[opening.map[0]], " > ".join(path.values())[:LONGEST_HEADING]))
    return found
