"""A quote counts only where it stands, and how the model's text was cut on its way makes no difference."""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.rag.citations import Check, CitationReader, Event
from app.rag.quotes import Normal
from app.types import Citation, Passage, RejectedCitation, TextDelta

TEXTS = st.text(alphabet="ab \n*`\"'[]1:\u201c\u2019\u2014\u00a0.", min_size=1, max_size=60)
THREE_WORDS = "we hold three "
LOOKS_CHECKED = re.compile(r"\[\d{1,3}\]")
PIECES = st.one_of(
    st.sampled_from(
        [
            *('[1: "rivers run to"]', '[2: "full: rivers run"]', '[1: "rivers run ... sea"]'),
            *('[1 : "x"]', '[1:\n"to the sea" ]'),
            *(
                "[1, 2]",
                "[1-2]",
                "\u30101\u3011",
                "[1: the sea]",
                '["a"]',
                '[1: "rivers ["a"] x"]',
                "[^1]",
                ", ",
                "-",
                "\u2020",
            ),
            *("[1]", "[2]", "[9]", "[ 1]", "[1 ]", "[", "[1", "[[", "]", '"]', '[1: "', '[1:"', "[1234]", " [", "\n\n"),
            *("Rivers run to the sea.", "rivers run", " ", ". ", "\u201d", "\u201c", ":", '"', "1", "the sea"),
        ]
    ),
    st.text(max_size=5),
)


def passage(text: str, number: int = 1, start: int = 0) -> Passage:
    """A passage that retrieval found, `start` characters into its document."""
    return Passage(
        chunk_id=number,
        source=f"{number}.md",
        title=f"Document {number}",
        heading="Heading",
        start=start,
        end=start + len(text),
        text=text,
        score=1.0,
    )


RIVERS = [passage("All rivers run to the sea.", 1, 100), passage("The sea is never full: rivers run.", 2)]


def read(pieces: Iterable[str], passages: Sequence[Passage]) -> tuple[CitationReader, list[Event]]:
    """Everything that a model said, read as it came."""
    reader = CitationReader(passages)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return reader, [*events, *reader.close()]


def joined(events: Iterable[Event]) -> list[Event | str]:
    """The events, with pieces of text that follow each other as one."""
    out: list[Event | str] = [""]
    for event in events:
        if isinstance(event, TextDelta):
            out[-1] += event.text  # type: ignore[operator]  # every other item is text
        else:
            out += [event, ""]
    return out


@given(around=TEXTS, start=st.integers(min_value=0, max_value=60), length=st.integers(min_value=0, max_value=60))
def test_any_quote_of_a_passage_is_accepted_at_its_place(around: str, start: int, length: int) -> None:
    """Where the words stand once in the passage, the citation spans them and nothing else."""
    start = min(start, len(around))
    text = f"{around[:start]}{THREE_WORDS}{around[start:]}"
    quote = text[start : start + len(THREE_WORDS) + length]
    assume(not re.search(r'["\u201d]\s*\]', quote + "x"))  # would end the marker, see below
    reader, _ = read([f'Said. [1: "{quote}"]'], [passage(text, start=1_000)])
    [citation] = reader.citations
    assert citation.start == 1_000 + start
    assert citation.quote == quote.rstrip(" \n\u00a0*`") == text[citation.start - 1_000 : citation.end - 1_000]
    assert reader.text == "Said. [1]"


@pytest.mark.parametrize("quote", ["rivers", "rivers run", "e", ""])
def test_a_few_words_prove_nothing(quote: str) -> None:
    """Words that stand in almost any passage are no evidence, though they stand there."""
    reader, _ = read([f'It was dug in 1850 [1: "{quote}"].'], RIVERS)
    assert (reader.citations, [refused.fault for refused in reader.rejected]) == ([], ["fabricated"])


