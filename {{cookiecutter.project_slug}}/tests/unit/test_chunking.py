"""Chunks are exact parts of their document, within the limit, under the right headings, with nothing lost."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.rag.chunking import split
from app.types import Chunk, Document

WORDS = st.lists(
    st.sampled_from(["lorem", "ipsum", "caf\u00e9", "\U0001f600", "**bold**", "x" * 40, "1."]), max_size=60
)
PARAGRAPHS = WORDS.map(" ".join)
CODE = WORDS.map(lambda words: "```sh\n# no heading\n" + "\n".join(words) + "\n## nor this\n```")
LISTS = WORDS.map(lambda words: "\n".join("- " + word for word in words))
BODIES = st.lists(st.one_of(PARAGRAPHS, CODE, LISTS), max_size=4).map("\n\n".join)
SECTIONS = st.lists(st.tuples(st.integers(min_value=1, max_value=6), BODIES), max_size=6)
LIMITS = st.integers(min_value=100, max_value=900)


def document(text: str, media_type: str = "text/markdown") -> Document:
    """A loaded document."""
    return Document(source="a.md", title="Title of the file", text=text, media_type=media_type, content_hash="")


def assert_exact(text: str, chunks: list[Chunk], limit: int, overlap: int = 0) -> None:
    """Each chunk stands where it says, they are in order within the limits, and only white space is left out."""
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    covered = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert len(chunk.text) <= limit
        assert chunk.end > covered
        assert covered - chunk.start <= overlap
        assert not text[covered : chunk.start].strip()
        covered = chunk.end
    assert not text[covered:].strip()
    assert all(one.start < next_one.start for one, next_one in pairwise(chunks))


TEXTS = st.one_of(
    st.text(max_size=2_000),
    # Right to left, combined accents, families of emoji, and letters that fill a line without a space.
    st.text("\u05d0\u05d1 \u0645\u0631\u0301\u0302e\U0001f469\u200d\U0001f467\u4e2d\u6587\u3002\n.", max_size=2_000),
)


@given(
    text=TEXTS,
    limit=LIMITS,
    overlap=st.integers(min_value=0, max_value=99),
    media_type=st.sampled_from(["text/markdown", "text/plain"]),
)
def test_any_text_is_cut_exactly(text: str, limit: int, overlap: int, media_type: str) -> None:
    """This holds for text of any characters, with any line ends, with and without overlap."""
    chunks = split(document(text, media_type), max_characters=limit, overlap=overlap)
    assert_exact(text, chunks, limit, overlap)


def test_chunks_that_overlap_repeat_the_end_of_the_one_before() -> None:
    """As much of it as was asked for, in whole sentences or words."""
    text = " ".join(f"Sentence number {n} is here." for n in range(40))
    chunks = split(document(text, "text/plain"), max_characters=200, overlap=60)
    assert_exact(text, chunks, 200, 60)
    assert all(20 < before.end - after.start <= 60 for before, after in pairwise(chunks))


@pytest.mark.parametrize("border", ["\n\n# Part\n\n", "\n\n", "\n", " ", ""])
@pytest.mark.parametrize("media_type", ["text/markdown", "text/plain"])
def test_a_long_text_is_cut_as_exactly_as_a_short_one(border: str, media_type: str) -> None:
    """The splitter gets it in parts, whatever it is made of; a part ends where the text allows it."""
    text = border.join(["A sentence that is not so short, and then another one."] * 2_000)
    chunks = split(document(text, media_type), max_characters=900)
    assert_exact(text, chunks, 900)
    assert sum(len(chunk.text) < 300 for chunk in chunks) <= 4 or "#" in border
    if border:
        assert all(chunk.text.endswith(("one.", "# Part")) or border == " " for chunk in chunks)


@given(text=TEXTS, limit=LIMITS)
@settings(max_examples=10)
def test_a_long_text_of_any_characters_is_cut_exactly(text: str, limit: int) -> None:
    """Where no border is near, the parts end in the middle of a word."""
    whole = text * (70_000 // (len(text) or 1))
    assert_exact(whole, split(document(whole, "text/plain"), max_characters=limit), limit)


def test_a_chunk_knows_its_page() -> None:
    """The one that it begins on; formats without pages have none."""
    pages = ["First page. " * 10, "", "Third page. " * 10]
    starts = (0, len(pages[0]) + 2, len(pages[0]) + 4)
    paged = replace(document("\n\n".join(pages), "application/pdf"), page_starts=starts)
    assert [chunk.page for chunk in split(paged, max_characters=130)] == [1, 3]
    assert {chunk.page for chunk in split(document("text"), max_characters=100)} == {None}


PAGES = st.lists(st.one_of(st.just(""), BODIES, TEXTS), min_size=1, max_size=6)
SLIDES = "application/vnd.openxmlformats-officedocument.presentationml.presentation"


@given(pages=PAGES, limit=LIMITS, overlap=st.integers(min_value=0, max_value=99))
def test_no_chunk_holds_words_of_two_slides(pages: list[str], limit: int, overlap: int) -> None:
    """Each slide, or sheet, is a section of its own; where there are many, some are empty."""
    starts = [sum(len(page) + 2 for page in pages[:number]) for number in range(len(pages))]
    deck = replace(document("\n\n".join(pages), SLIDES), page_starts=tuple(starts))
    chunks = split(deck, max_characters=limit, overlap=overlap)
    assert_exact(deck.text, chunks, limit, overlap)
    for chunk in chunks:
        assert chunk.page
        assert starts[chunk.page - 1] <= chunk.start < chunk.end <= [*starts, len(deck.text)][chunk.page]


def test_a_paragraph_may_run_over_the_page_of_a_pdf() -> None:
    """There a page is no section: what fits into one chunk stays together."""
    paged = replace(document("A sentence that\n\ngoes on.", "application/pdf"), page_starts=(0, 17))
    assert len(split(paged, max_characters=100)) == 1


@given(sections=SECTIONS, limit=LIMITS)
def test_a_chunk_knows_the_headings_it_stands_under(sections: list[tuple[int, str]], limit: int) -> None:
    """The path holds the nearest heading of each lower level; lines of code are none."""
    text, path, paths = "", dict[int, str](), [(0, "Title of the file")]
    for number, (level, body) in enumerate(sections):
        path = {n: title for n, title in path.items() if n < level} | {level: f"Heading {number}"}
        paths.append((len(text), " > ".join(path.values())))
        text += f"{'#' * level} Heading {number}\n\n{body}\n\n"
    chunks = split(document(text), max_characters=limit)
    assert_exact(text, chunks, limit)
    for chunk in chunks:
        assert chunk.heading == [heading for start, heading in paths if start <= chunk.start][-1]


def test_a_path_reads_from_the_outside_in() -> None:
    """A heading ends those of its own level and below, and keeps those above."""
    body = "\n\n" + "word " * 30 + "\n\n"
    text = f"before{body}# Guide{body}## Part{body}### Section{body}## Next *part*{body}"
    headings = [chunk.heading for chunk in split(document(text), max_characters=180)]
    assert headings == ["Title of the file", "Guide", "Guide > Part", "Guide > Part > Section", "Guide > Next *part*"]


def test_comments_in_code_are_no_headings() -> None:
    """A `#` line inside a fence belongs to the code."""
    code = "```python\n# not a heading\n" + "value = 1\n" * 30 + "```"
    chunks = split(document(f"# Guide\n\n{code}\n\nText after the code.\n"), max_characters=120)
    assert len(chunks) > 2
    assert {chunk.heading for chunk in chunks} == {"Guide"}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_headings_are_found_with_any_line_end(line_end: str) -> None:
    """An underlined heading counts as well, and each stands at its own offset."""
    lines = ["word " * 25, "", "Guide", "=====", "", "word " * 25, "", "## Part", "", "word " * 25]
    chunks = split(document(line_end.join(lines)), max_characters=160)
    assert [chunk.heading for chunk in chunks] == ["Title of the file", "Guide", "Guide > Part"]


@pytest.mark.parametrize("media_type", ["text/plain", "application/pdf"])
def test_text_without_structure_stands_under_its_title(media_type: str) -> None:
    """In plain text a `#` is a character like any other."""
    [chunk] = split(document("# 1 on the list", media_type), max_characters=100)
    assert chunk.heading == "Title of the file"


def test_a_chunk_holds_as_much_of_the_structure_as_fits() -> None:
    """Short sections stay together; a cut falls between paragraphs rather than inside one."""
    text = "# Guide\n\n" + "\n\n".join(f"Paragraph {n} has a few words." for n in range(10))
    chunks = split(document(text), max_characters=100)
    assert all(chunk.text.endswith(".") for chunk in chunks)
    assert len(split(document(text), max_characters=1_000)) == 1
