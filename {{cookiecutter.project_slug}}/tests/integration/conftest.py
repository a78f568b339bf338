"""The command line as a fixture, for the tests of its commands."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from app.cli import main
from app.db.engine import Database
from tests.provider import Provider

TEA = "# Tea\n\nGreen tea is brewed at eighty degrees for two minutes.\n"


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    """One server for this module."""
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(running: Provider) -> Provider:
    """The server, with nothing told and nothing remembered."""
    running.reset()
    return running


@pytest.fixture
def app(
    migrated_url: str,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """Runs the command line in a folder with `docs/tea.md`, on the empty database."""
    assert database
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tea.md").write_text(TEA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", migrated_url)
    monkeypatch.setenv("COLUMNS", "500")

    def run(*arguments: str, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["app", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out.strip(), printed.err.strip())

    yield run
    logging.basicConfig(handlers=[], level="WARNING", force=True)