@given(pieces=st.lists(PIECES, max_size=12), cuts=st.lists(st.integers(min_value=1, max_value=80), max_size=12))
def test_how_the_text_is_cut_makes_no_difference(pieces: list[str], cuts: list[int]) -> None:
    """In one piece, in any pieces or letter by letter: the same text and citations, in the same order."""
    said = "".join(pieces)
    borders = [0, *sorted(cuts), len(said)]
    whole, events = read([said], RIVERS)
    for way in ([said[a:b] for a, b in pairwise(borders)], list(said)):
        reader, parts = read(way, RIVERS)
        assert (reader.text, reader.citations, reader.rejected) == (whole.text, whole.citations, whole.rejected)
        assert joined(parts) == joined(events)


@given(st.lists(PIECES, max_size=12))
def test_every_number_in_the_text_was_checked(pieces: list[str]) -> None:
    """No marker of the model is shown: each number stands for a citation that held, and the events say the same."""
    reader, events = read(pieces, RIVERS)
    texts = [event.text for event in events if isinstance(event, TextDelta)]
    numbers = [text for text in texts if re.fullmatch(r" ?\[\d{1,3}\]", text)]
    assert [found[0] for found in LOOKS_CHECKED.finditer(reader.text)] == [text.lstrip() for text in numbers]
    assert {int(text.strip(" []")) for text in numbers} == {citation.marker for citation in reader.citations}
    assert "".join(texts) == reader.text
    assert [event for event in events if isinstance(event, Citation)] == reader.citations
    assert [event for event in events if isinstance(event, RejectedCitation)] == reader.rejected


@pytest.mark.parametrize("said", ["x[[9]2]", "x[2[9]]", "x[[9]1: \u201crivers run\u201d]", "x[ [9] 2]", '[1: ""[1]]'])
def test_what_is_left_of_a_refused_marker_makes_no_new_one(said: str) -> None:
    """Taking a marker out does not join what stood around it into a number that nobody checked."""
    reader, _ = read([said], RIVERS)
    assert not LOOKS_CHECKED.search(reader.text)


@pytest.mark.parametrize(
    ("marker", "quote", "fault"),
    [
        (1, "rivers never run dry", "fabricated"),
        (0, "rivers run to", "fabricated"),
        (3, "rivers run to", "fabricated"),
        (1, "", "fabricated"),
        (1, "*`*", "fabricated"),
        (1, "ALL RIVERS RUN", "fabricated"),
        (1, "rivers ... dry", "fabricated"),
        (1, "...", "fabricated"),
        (1, "is never full", "misattributed"),
        (2, "rivers run to the sea", "misattributed"),
        (1, "All rivers ... the sea", "stitched"),
        (1, "the sea \u2026 rivers run", "stitched"),
    ],
)
def test_each_fault_is_named(marker: int, quote: str, fault: str) -> None:
    """Invented words, the wrong passage, and pieces put together are told apart."""
    assert Check(RIVERS)(marker, quote) == RejectedCitation(marker, quote, fault)  # type: ignore[arg-type]  # parametrized


def test_a_citation_says_where_its_words_stand() -> None:
    """It carries the passage's identity and offsets into the whole document."""
    reader, _ = read(['Water flows. [1: "rivers run to"]'], RIVERS)
    assert reader.citations == [Citation(1, 1, "1.md", "Document 1", "Heading", "rivers run to", 104, 117)]


def test_a_refused_citation_leaves_the_text_without_a_number() -> None:
    """The words stay, the marker goes, and the fault is kept."""
    reader, _ = read(['Water flows [2: "to the sea"]. Yes.'], RIVERS)
    assert reader.text == "Water flows. Yes."
    assert reader.rejected == [RejectedCitation(2, "to the sea", "misattributed")]
    assert reader.citations == []


def test_a_bare_marker_cites_what_was_said_since_the_last_one() -> None:
    """`[n]` without words puts the statement itself to the test."""
    reader, _ = read(["All rivers run to the sea. [1] The sea is never full [2] So they say. [1]"], RIVERS)
    assert reader.text == "All rivers run to the sea. [1] The sea is never full [2] So they say."
    assert [citation.quote for citation in reader.citations] == ["All rivers run to the sea.", "The sea is never full"]
    assert reader.rejected == [RejectedCitation(1, "So they say.", "fabricated")]


