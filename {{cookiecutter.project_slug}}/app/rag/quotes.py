"""Where a quote stands in a text: compared in a form in which typography makes no difference and letters do.

Models straighten quotation marks, join lines, compose accents and drop emphasis. Both sides are brought into one form,
and each of its characters knows where it came from, so that a find is a slice of the text as it is. Knows nothing of
citations.
"""

import re
import unicodedata
from collections.abc import Iterator

Span = tuple[int, int]
"""Offsets in characters: from, up to."""

# What nobody sees: soft hyphens, joiners, directions of writing, variants of a sign.
INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a\u02bc\u2032\u00b4", "'")
    | dict.fromkeys('\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02"', '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
)
# In this order, each on what the one before has left. A slice of a text has to come out as a slice of what the text
# comes out as; that is why the end of a text counts as whatever lets a character go.
DROPPED = tuple(
    re.compile(pattern)
    for pattern in (
        r"[*`\\]+",  # emphasis, code and escapes
        r"(?<!\w)_+|_+(?!\w)",  # emphasis too, where it is not inside a word
        r"\A\s+|\s+\Z",
        r"(?:(?<=[^\W\d_])|\A)-\s*(?=[^\W\d_]|\Z)",  # at a line's end nobody can tell whether the word has it
        r"(?<=\s)\s+",
    )
)
# Some vowels and final consonants of Hangul are no marks and yet join the letter before.
JAMO = range(0x1161, 0x1200)


class Normal:
    """A text in the form in which quotes are compared."""

    def __init__(self, text: str) -> None:
        forms: list[str] = []
        self._spans: list[Span] = []
        for start, end in _letters(text):
            form = _form(text[start:end])
            forms.append(form)
            self._spans += [(start, end)] * len(form)
        self.text = "".join(forms)
        for pattern in DROPPED:
            self._drop(pattern)
        self.text = re.sub(r"\s", " ", self.text)

    def _drop(self, pattern: re.Pattern[str]) -> None:
        for found in reversed(list(pattern.finditer(self.text))):
            del self._spans[found.start() : found.end()]
        self.text = pattern.sub("", self.text)

    def find(self, quote: "Normal") -> Span | None:
        """The first place of `quote`, in characters of the text as it was; None where it stands nowhere.

        A place begins and ends with a whole letter: half of a ligature, or a letter without its accent, is none.
        """
        wanted = quote.text
        at = self.text.find(wanted) if wanted else -1
        while at >= 0:
            end = at + len(wanted)
            if self._is_border(at) and self._is_border(end):
                return self._spans[at][0], self._spans[end - 1][1]
            at = self.text.find(wanted, at + 1)
        return None

    def _is_border(self, at: int) -> bool:
        return at in {0, len(self._spans)} or self._spans[at - 1] != self._spans[at]


def locate(quote: str, text: str) -> Span | None:
    """Where `quote` stands in `text`; None where it does not.

    Runs of white space, typographic quotes and dashes, Markdown emphasis and escapes, ligatures and composed accents,
    hyphens inside words and what is invisible make no difference; letters and their case do.
    """
    return Normal(text).find(Normal(quote))


def _letters(text: str) -> Iterator[Span]:
    """Each character with the marks that follow it: what Unicode composes must not be looked at in parts."""
    start = 0
    for at in range(1, len(text)):
        if not (_joins(text[at]) and text[start].isalnum()):
            yield start, at
            start = at
    if text:
        yield start, len(text)


def _form(letter: str) -> str:
    if letter.isascii():
        return letter
    form = unicodedata.normalize("NFKC", INVISIBLE.sub("", letter).translate(PLAIN))
    return form.strip() or form  # an accent that stands alone would bring a blank


def _joins(character: str) -> bool:
    if character.isascii():
        return False
    return unicodedata.category(character)[0] == "M" or ord(character) in JAMO or bool(INVISIBLE.match(character))
