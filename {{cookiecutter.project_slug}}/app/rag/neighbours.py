"""What stands around a passage: the chunks before and after it, read with it as one text.

A chunk that was found is often the middle of an explanation. Knows nothing of how it was found.
"""

from collections.abc import Sequence
from dataclasses import replace

from app.db.search import Search, Span
from app.types import Passage


async def widen(passages: Sequence[Passage], search: Search, reach: int) -> tuple[list[Passage], dict[int, int]]:
    """The passages with `reach` chunks on both sides, best first, and which went into which, by chunk id.

    Those of one document that overlap or touch become one, with the identity, scores and place of the best of them.
    """
    spans = await search.around([passage.chunk_id for passage in passages], reach)
    known = [passage for passage in passages if passage.chunk_id in spans]
    merged, into = _merge({passage.chunk_id: spans[passage.chunk_id] for passage in known})
    texts = dict(zip(merged, await search.texts(list(merged.values())), strict=True))
    wide = [
        replace(passage, start=span.start, end=span.end, text=texts[passage.chunk_id])
        for passage in known
        if (span := merged.get(passage.chunk_id)) and texts[passage.chunk_id]
    ]
    return wide, into


def _merge(spans: dict[int, Span]) -> tuple[dict[int, Span], dict[int, int]]:
    """Spans by chunk id, best first, without two that touch; and for each that is gone, the one that took it in."""
    merged: dict[int, Span] = {}
    into: dict[int, int] = {}
    for chunk, span in spans.items():
        touching = [other for other, there in merged.items() if _touch(span, there)]
        if not touching:
            merged[chunk] = span
            continue
        best, *others = touching  # a span between two that are kept joins them
        into |= dict.fromkeys([chunk, *others], best)
        for joined in (span, *(merged.pop(other) for other in others)):
            merged[best] = _join(merged[best], joined)
    return merged, {chunk: _last(into, chunk) for chunk in into}


def _last(into: dict[int, int], chunk: int) -> int:
    while chunk in into:
        chunk = into[chunk]
    return chunk


def _touch(a: Span, b: Span) -> bool:
    return a.document_id == b.document_id and a.first <= b.last + 1 and b.first <= a.last + 1


def _join(a: Span, b: Span) -> Span:
    first, last = min(a.first, b.first), max(a.last, b.last)
    return replace(a, first=first, last=last, start=min(a.start, b.start), end=max(a.end, b.end))