def test_a_place_cited_twice_has_one_number() -> None:
    """Numbers count the places in order of appearance, whatever the passages were called in the prompt."""
    said = 'A [2: "is never full"] b [1: "rivers run to"] c [2: "is never full"] d [1: "to the sea"].'
    reader, _ = read([said], RIVERS)
    assert reader.text == "A [1] b [2] c [1] d [3]."
    assert [citation.marker for citation in reader.citations] == [1, 2, 3]


@pytest.mark.parametrize(
    "quote",
    [
        'the user\'s "own" data - see A B',
        "the user\u2019s \u201cown\u201d data \u2014 see A\u00a0B",
        'the  user\'s\n"own" data \u2013 see A B',
        'the **user\'s** "own" `data` - see A B',
    ],
)
@pytest.mark.parametrize("ends", ['""', "\u201c\u201d", "\u201d\u201c"[::-1]])
def test_typography_and_emphasis_make_no_difference(quote: str, ends: str) -> None:
    """Models straighten quotes and dashes or curl them; the citation shows what the document has."""
    text = "Back up *the user's* \u201cown\u201d data \u2014 see A\u00a0B."
    reader, _ = read([f"Yes. [1: {ends[0]}{quote}{ends[1]}]"], [passage(text)])
    assert [citation.quote for citation in reader.citations] == [text[9:-1]]


@pytest.mark.parametrize("end", ["[", "[1", "[1 ", "[1:", "[1: ", '[1: "', '[1: "rivers', '[1: "rivers"', '[1: "a" '])
def test_an_unfinished_marker_at_the_end_is_text(end: str) -> None:
    """It is held back while it may become a citation, and shown when the model stops."""
    reader = CitationReader(RIVERS)
    shown = "".join(event.text for event in reader.feed("Word " + end) if isinstance(event, TextDelta))
    assert shown == "Word"
    assert [event.text for event in reader.close() if isinstance(event, TextDelta)] == [(" " + end).rstrip()]
    assert (reader.citations, reader.rejected) == ([], [])


def test_a_marker_after_an_unfinished_one_still_counts() -> None:
    """A quote that is never closed does not swallow the citations behind it."""
    reader, _ = read(['Say [7: "so. [8: "No. [1]'], [passage('Say [7: "so. [8: "No.')])
    assert [citation.quote for citation in reader.citations] == ['Say [7: "so. [8: "No.']


@pytest.mark.parametrize("step", [1, 700, 10_000])
def test_a_quote_that_is_never_closed_does_not_hold_back_the_rest(step: int) -> None:
    """After 2,000 characters it is text, and reading goes on, however the text was cut."""
    said = f'Word [1: "{"x" * 2_500} [1: "rivers run to"] end'
    reader = CitationReader(RIVERS)
    events = [event for at in range(0, len(said), step) for event in reader.feed(said[at : at + step])]
    assert len([event for event in events if isinstance(event, Citation)]) == 1
    assert reader.text == f'Word [1: "{"x" * 2_500} [1] end'


def test_a_quote_may_hold_quotation_marks_and_brackets() -> None:
    """Only a quotation mark right before a closing bracket ends a marker."""
    text = 'Write names[0] or "first" as [1] says.'
    reader, _ = read([f'So. [1: "{text}"] Done.'], [passage(text)])
    assert (reader.text, reader.citations[0].quote) == ("So. [1] Done.", text)


def test_white_space_around_an_answer_is_not_shown() -> None:
    """Models begin and end with line breaks; within the text they stay."""
    assert read(["\n\n One.\n\nTwo. \n"], [])[0].text == "One.\n\nTwo."


