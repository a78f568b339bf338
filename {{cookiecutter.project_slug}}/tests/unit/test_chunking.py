"""Chunks are exact parts of their document, within the limit, under the right headings, with nothing lost."""

from itertools import pairwise

import pytest
from hypothesis import given
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


def assert_exact(text: str, chunks: list[Chunk], limit: int) -> None:
    """Each chunk stands where it says, they are in order within the limit, and only white space is left out."""
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert 0 < len(chunk.text) <= limit
    borders = [0, *(offset for chunk in chunks for offset in (chunk.start, chunk.end)), len(text)]
    assert borders == sorted(borders)
    assert not "".join(text[end:start] for end, start in list(pairwise(borders))[::2]).strip()


@given(text=st.text(max_size=2_000), limit=LIMITS, media_type=st.sampled_from(["text/markdown", "text/plain"]))
def test_any_text_is_cut_exactly(text: str, limit: int, media_type: str) -> None:
    """This holds for text of any characters, with any line ends."""
    assert_exact(text, split(document(text, media_type), max_characters=limit), limit)


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
