"""Which chunk and page a citation belongs to, by where its words begin."""

from dataclasses import replace

import pytest

from app.db.answers import Stored
from app.rag.evidence import Evidence
from app.types import Citation, Passage

PASSAGE = Passage(2, "a.pdf", "A", "Two", 0, 60, "x" * 60, 1.0, page=1)
CHUNKS = ((0, 20, 1, "One"), (20, 40, 2, "Two"), (30, 60, 3, "Three"))


def cited(start: int) -> Citation:
    """A citation as the reader makes it, with the chunk that was found."""
    return Citation(1, 2, "a.pdf", "A", "Two", "xxx", start, start + 3, page=1)


@pytest.mark.parametrize(
    ("start", "chunk", "heading", "page"),
    [
        (0, 1, "One", 1),
        (19, 1, "One", 1),
        (20, 2, "Two", 1),
        (35, 2, "Two", 2),
        (45, 3, "Three", 2),
        (59, 3, "Three", 3),
    ],
)
def test_the_chunk_and_the_page_are_those_of_the_first_word(start: int, chunk: int, heading: str, page: int) -> None:
    """Where two chunks overlap, the one that was found is named."""
    evidence = Evidence((PASSAGE,), (Stored("x" * 60, (0, 25, 50), CHUNKS),))
    settled = evidence.settle(cited(start))
    assert (settled.chunk_id, settled.heading, settled.page) == (chunk, heading, page)
    assert (settled.quote, settled.start, settled.marker) == ("xxx", start, 1)


GUIDE = "# Guide\n\n## One\n\nfirst\n\n```sh\n# no heading\n```\n\n## Two\n\nsecond\n"


@pytest.mark.parametrize(
    ("words", "heading"),
    [("Guide", "Guide"), ("first", "Guide > One"), ("no heading", "Guide > One"), ("second", "Guide > Two")],
)
def test_the_heading_is_the_one_above_the_first_word(words: str, heading: str) -> None:
    """A chunk may hold several sections, and lines of code that look like headings."""
    stored = Stored(GUIDE, (), ((0, len(GUIDE), 2, "Guide"),), GUIDE)
    evidence = Evidence((replace(PASSAGE, text=GUIDE, end=len(GUIDE)),), (stored,))
    assert evidence.settle(cited(GUIDE.index(words))).heading == heading


def test_before_the_first_heading_the_one_of_the_chunk_stays() -> None:
    """It is the title of the document."""
    text = "before\n\n# Guide\n"
    evidence = Evidence((PASSAGE,), (Stored(text, (), ((0, len(text), 2, "Title"),), text),))
    assert evidence.settle(cited(0)).heading == "Title"


def test_a_document_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many citations it has."""
    looked: list[str] = []

    def look(text: str) -> list[tuple[int, str]]:
        looked.append(text)
        return [(0, "Guide")]

    monkeypatch.setattr("app.rag.evidence.headings_of", look)
    evidence = Evidence((PASSAGE,), (Stored(GUIDE, (), CHUNKS, GUIDE),))
    assert looked == []
    assert {evidence.settle(cited(start)).heading for start in (0, 30, 50)} == {"Guide"}
    assert looked == [GUIDE]


def test_between_chunks_the_one_that_was_found_stays() -> None:
    """And without pages there is none."""
    settled = Evidence((PASSAGE,), (Stored("x" * 60, (), CHUNKS[:1]),)).settle(cited(30))
    assert (settled.chunk_id, settled.heading, settled.page) == (2, "Two", None)


def test_what_is_gone_is_not_read() -> None:
    """A passage without a text in the store leaves, with what was stored of it."""
    gone, there = Stored(), Stored("x" * 60, (), CHUNKS)
    blank = Passage(1, "b.md", "B", "", 0, 3, "", 1.0)
    assert Evidence((blank, PASSAGE), (gone, there)).standing() == Evidence((PASSAGE,), (there,))