@pytest.mark.parametrize(
    ("said", "text", "cited", "faults"),
    [
        ("All rivers run to the sea [1, 2].", "All rivers run to the sea [1].", [1], ["misattributed"]),
        ("Rivers. The sea is never full [1][2].", "Rivers. The sea is never full.", [], ["fabricated"] * 2),
        ("The sea is never full [1][2].", "The sea is never full [1].", [2], ["misattributed"]),
        ("The sea is never full [1-3].", "The sea is never full [1].", [2], ["misattributed", "fabricated"]),
        ("The sea is never full [2\u20131; 2].", "The sea is never full [1].", [2], ["misattributed"]),
        ("The sea is never full \u30102\u3011.", "The sea is never full [1].", [2], []),
        ("The sea is never full \u30102\u2020source\u3011.", "The sea is never full [1].", [2], []),
        ("The sea is never full \uff3b2\uff3d.", "The sea is never full [1].", [2], []),
        ("The sea is never full [^2].", "The sea is never full [1].", [2], []),
        ("The sea is never full [ 2 ].", "The sea is never full [1].", [2], []),
        ("Full [2: sea is never full].", "Full [1].", [2], []),
        ("Full [2, 'sea is never full'].", "Full [1].", [2], []),
        ("Full [2 \u00absea is never full\u00bb].", "Full [1].", [2], []),
        ('Full [1, 2: "sea is never full"].', "Full [1].", [2], ["misattributed"]),
        ("Full [2: see there].", "Full.", [], ["fabricated"]),
        ("Full [1-999].", "Full.", [], ["fabricated"] * 2),
        ("From [0, 1] to [0-1].", "From [0, 1] to [0-1].", [], []),
        ("As (1) says, [2024] and [a] and [12345].", "As (1) says, [2024] and [a] and [12345].", [], []),
        ("An index [0].", "An index.", [], ["fabricated"]),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_what_looks_like_a_marker_is_one(said: str, text: str, cited: list[int], faults: list[str], step: int) -> None:
    """Lists, ranges, rows and other brackets are checked for each number; intervals, years and the like are text."""
    reader, _ = read([said[at : at + step] for at in range(0, len(said), step)], RIVERS)
    assert reader.text == text
    assert [citation.chunk_id for citation in reader.citations] == cited
    assert [refused.fault for refused in reader.rejected] == faults


LISTS = passage(
    'Write ["a", "b"] or ["c"]. In data[0] is "the first", says \u201cthe \u2018book\u2019\u201d, in [short.'
)


@pytest.mark.parametrize(
    "quote",
    [
        *('Write ["a", "b"] or ["c"]. In', 'Write ["a", "b"]', 'Write ["a", "b', '["a", "b"] or ["c', '"b"] or ["c"]'),
        *(
            'In data[0] is "the first"',
            'is "the first", says',
            "says \u201cthe \u2018book\u2019\u201d",
            "book, in [short",
        ),
        *(r"is \"the first\", says", "says \"the 'book'\""),
    ],
)
@pytest.mark.parametrize("more", ["", " And more.", ' And more [1: "In data[0] is"].'])
def test_a_quote_may_hold_whatever_ends_a_marker(quote: str, more: str) -> None:
    """As far as the words stand in the passage they belong to the quote, however the text is cut."""
    quote = quote.replace("book,", "book\u2019\u201d,")
    said = f'So [1: "{quote}"].{more}'
    for pieces in ([said], list(said)):
        reader, _ = read(pieces, [LISTS])
        assert reader.text.startswith("So [1].")
        assert reader.rejected == []
        assert Normal(reader.citations[0].quote).text == Normal(quote).text


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ('So [1: "a map ["k", "v"] of it"]. Yes', "So. Yes"),
        ('So [1: "an array[ of it"]. Yes', "So. Yes"),
        ('So [1: "a long [list"]. No [1: "In data[0] is"]. Yes', "So. No [1]. Yes"),
    ],
)
def test_an_invented_quote_goes_as_a_whole(said: str, text: str) -> None:
    """A bracket that is opened in it is closed there too; where none is, the first end is the end."""
    for pieces in ([said], list(said)):
        assert read(pieces, [LISTS])[0].text == text


def test_a_refused_citation_can_be_flagged() -> None:
    """The statement keeps a mark where its number would be, once for each place."""
    said = 'It flows [2: "to the sea"][9]. It is dry [1: "as a bone, they say"]. All rivers run to the sea [1].'
    reader = CitationReader(RIVERS, flag=True)
    events = [*reader.feed(said), *reader.close()]
    assert reader.text == "It flows [?]. It is dry [?]. All rivers run to the sea [1]."
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reader.text
    assert [refused.fault for refused in reader.rejected] == ["misattributed", "fabricated", "fabricated"]


