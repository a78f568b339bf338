"""Unmodified clients of OpenAI's API work with a served app; the document shows the run that was last written down."""

import re
import subprocess

import pytest

from tools.render import ROOT

LAST_RUN = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8").partition("## The last run")[2]
VERSION = re.compile(r" \d+\.[\d.]+")


def cells(text: str) -> list[list[str]]:
    """The rows of the table in a text, the names of the clients without all but the first number of a version."""
    return [
        [VERSION.sub(lambda found: found[0].partition(".")[0], cell.strip()) for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


@pytest.mark.slow
def test_clients_pass_as_the_document_says() -> None:
    """Every check of every client passes, and they are those of the document."""
    done = subprocess.run(["make", "conformance"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert cells(done.stdout) == cells(LAST_RUN)


def test_document_tells_of_no_failure() -> None:
    """The table has the four clients, and each of its cells is `yes` or empty."""
    head, _, *rows = cells(LAST_RUN)
    assert {name.partition(":")[0] for name in head[1:]} == {"openai 2", "openai 3", "langchain-openai 1", "ai 7"}
    assert len(rows) > 10
    assert {cell for row in rows for cell in row[1:]} <= {"yes", ""}
