"""The command line through `main()`, as the shell calls it: what is printed, and the exit status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from aiohttp import web

from app.cli import main
from app.settings import Settings
from tests.conftest import PROJECT
from tests.integration.conftest import Command
from tests.provider import CutStream, Hang, Provider, Reply, Wire

QUESTION = "How is green tea brewed?"
ANOTHER = "Who won the chess championship of 1972?"
CASE = {
    "answerable": True,
    "relevant": ["docs/tea.md"],
    "evidence": [{"document": "docs/tea.md", "quote": "eighty degrees"}],
    "reference": "At eighty degrees, for two minutes.",
}
READ_ONE = "1 documents read (1 new, 0 changed; 1 chunks, 1 embedded)"
READ_NONE = "0 documents read (0 new, 0 changed; 0 chunks, 0 embedded)"
EVALUATION = ("--dataset", "cases.jsonl", "--documents", "docs")


def test_ingest_sums_up_what_it_did(app: Command) -> None:
    """New documents are read, and what has not changed is left alone."""
    first, second = app("ingest", "docs"), app("ingest", "docs")
    assert first.out.startswith(f"{READ_ONE}, 0 unchanged, 0 removed, 0 skipped; ")
    assert second.out.startswith(f"{READ_NONE}, 1 unchanged, 0 removed, 0 skipped; ")
    assert [(ended.status, ended.err) for ended in (first, second)] == [(0, ""), (0, "")]


def test_ingest_ends_with_1_where_a_file_was_skipped(app: Command) -> None:
    """The other files are read, and the skipped one is named with the reason."""
    Path("docs/picture.png").write_bytes(b"\x89PNG\0")
    ended = app("ingest", "docs")
    assert ended.status == 1
    assert ended.out.startswith(f"{READ_ONE}, 0 unchanged, 0 removed, 1 skipped; ")
    assert "\n  skipped docs/picture.png: docs/picture.png is a picture; text in it needs OCR first" in ended.out


def test_rebuild_reads_everything_again(app: Command) -> None:
    """With --rebuild nothing counts as unchanged, and what is gone is forgotten."""
    app("ingest", "docs")
    assert app("ingest", "--rebuild", "docs").out.startswith("1 documents read")


@pytest.mark.parametrize("command", [("ingest", "nowhere"), ("ask", QUESTION, "--ingest", "nowhere")])
def test_a_missing_path_is_an_error(app: Command, command: tuple[str, ...]) -> None:
    """A typing error ends with 2 and one line."""
    assert app(*command) == (2, "", "error: nowhere does not exist")


def test_an_empty_folder_is_an_error(app: Command) -> None:
    """To read nothing is a mistake that is told."""
    Path("empty").mkdir()
    assert app("ingest", "empty") == (2, "", "error: there are no files in empty")


def test_ask_prints_the_answer_and_its_sources(app: Command) -> None:
    """The answer has numbers, each number has a source, and the last line tells the model and the price."""
    app("ingest", "docs")
    ended = app("ask", QUESTION)
    assert ended.status == 0
    answer, source, note = ended.out.splitlines()
    assert answer == "Green tea is brewed at eighty degrees for two minutes. [1]"
    assert source == "  [1] docs/tea.md Tea"
    assert re.search(r"no language model was used\. \(offline/extractive, \d+ ms, \$0\.000000\)$", note)


def test_ask_reads_the_question_from_standard_input(app: Command) -> None:
    """A dash stands for standard input, so that a pipe works."""
    app("ingest", "docs")
    assert app("ask", "-", stdin=f"{QUESTION}\n").out.startswith("Green tea is brewed at eighty degrees")


def test_ask_can_bring_the_index_up_to_date_first(app: Command) -> None:
    """With --ingest one command is enough; it tells what it read, and nothing where nothing is new."""
    first, second = (app("ask", QUESTION, "--ingest", "docs") for _ in range(2))
    assert (first.status, first.err) == (0, f"{READ_ONE}, 0 unchanged, 0 removed, 0 skipped")
    assert second.err == ""
    assert first.out.startswith("Green tea")


def test_ask_before_there_are_documents_says_what_to_do(app: Command) -> None:
    """The error ends with 2 and names the command."""
    ended = app("ask", QUESTION)
    assert (ended.status, ended.out) == (2, "")
    assert "Add some with `app ingest PATH`" in ended.err


def test_ask_says_that_the_documents_do_not_answer(app: Command) -> None:
    """An abstention is a good answer: status 0, with the nearest document."""
    app("ingest", "docs")
    ended = app("ask", ANOTHER)
    assert ended.status == 0
    assert ended.out.startswith("The documents do not answer this question.\n  nearest: docs/tea.md\n")


def test_ask_tells_which_citations_did_not_hold(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model invented is left out and counted, and an unknown price is called that."""
    app("ingest", "docs")
    with Provider() as provider:
        provider.then(Reply('Hot. [1: "at eighty degrees"] Or cold. [1: "iced tea is better"]'))
        monkeypatch.setenv("CHAT_MODEL", "openai/test-model")
        monkeypatch.setenv("CHAT_API_BASE", provider.url)
        ended = app("ask", QUESTION)
    answer, source, fault, note = ended.out.splitlines()
    assert (answer, source) == ("Hot. [1] Or cold.", "  [1] docs/tea.md Tea")
    assert fault == "1 citations did not hold and were left out: fabricated"
    assert note.endswith(" ms, price unknown)")


