"""`app explain`: everything that is needed to understand where an answer comes from, or why there is none."""

import re
from pathlib import Path

import pytest

from tests.integration.conftest import Command

COFFEE = "# Coffee\n\nCoffee beans are roasted before they are ground.\n"
QUESTION = "How is green tea brewed?"


@pytest.fixture(autouse=True)
def stored(app: Command) -> None:
    """Two documents in the index."""
    Path("docs/coffee.md").write_text(COFFEE)
    assert app("ingest", "docs").status == 0


def test_the_whole_way_is_shown(app: Command) -> None:
    """Words with their idf, candidates with every score, what is read, and the sentence that answers."""
    shown = app("explain", QUESTION)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith(QUESTION)
    headings = ["The words of the question", "The candidates", "What the model reads", "The answer"]
    assert [shown.out.index(heading) for heading in headings] == sorted(map(shown.out.index, headings))
    assert re.search(r"brew +1x +1 +\d\.\d\d", shown.out)
    assert "Left out, as words that every text has: how, is." in shown.out
    assert re.search(r"1 +docs/tea\.md > Tea +\d\.\d\d +1\.00 +\d\.\d{3} +1\.00 +1\.000 +read as \[1\]", shown.out)
    assert re.search(r"2 +docs/coffee\.md > Coffee +none +0\.00 +-?\d\.\d{3} +0\.00 +0\.000 +read as \[2\]", shown.out)
    assert "[1] Green tea is brewed at eighty degrees for two minutes." in shown.out
    assert re.search(r"It answers: the best sentence scores [01]\.\d{3}, and ABSTAIN_BELOW is 0\.425\.", shown.out)


def test_an_abstention_says_why(app: Command) -> None:
    """Which words are missing, that a name is unknown, and that a figure was asked for."""
    shown = app("explain", "How many cups does Zubrowka brew?").out
    assert re.search(r"It abstains: the best sentence scores -?0\.\d{3}, below ABSTAIN_BELOW=0\.425\.", shown)
    assert "it does not hold these words of the question: cup, zubrowka" in shown
    assert "the question names something that no passage mentions" in shown
    assert "the question asks for a figure, and the sentence has none" in shown
    assert "stands in no chunk" in shown


def test_a_question_without_words_is_explained(app: Command) -> None:
    """Stop words alone are searched by meaning, and give nothing to quote for."""
    shown = app("explain", "what is it").out
    assert "No word is left to search for: only the meaning is compared." in shown
    assert "It abstains: no sentence can be compared with the question." in shown


def test_filters_and_standard_input(app: Command) -> None:
    """The same options as `ask` has; where nothing is left, that is what is shown."""
    shown = app("explain", "-", "--below", "docs/coffee", stdin=QUESTION).out
    assert "docs/coffee.md" in shown
    assert "docs/tea.md" not in shown
    assert "What the model reads: 0 passages" in app("explain", QUESTION, "--where", "team=none").out


def test_settings_are_explained_as_they_are_set(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another fusion, neighbours, too little room, and a model that decides by itself."""
    monkeypatch.setenv("FUSION", "rrf")
    monkeypatch.setenv("PASSAGES", "1")
    monkeypatch.setenv("CHAT_MODEL", "openai/some-model")
    monkeypatch.setenv("CHAT_API_KEY", "key")
    shown = app("explain", QUESTION).out
    assert "(FUSION=rrf)" in shown
    assert "DENSE_WEIGHT" not in shown
    assert "below the cut" in shown
    assert "openai/some-model reads these passages and decides." in shown


def test_what_became_of_each_is_told(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near-duplicates and neighbours point to the passage that has their text; what has no room is not read."""
    Path("docs/again.md").write_text("# Tea\n\nGREEN tea is brewed at eighty degrees for two minutes!\n")
    long = "\n\n".join(f"Green tea number {n}. {'It grows slowly on the hill. ' * 20}" for n in range(8))
    Path("docs/long.md").write_text(long)
    app("ingest", "docs")
    assert "says the same as [1]" in app("explain", QUESTION).out
    monkeypatch.setenv("PASSAGES", "2")
    assert re.search(r"and \d more below the cut", app("explain", QUESTION).out)
    monkeypatch.setenv("PASSAGES", "5")
    monkeypatch.setenv("PASSAGE_TOKENS", "200")
    assert "no room" in app("explain", QUESTION).out
    monkeypatch.setenv("PASSAGE_TOKENS", "8000")
    monkeypatch.setenv("NEIGHBOURS", "1")
    assert re.search(r"neighbour, part of \[\d\]", app("explain", QUESTION).out)


def test_a_page_holds_the_same_and_no_markup_of_the_question(app: Command) -> None:
    """One file, everything inside it, and what people wrote is text in it."""
    question = f"{QUESTION} <script>alert(1)</script> {chr(123)}code{chr(125)}"
    assert app("explain", question, "--html", "page.html").out == "written to page.html"
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "docs/tea.md" in page
    assert not re.search(r"(?:src|href)=", page)


def test_an_empty_question_is_an_error(app: Command) -> None:
    """Nothing to explain."""
    ended = app("explain", " \0 ")
    assert (ended.status, ended.err) == (2, "error: the question is empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tea \ud800",), "not valid"),
        (("tea", "--where", "a=\ud800"), "a filter is not"),
        (("tea " * 2000,), "4,000 are allowed"),
    ],
)
def test_what_ask_refuses_is_refused_here(app: Command, arguments: tuple[str, ...], message: str) -> None:
    """With the same sentence, before anything is searched."""
    ended = app("explain", *arguments)
    assert ended.status == 2
    assert message in ended.err