def test_what_only_the_store_knows_is_added() -> None:
    """`settle` sees each citation with its number, and what it gives is what is shown and kept."""
    reader = CitationReader(RIVERS, settle=lambda citation: replace(citation, chunk_id=70 + citation.marker, page=3))
    events = [*reader.feed('A [1: "rivers run to"] b [2: "is never full"]'), *reader.close()]
    assert [(citation.chunk_id, citation.page) for citation in reader.citations] == [(71, 3), (72, 3)]
    assert [event for event in events if isinstance(event, Citation)] == reader.citations


def test_it_is_known_which_passages_were_cited() -> None:
    """By their place in the prompt, from 0; a citation that was refused does not count."""
    reader, _ = read(['A [2: "is never full"] b [2: "never full: rivers"] c [1: "is never full"]'], RIVERS)
    assert reader.cited == {1}


@pytest.mark.parametrize(
    ("quote", "holds"),
    [("\u6240\u6709\u7684\u6cb3\u6d41", True), ("\u6cb3\u6d41", False), ("\u6240\u6709\u4e2a\u6cb3\u6d41", False)],
)
def test_a_script_without_spaces_has_words_too(quote: str, holds: bool) -> None:  # noqa: FBT001  # parametrized
    """Two characters count as a word, so that a clause can be cited and a word alone cannot."""
    reader, _ = read(
        [f'\u6cb3 [1: "{quote}"]'], [passage("\u6240\u6709\u7684\u6cb3\u6d41\u90fd\u6d41\u5165\u5927\u6d77\u3002")]
    )
    assert [citation.quote for citation in reader.citations] == [quote] * holds


def test_words_are_compared_with_the_passage_as_it_was_before_it_was_fenced() -> None:
    """A model sees, and copies, an escaped tag where the document has a plain one."""
    reader, _ = read(
        ['So [1: "writes &lt;passage id=1> around each"]'], [passage("It writes <passage id=1> around each.")]
    )
    assert [citation.quote for citation in reader.citations] == ["writes <passage id=1> around each"]


@pytest.mark.parametrize("text", ["a [see", "a [b] c", "x[i", "[[[x", "1, 2", "a (1", "[2024", "see [0, 1]"])
def test_text_that_cannot_become_a_marker_is_shown_at_once(text: str) -> None:
    """Only the blanks at its end wait for what comes."""
    reader = CitationReader([])
    assert "".join(event.text for event in reader.feed(text + " ") if isinstance(event, TextDelta)) == text


@pytest.mark.parametrize(
    "said",
    [
        *("[" * 100_000, " " * 100_000, '[1: "' + "x" * 100_000, '[1: "' * 20_000, "[1]" * 33_000, "[1," * 33_000),
        *(
            '[1: "[[[[[[[[["]' + '"]' * 50_000,
            "rivers run to " * 7_000 + "[1]",
            "[1\u2020" * 33_000,
            "a b c [1]" * 10_000,
        ),
        *('[1: "rivers run to"] ' * 5_000, "[1-20]" * 16_000),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("step", [7, 100_000])
def test_time_grows_with_the_length_alone(said: str, step: int) -> None:
    """A hundred thousand characters of whatever is meant to be slow take about a second, not minutes."""
    began = time.process_time()
    read([said[at : at + step] for at in range(0, len(said), step)], RIVERS)
    assert time.process_time() - began < 20


def test_a_quote_that_seems_to_end_often_is_not_waited_for() -> None:
    """After eight possible ends the first one counts, and what follows is shown."""
    reader = CitationReader(RIVERS)
    assert list(reader.feed('So [1: "[[[[[[[[[[[[ it' + '"] it' * 7))[1:] == []
    assert [refused.quote for refused in reader.rejected] == []
    assert any(isinstance(event, RejectedCitation) for event in reader.feed('"] it'))
    assert reader.rejected[0].quote == "[[[[[[[[[[[[ it"


def test_what_is_longer_than_a_quote_may_be_is_none() -> None:
    """A bare marker after pages of text points nowhere, also where the text was copied."""
    text = "All rivers run to the sea. " * 80
    reader, _ = read([f"{text}[1]"], [passage(text)])
    assert (len(text) > 2_000, reader.citations, len(reader.rejected[0].quote)) == (True, [], 2_000)
