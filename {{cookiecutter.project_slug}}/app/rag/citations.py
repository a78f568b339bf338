"""Citations are checked, not believed: a quote counts where it stands verbatim in the passage it names.

Reads an answer as it streams, takes the markers out, and puts back a number for each one that holds. A marker is
`[n: "quoted words"]`; a bare `[n]`, `[1, 2]` or `[1-3]` cites all that was said since the last marker. Three faults are
told apart:

- fabricated: there is no such passage, nobody wrote these words, or there are too few of them to prove anything
- misattributed: the words stand in another passage than the one named
- stitched: the words are pieces of the passage, put together

Knows nothing of models or storage.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

from app.prompts.fence import restored
from app.rag.quotes import Normal, Span
from app.types import Citation, Fault, Passage, RejectedCitation, TextDelta

OPEN, CLOSE, BLANKS = "[\\[\u3010\uff3b]", "[\\]\u3011\uff3d]", r"\s{0,3}"
DOUBLE, SINGLE = '["\u201c\u201d\u201e\u00ab\u00bb]', "['\u2018\u2019]"
JOINT = BLANKS + r"[,;&\u2013-]"
NUMBER = r"\d{1,3}"
NUMBERS = f"{NUMBER}(?:{JOINT}{BLANKS}{NUMBER})" + "{0,9}"
FOR_MACHINES = r"\u2020[^\]\u3011]{0,60}"  # as in 【1†source】
# All of a bare marker, or what another begins with. A list that begins with 0 is an interval: passages count from 1.
HEAD = re.compile(
    rf"{OPEN}{BLANKS}\^?(?!\s?0{JOINT})(?P<numbers>{NUMBERS}){BLANKS}(?:(?:{FOR_MACHINES})?(?P<bare>{CLOSE})"
    rf"|[:,]?{BLANKS}(?:(?P<double>{DOUBLE})|(?P<single>{SINGLE}))|(?P<plain>:)(?!{BLANKS}\Z))"
)
UNFINISHED = re.compile(rf"{OPEN}{BLANKS}\^?(?:{NUMBERS}(?:{JOINT})?{BLANKS}(?:[:,]{BLANKS}|{FOR_MACHINES})?)?\Z")
OPENING = re.compile(OPEN)
ENDS = {
    "double": re.compile(DOUBLE + BLANKS + CLOSE),
    "single": re.compile(SINGLE + BLANKS + CLOSE),
    "plain": re.compile(CLOSE),
}
# A quote ends after so many characters, or possible ends, so that one that is never closed holds back no more.
LONGEST, MOST_ENDS = 2_000, 8
LONGEST_HEAD = MOST_BLANKS = 200
LONGEST_RANGE = 20
# Fewer words stand in almost any passage and prove nothing. Where words are not spaced, two letters count as one.
FEWEST_QUOTED_WORDS = 3
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{2}")
BETWEEN_PIECES = re.compile(r'\s*(?:\[?(?:\.\.\.|\u2026)\]?|["\u201d]\s*(?:[,;.]|and)?\s*["\u201c])\s*')
ENDING = ".,;:!? \n"  # of the statement before
FLAG, GAP = " [?]", "\u2026"

Event = TextDelta | Citation | RejectedCitation
Marker = tuple[list[int], str | None, int]
"""The passages it names, the words it quotes (None: those said before it), and where in the text it ends."""


class _Unfinished(Exception):
    """Only what comes next can tell whether this is a marker."""


class CitationReader:
    """Turns a stream of model text into text with checked citations."""

    def __init__(
        self,
        passages: Sequence[Passage],
        *,
        flag: bool = False,
        settle: Callable[[Citation], Citation] = lambda citation: citation,
    ) -> None:
        """`passages` in the order in which the prompt numbered them, from 1.

        `flag` leaves a mark in the place of a refused citation. `settle` completes one that holds with what only the
        store knows.
        """
        self._check = Check(passages)
        self._flag = flag
        self._settle = settle
        self._pending = ""
        self._shown: list[str] = []
        self._tail = ""
        self._claim = ""
        self._claim_begins = 0
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._rejected: dict[RejectedCitation, None] = {}
        self.citations: list[Citation] = []
        self.cited: set[int] = set()

    @property
    def text(self) -> str:
        """What has been shown so far."""
        return "".join(self._shown)

    @property
    def rejected(self) -> list[RejectedCitation]:
        """The citations that were refused, each once."""
        return list(self._rejected)

    def feed(self, delta: str) -> Iterator[Event]:
        """Take the next piece; give the text that is safe to show and the citations that have closed."""
        # Without what neither UTF-8 nor Postgres can hold; models say such things now and then.
        self._pending += delta.encode(errors="ignore").decode().replace("\0", "")
        yield from self._read(ended=False)

    def close(self) -> Iterator[Event]:
        """The stream is over: what was held back as the beginning of a marker is text."""
        self._pending = self._pending.rstrip()
        yield from self._read(ended=True)

    def _read(self, *, ended: bool) -> Iterator[Event]:
        """Show all text up to the first marker that is not finished, and cite the finished ones."""
        text, shown, at = self._pending, 0, 0
        while opening := OPENING.search(text, at):
            try:
                marker = self._marker(text, opening.start(), ended=ended)
            except _Unfinished:
                break
            at = opening.end()
            if marker:
                yield from self._show(text[shown : _before_blanks(text, shown, opening.start())])
                numbers, quoted, shown = marker
                at = shown
                yield from self._cite(numbers, quoted)
        ready = opening.start() if opening else len(text)
        ready = ready if ended else _before_blanks(text, shown, ready)
        yield from self._show(text[shown:ready])
        self._pending = text[ready:]

    def _marker(self, text: str, at: int, *, ended: bool) -> Marker | None:
        """The marker that begins at `at`; None where it is text."""
        head = HEAD.match(text, at)
        if not head:
            if not ended and UNFINISHED.match(text, at):
                raise _Unfinished
            return None
        numbers = _listed(head["numbers"])
        if head["bare"]:
            return numbers, None, head.end()
        end = self._end(text, head, numbers[0], ended=ended)
        return (numbers, text[head.end() : end.start()], end.end()) if end else None

    def _end(self, text: str, head: re.Match[str], number: int, *, ended: bool) -> re.Match[str] | None:
        """The end of the marker's quote, which may itself hold what looks like one; None where there is none.

        As far as the words stand in the passage they belong to the quote; where they do not, a bracket that was opened
        in the quote is closed there too.
        """
        begins, kind = head.end(), str(head.lastgroup)
        ends = list(islice(ENDS[kind].finditer(text, begins, begins + LONGEST), MOST_ENDS))
        best = None
        for end in ends:
            quote = text[begins : end.start()]
            if self._check.find(number, quote):
                best = end
                if not self._check.find(number, text[begins : end.end()]):
                    return end
            elif best or quote.count("[") <= quote.count("]"):
                return best or end
        if ended or len(text) >= begins + LONGEST or len(ends) == MOST_ENDS:
            return best or (ends[0] if ends else None)
        raise _Unfinished

    def _show(self, text: str) -> Iterator[TextDelta]:
        if not self._shown:
            text = text.lstrip()
        if text:
            self._shown.append(text)
            self._tail = (self._tail + text)[-LONGEST_HEAD:]
            yield TextDelta(text)

    def _cite(self, numbers: list[int], quoted: str | None) -> Iterator[Event]:
        # Of several markers in a row, each stands for what was said before the first.
        self._claim = "".join(self._shown[self._claim_begins :]).lstrip(ENDING).rstrip() or self._claim
        quote = self._claim if quoted is None else restored(quoted).strip()
        for number in numbers:
            checked = self._check(number, quote)
            if isinstance(checked, RejectedCitation):
                yield from self._refuse(checked)
            else:
                self.cited.add(number - 1)
                yield from self._accept(checked)
        self._claim_begins = len(self._shown)

    def _accept(self, citation: Citation) -> Iterator[Event]:
        place = (citation.source, citation.start, citation.end)
        is_new = place not in self._numbers
        number = self._numbers.setdefault(place, len(self._numbers) + 1)
        yield from self._mark(f" [{number}]")
        if is_new:
            self.citations.append(self._settle(replace(citation, marker=number)))
            yield self.citations[-1]

    def _refuse(self, rejected: RejectedCitation) -> Iterator[Event]:
        if rejected not in self._rejected:
            self._rejected[rejected] = None
            yield rejected
        if self._flag:
            yield from self._mark(FLAG)
        elif UNFINISHED.search(self._tail):  # what follows must not complete it: nobody would have checked that
            yield from self._show(GAP)

    def _mark(self, mark: str) -> Iterator[TextDelta]:
        if not self._tail.endswith(mark):
            yield from self._show(mark)


class Check:
    """Finds quotes in passages. What was looked for once is known: an open marker is looked at again and again."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._normal = cache(lambda number: Normal(passages[number - 1].text))
        self.find: Callable[[int, str], Span | None] = cache(self._find)

    def __call__(self, marker: int, quote: str) -> Citation | RejectedCitation:
        """Find `quote` in the passage that `marker` names, counted from 1, or say what is wrong with it."""
        words = len(quote.split()) + len(UNSPACED.findall(quote))
        span = self.find(marker, quote) if words >= FEWEST_QUOTED_WORDS else None
        if span is None:
            return RejectedCitation(marker, quote[:LONGEST], self._fault(marker, quote, words))
        passage = self._passages[marker - 1]
        return Citation(
            marker=marker,
            chunk_id=passage.chunk_id,
            source=passage.source,
            title=passage.title,
            heading=passage.heading,
            quote=passage.text[slice(*span)],
            start=passage.start + span[0],
            end=passage.start + span[1],
            page=passage.page,
        )

    def _find(self, marker: int, quote: str) -> Span | None:
        if not 1 <= marker <= len(self._passages) or len(quote) > LONGEST:
            return None
        found: Span | None = self._normal(marker).find(Normal(quote))
        return found

    def _fault(self, marker: int, quote: str, words: int) -> Fault:
        if not 1 <= marker <= len(self._passages) or words < FEWEST_QUOTED_WORDS:
            return "fabricated"
        if any(self.find(number, quote) for number in range(1, len(self._passages) + 1)):
            return "misattributed"
        pieces = [piece for piece in BETWEEN_PIECES.split(quote) if piece]
        if len(pieces) > 1 and all(self.find(marker, piece) for piece in pieces):
            return "stitched"
        return "fabricated"


def _listed(numbers: str) -> list[int]:
    """`1, 3-5` as [1, 3, 4, 5]; of a range that is too long, its ends."""
    listed: list[int] = []
    for part in re.split("[,;&]", numbers):
        ends = [int(number) for number in re.split("[\u2013-]", part)]
        first, last = ends[0], ends[-1]
        listed += [*(range(first, last) if 0 <= last - first < LONGEST_RANGE else ends), last]
    return list(dict.fromkeys(listed))


def _before_blanks(text: str, start: int, end: int) -> int:
    """Where the blanks before `end` begin; no more than MOST_BLANKS of them."""
    start = max(start, end - MOST_BLANKS)
    return start + len(text[start:end].rstrip())
