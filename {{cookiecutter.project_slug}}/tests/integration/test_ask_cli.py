"""`app ask`: what a reader sees of an answer, of its sources, and of why there is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.integration.conftest import Command
from tests.provider import Provider, Reply

QUESTION = "How is green tea brewed?"
ANOTHER = "Who won the chess championship of 1972?"
QUOTING = 'Hot. [1: "at eighty degrees"] Or cold. [1: "iced tea is better"]'


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """The chat model of the command line."""
    with Provider() as running:
        monkeypatch.setenv("CHAT_MODEL", "openai/test-model")
        monkeypatch.setenv("CHAT_API_BASE", running.url)
        yield running


def test_a_source_has_its_page(app: Command) -> None:
    """Where the format has pages; the heading follows it where there is one."""
    Path("docs/error-analysis.pdf").write_bytes((PROJECT / "corpus" / "error-analysis.pdf").read_bytes())
    ended = app("ask", "What is open coding in error analysis?", "--ingest", "docs")
    assert "[1] docs/error-analysis.pdf, page 1 " in ended.out


def test_an_abstention_says_why_and_where_to_look(app: Command) -> None:
    """The reason, and the command that shows every step, ready to be pasted."""
    ended = app("ask", ANOTHER, "--ingest", "docs")
    lines = ended.out.splitlines()
    assert lines[:2] == ["The documents do not answer this question.", "  nearest: docs/tea.md"]
    assert lines[2].startswith("  The best sentence scores ")
    assert lines[3] == f"  app explain '{ANOTHER}' shows more"
    limited = app("ask", ANOTHER, "--where", "team=two words", "--below", "docs")
    assert f"  app explain '{ANOTHER}' --where 'team=two words' --below docs shows more" in limited.out


def test_what_was_left_out_is_told(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many more passages there are, and the setting that decides."""
    for n in range(8):
        Path(f"docs/{n}.md").write_text(f"# Green tea {n}\n\n" + f"Green tea number {n} is brewed slowly. " * 12)
    monkeypatch.setenv("PASSAGE_TOKENS", "300")
    out = app("ask", QUESTION, "--ingest", "docs").out
    assert "more passages were found; the model reads PASSAGE_TOKENS of them" in out


@pytest.mark.parametrize(
    ("policy", "answer", "told"),
    [
        ("drop", "Hot. [1] Or cold.", ["1 citations did not hold and were left out: fabricated"]),
        (
            "flag",
            "Hot. [1] Or cold. [?]",
            [
                "1 citations did not hold and were marked with a question mark: fabricated",
                '  passage 1, fabricated: "iced tea is better"',
            ],
        ),
    ],
)
def test_citations_that_do_not_hold_are_left_out_or_flagged(
    app: Command, provider: Provider, monkeypatch: pytest.MonkeyPatch, *, policy: str, answer: str, told: list[str]
) -> None:
    """As CITATION_FAULTS says; flagged ones are listed with their words and the fault."""
    monkeypatch.setenv("CITATION_FAULTS", policy)
    provider.then(Reply(QUOTING))
    lines = app("ask", QUESTION, "--ingest", "docs").out.splitlines()
    assert lines[0] == answer
    assert lines[2:-1] == told


def test_a_question_can_be_limited_to_some_documents(app: Command) -> None:
    """By metadata and by path; where nothing is left, no model is asked and none is named."""
    Path("docs/hot").mkdir()
    Path("docs/hot/tea.md").write_text("---\nyear: 2024\n---\nGreen tea is brewed at ninety degrees for two minutes.\n")
    assert "ninety" in app("ask", QUESTION, "--ingest", "docs", "--below", "docs/hot").out
    assert "ninety" in app("ask", QUESTION, "--where", "year=2024").out
    nothing = app("ask", QUESTION, "--where", "year=2024", "--where", "team=tea")
    assert nothing.status == 0
    assert nothing.out.startswith("The documents do not answer this question.\n  Nothing was found to answer from")
    assert "offline" not in nothing.out


def test_a_condition_that_is_none_is_an_error(app: Command) -> None:
    """One line that shows how it is written."""
    assert app("ask", QUESTION, "--where", "year") == (2, "", "error: --where takes KEY=VALUE, and this is 'year'")
