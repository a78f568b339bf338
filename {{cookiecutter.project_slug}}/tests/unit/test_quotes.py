"""Words are found as people would find them: whatever the typography, wherever they stand, letter for letter."""

import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from app.rag.quotes import Normal, locate

# Latin with and without accents, composed and not, Hebrew with points, Arabic, Hangul and its parts, Devanagari.
LETTERS = (
    "aeioxyzE\u00e9\u0301\u0308\u05d0\u05d1\u05b7\u0628\u0631\u064e\uac00\uac01\u1100\u1161\u11a8\u0915\u093f\u094d"
)
SIGNS = " \n\t\u00a0*`_\\-\u2014\"'\u201c\u2019.(1\ufb01\u2026\u00bd\u00a8\u00ad\u200b\u200f"
TEXTS = st.text(alphabet=LETTERS + SIGNS, max_size=40)
CUTS = st.integers(min_value=0, max_value=40)


def is_cut_through(text: str, at: int) -> bool:
    """Whether a letter would lose an accent, a vowel sign or a final consonant here."""
    if not 0 < at < len(text):
        return False
    continues = unicodedata.category(text[at])[0] in "MC" or text[at] in "\u1161\u11a8"
    return continues and (text[at - 1].isalnum() or unicodedata.category(text[at - 1])[0] in "MC")


def respaced(text: str) -> str:
    """Other white space in the place of any."""
    return "".join(" \u00a0\n" if character.isspace() else character for character in text)


def requoted(text: str) -> str:
    """Straight where it was curled, and curled where it was straight."""
    there = str.maketrans("\"'\u201c\u2019-\u2014", "\u201d\u2018\"'\u2013-")
    return text.translate(there)


def decomposed(text: str) -> str:
    """Every accent a character of its own."""
    return unicodedata.normalize("NFD", text)


def composed(text: str) -> str:
    """Every accent with its letter."""
    return unicodedata.normalize("NFC", text)


def emphasised(text: str) -> str:
    """In bold, with a soft hyphen before each x."""
    return "**" + text.replace("x", "\u00adx") + "**"


@pytest.mark.parametrize("change", [str, respaced, requoted, decomposed, composed, emphasised])
@given(text=TEXTS, start=CUTS, end=CUTS)
@example(text="cafe\u0301_menu x", start=0, end=9)
@example(text="infor-\nmation", start=0, end=6)
def test_any_slice_is_located_however_it_is_set(change: type[str], text: str, start: int, end: int) -> None:
    """What is found is a slice of the text that reads the same."""
    assume(start < end and not is_cut_through(text, start) and not is_cut_through(text, end))
    quote = text[start:end]
    wanted = Normal(quote).text
    place = locate(change(quote), text)
    if not wanted:
        assert place is None
        return
    assert place is not None
    assert Normal(text[slice(*place)]).text == wanted
    assert not text[slice(*place)][0].isspace()


@given(
    around=st.tuples(TEXTS, TEXTS, TEXTS, TEXTS),
    letter=st.sampled_from("aex\u00e9\u05d0\u0628\uac00\u0915"),
    other=st.sampled_from("kRAb\u00fc\u05e9\u0633\uac10"),
)
def test_with_one_letter_changed_it_is_not(around: tuple[str, str, str, str], letter: str, other: str) -> None:
    """Whichever letter, and whatever stands around it."""
    above, before, after, below = around
    assert locate(before + other + after, above + before + letter + after + below) is None


@pytest.mark.parametrize(
    ("quote", "text", "place"),
    [
        ("file", "a \ufb01le", (2, 5)),
        ("\ufb01le", "a file", (2, 6)),
        ("a b", "a\n\n b", (0, 5)),
        ("wait...", "wait\u2026", (0, 5)),
        ("b c", "b * c", (0, 5)),
        ("caf\u00e9 noir", "a cafe\u0301 noir", (2, 12)),
        ("cafe\u0301", "caf\u00e9s", (0, 4)),
        ("a\u0323\u0307", "a\u0307\u0323", (0, 3)),
        ("information", "the infor-\n  mation.", (4, 19)),
        ("a well-known name", "a well-\nknown name", (0, 18)),
        ("a well-\nknown name", "a well-known name", (0, 17)),
        ("cooperate", "co\u00adope\u200brate", (0, 11)),
        ("snake_case", "a snake\\_case", (2, 13)),
        ("emphasis", "an __emphasis__ here", (5, 13)),
        ("\u05e9\u05dc\u05d5\u05dd", "\u200f\u05e9\u05dc\u05d5\u05dd\u200f", (1, 6)),
        ("it's", "it\u00b4s", (0, 4)),
        ("\u00a8 dots", "the \u00a8 dots", (4, 10)),
        ("5-6", "5\u20136", (0, 3)),
        ("\uac01\uac00", "\u1100\u1161\u11a8\u1100\u1161", (0, 5)),
        ("le", "le fi \ufb01le", (0, 2)),
    ],
)
def test_typography_makes_no_difference(quote: str, text: str, place: tuple[int, int]) -> None:
    """The place is in characters of the text as it is, marks and hyphens included."""
    assert locate(quote, text) == place


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        *(("Word", "word"), ("abc", "ab c"), ("", "text"), ("text", ""), ("*`*", "text"), ("-5 degrees", "5 degrees")),
        *(("cafe", "caf\u00e9"), ("cafe", "cafe\u0301"), ("the f", "the \ufb01le"), ("\uac00", "\uac01")),
        *(("snakecase", "snake_case"), ("\u05e9\u05dc", "\u05e9\u05d5\u05dc"), ("10 20", "10-20")),
    ],
)
def test_letters_do(quote: str, text: str) -> None:
    """So do their case, their accents, missing spaces, and the half of a ligature or a syllable."""
    assert locate(quote, text) is None


def test_the_first_whole_place_counts() -> None:
    """Half a ligature before it is passed over."""
    assert locate("f", "\ufb01 f") == (2, 3)
