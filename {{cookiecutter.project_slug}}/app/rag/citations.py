"""Citations are checked, not believed: a quote counts where it stands verbatim in the passage it names.

Reads an answer as it streams, takes the markers out, and puts back a number for each one that holds. A marker is
`[n: "quoted words"]`; a bare `[n]` cites all that was said since the last marker. Three faults are told apart:

- fabricated: there is no such passage, nobody wrote these words, or there are too few of them to prove anything
- misattributed: the words stand in another passage than the one named
- stitched: the words are pieces of the passage, put together

Knows nothing of models or storage.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from app.types import Citation, Fault, Passage, RejectedCitation, TextDelta

# A quote ends at 2,000 characters, so that one that is never closed does not hold back the rest of the answer.
MARKER = re.compile(r'\s*\[(\d{1,3})(?::\s*["\u201c](.{0,2000}?)["\u201d])?\s*\]', re.DOTALL)
BEGINNING = re.compile(r'\[(?:\d{1,3}(?:\s*|:\s*(?:["\u201c].{0,2000}(?:["\u201d]\s*)?)?)?)?\Z', re.DOTALL)
MARKER_OR_BEGINNING = re.compile(MARKER.pattern + r"|\s*(?:" + BEGINNING.pattern + r"|\Z)", re.DOTALL)
# Fewer words stand in almost any passage and prove nothing.
FEWEST_QUOTED_WORDS = 3
ELLIPSIS = re.compile(r"\s*(?:\.\.\.|\u2026)\s*")
SAME = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u00a0": " "}
MARKUP = "*`"

Event = TextDelta | Citation | RejectedCitation


class CitationReader:
    """Turns a stream of model text into text with checked citations."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """`passages` in the order in which the prompt numbered them, from 1."""
        self._passages = passages
        self._pending = ""
        self._claim = ""
        self._numbers: dict[tuple[int, int, int], int] = {}
        self.text = ""
        self.citations: list[Citation] = []
        self.rejected: list[RejectedCitation] = []

    def feed(self, delta: str) -> Iterator[Event]:
        """Take the next piece; give the text that is safe to show and the citations that have closed."""
        # Without what neither UTF-8 nor Postgres can hold; models say such things now and then.
        self._pending += delta.encode(errors="ignore").decode().replace("\0", "")
        yield from self._read(MARKER_OR_BEGINNING)

    def close(self) -> Iterator[Event]:
        """The stream is over: what was held back as the beginning of a marker is text."""
        self._pending = self._pending.rstrip()
        yield from self._read(MARKER)

    def _read(self, pattern: re.Pattern[str]) -> Iterator[Event]:
        """Take everything up to the first beginning of a marker that `pattern` finds unfinished."""
        while (found := pattern.search(self._pending)) and found[1]:
            yield from self._show(self._pending[: found.start()])
            self._pending = self._pending[found.end() :]
            yield from self._cite(int(found[1]), found[2])
        ready = found.start() if found else len(self._pending)
        yield from self._show(self._pending[:ready])
        self._pending = self._pending[ready:]

    def _show(self, text: str) -> Iterator[TextDelta]:
        if not self.text:
            text = text.lstrip()
        if text:
            self.text += text
            self._claim += text
            yield TextDelta(text)

    def _cite(self, marker: int, quoted: str | None) -> Iterator[Event]:
        quote = (quoted if quoted is not None else self._claim).strip()
        self._claim = ""
        checked = check(marker, quote, self._passages)
        if isinstance(checked, RejectedCitation):
            self.rejected.append(checked)
            yield checked
            if BEGINNING.search(self.text):  # what follows must not complete it: nobody would have checked that
                yield from self._show("\u2026")
            return
        key = (checked.chunk_id, checked.start, checked.end)
        is_new = key not in self._numbers
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        self.text += f" [{number}]"
        yield TextDelta(f" [{number}]")
        if is_new:
            citation = Citation(number, *(getattr(checked, f) for f in Citation.__slots__[1:]))
            self.citations.append(citation)
            yield citation


def check(marker: int, quote: str, passages: Sequence[Passage]) -> Citation | RejectedCitation:
    """Find `quote` in the passage that `marker` names, counted from 1, or say what is wrong with it."""
    if not 1 <= marker <= len(passages) or len(quote.split()) < FEWEST_QUOTED_WORDS:
        return RejectedCitation(marker, quote, "fabricated")
    passage = passages[marker - 1]
    span = locate(quote, passage.text)
    if span is None:
        return RejectedCitation(marker, quote, _fault(quote, passage, passages))
    start, end = span
    return Citation(
        marker=marker,
        chunk_id=passage.chunk_id,
        source=passage.source,
        title=passage.title,
        heading=passage.heading,
        quote=passage.text[start:end],
        start=passage.start + start,
        end=passage.start + end,
    )


def _fault(quote: str, named: Passage, passages: Sequence[Passage]) -> Fault:
    if any(locate(quote, other.text) for other in passages):
        return "misattributed"
    pieces = [piece for piece in ELLIPSIS.split(quote) if piece]
    if len(pieces) > 1 and all(locate(piece, named.text) for piece in pieces):
        return "stitched"
    return "fabricated"


def locate(quote: str, text: str) -> tuple[int, int] | None:
    """Where `quote` stands in `text`, in characters of `text`; None where it does not.

    Runs of white space, typographic quotes and dashes, and Markdown emphasis make no difference; letters do.
    """
    wanted = normalise(quote)[0].strip()
    have, offsets = normalise(text)
    at = have.find(wanted) if wanted else -1
    if at < 0:
        return None
    return offsets[at], offsets[at + len(wanted) - 1] + 1


def normalise(text: str) -> tuple[str, list[int]]:
    """`text` in the form in which quotes are compared, and for each of its characters the offset it came from."""
    out: list[str] = []
    offsets: list[int] = []
    for offset, character in enumerate(text):
        if character in MARKUP:
            continue
        for plain in unicodedata.normalize("NFKC", SAME.get(character, character)):
            if plain.isspace() and out and out[-1] == " ":
                continue
            out.append(" " if plain.isspace() else plain)
            offsets.append(offset)
    return "".join(out), offsets