def test_an_answer_that_breaks_off_has_its_error_on_a_line_of_its_own(
    app: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said is shown, its line is ended, and the status is 2."""
    app("ingest", "docs")
    with Provider() as provider:
        text = 'Hot. [1: "at eighty degrees"] ' + "And so on. " * 9
        provider.then(CutStream(text, after=12, dropped=True))
        monkeypatch.setenv("CHAT_MODEL", "openai/test-model")
        monkeypatch.setenv("CHAT_API_BASE", provider.url)
        monkeypatch.setenv("LOG_LEVEL", "ERROR")  # or the log's line stands between the two
        with redirect_stderr(sys.stdout):
            ended = app("ask", QUESTION)
    said, error = ended.out.splitlines()
    assert (ended.status, said.startswith("Hot. [1]"), error.startswith("error: ")) == (2, True, True)


class Interrupt(Hang):
    """Press Ctrl-C in the terminal of the caller, which is this process, and never answer."""

    async def answer(self, wire: Wire) -> web.StreamResponse:
        """Send the signal."""
        os.kill(os.getpid(), signal.SIGINT)
        return await super().answer(wire)


def test_an_interrupt_ends_the_command(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of an answer is no traceback: one line, and the status that shells give it."""
    app("ingest", "docs")
    with Provider() as provider:
        provider.then(Interrupt())
        monkeypatch.setenv("CHAT_MODEL", "openai/test-model")
        monkeypatch.setenv("CHAT_API_BASE", provider.url)
        assert app("ask", QUESTION) == (130, "", "interrupted; run it again to finish")


def test_a_wrong_setting_is_one_line(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that cannot be read ends with 2 and its name, without a traceback."""
    monkeypatch.setenv("PASSAGES", "many")
    ended = app("ask", QUESTION)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: PASSAGES: ")


def test_a_misspelt_name_is_one_line(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing starts with a limit in `.env` that nobody would read."""
    Path(".env").write_text("TENANT_BUGET_USD=5\n")
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    told = "error: TENANT_BUGET_USD in .env is no setting; did you mean TENANT_BUDGET_USD?"
    assert app("costs") == (2, "", told)


@pytest.mark.parametrize("command", [("ask", QUESTION), ("serve",), ("models",)])
def test_a_missing_key_is_one_line(app: Command, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot work is told before anything starts, with the variable to set."""
    monkeypatch.setenv("CHAT_MODEL", "openai/gpt-4o")
    assert app(*command) == (2, "", "error: openai/gpt-4o needs a key: set CHAT_API_KEY in .env")


def test_migrate_brings_the_schema_up_to_date(app: Command) -> None:
    """A second time there is nothing to do, and that is no error."""
    assert app("migrate") == (0, "the schema is up to date", "")


def test_migrate_needs_a_url(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DATABASE_URL there is nothing to migrate, and the error says so."""
    monkeypatch.delenv("DATABASE_URL")
    ended = app("migrate")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: set DATABASE_URL; ")


@pytest.mark.parametrize("command", [("migrate",), ("ask", QUESTION)])
def test_a_database_that_is_not_there_is_one_line(
    app: Command, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2 and a sentence, without the password."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:canary@127.0.0.1:1/app")
    ended = app(*command)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: the database cannot be reached: ")
    assert "canary" not in ended.err


def test_tune_shows_every_threshold_and_the_best(app: Command) -> None:
    """The table has a row a threshold, for the tune split alone, and the last line what is set now."""
    asked = {"tune": QUESTION, "gate": ANOTHER}
    cases = [CASE | {"id": split, "split": split, "question": asked[split]} for split in asked]
    Path("cases.jsonl").write_text("\n".join(map(json.dumps, cases)))
    ended = app("tune", "--what", "abstain", *EVALUATION)
    rows = [line.split()[1::2] for line in ended.out.splitlines() if re.search(r"\d\.\d{3} ", line)]
    assert (ended.status, rows[0][:2], rows[-1][:2]) == (0, ["0.200", "1.00"], ["0.675", "1.00"])
    now = Settings.model_fields["abstain_below"].default
    assert ended.out.endswith(f"best here: {now:.3f}; set now: {now:.3f}")


def test_serve_on_a_taken_port_is_an_error(app: Command) -> None:
    """One line says so, with the port, and the status is not 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = app("serve", "--port", str(port))
    assert ended.status != 0
    [line] = ended.err.splitlines()
    assert str(port) in line
    assert "already in use" in line.lower()


def test_help_names_every_command(app: Command) -> None:
    """Without a command the help is shown, in groups: first what everybody needs, last what runs in production."""
    ended = app("--help")
    documents = ["ask", "conversations", "ingest", "documents", "verify", "reembed", "explain"]
    evaluation = ["dataset", "eval", "compare", "feedback", "calibrate", "tune"]
    operation = ["keys", "openapi", "serve", "migrate", "worker"]
    commands = [*documents, "cache", "costs", "models", *evaluation, *operation]
    assert ended.status == 0
    assert re.findall(r"^[│|] (\w+)  ", ended.out, re.MULTILINE) == commands


def test_a_fault_of_ours_is_no_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with 2 and its traceback; 1 would say of an evaluation that the answers got worse."""
    monkeypatch.setattr("app.cli.cli", lambda: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, "ZeroDivisionError" in capsys.readouterr().err) == (2, True)


@pytest.mark.usefixtures("database")
def test_an_error_before_the_first_call_waits_for_no_model(migrated_url: str) -> None:
    """The library that knows the providers takes seconds to load; what fails without a call does not load it."""
    script = "import sys; from app.cli import main\ntry: main()\nfinally: print('litellm' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, "ask", QUESTION],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "DATABASE_URL": migrated_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert "Add some with `app ingest PATH`" in done.stderr
