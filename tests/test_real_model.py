"""A generated project against a real language model on loopback: two variables of its environment name it, no code."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NO_LOCK
from tools.real_model import NAME, real_model
from tools.render import ROOT, render

pytestmark = pytest.mark.slow
CALLS = ROOT / "tools" / "real_model_calls.py"
# A slow core reads a hundred tokens a second, and fewer beside other tests.
PATIENT = {"PASSAGES": "3", "MAX_OUTPUT_TOKENS": "100", "CHAT_TIMEOUT_SECONDS": "120", "DEADLINE_SECONDS": "150"}
INHERITED = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "q", NO_LOCK)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default project, rendered; its first command installs it."""
    return render(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What points the project at the model."""
    clean = {name: value for name, value in os.environ.items() if name not in INHERITED}
    with real_model() as url:
        yield clean | PATIENT | {"CHAT_MODEL": f"openai/{NAME}", "CHAT_API_BASE": url}


@pytest.fixture(scope="module")
def asked(project: Path, environment: dict[str, str]) -> str:
    """What `make ask` prints, after it has installed the project and read its documents."""
    return run(["make", "ask", "q=What does a circuit breaker do?"], project, environment)


@pytest.fixture(scope="module")
def replies(project: Path, environment: dict[str, str], asked: str) -> Any:  # noqa: ANN401  # JSON
    """What the gateway's calls gave."""
    assert asked
    python = str(project / ".venv" / "bin" / "python")
    return json.loads(run([python, str(CALLS)], project, environment | {"PYTHONPATH": "."}))


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command to its end, which has to be a good one, and give what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_question_is_answered_or_refused(asked: str) -> None:
    """`make ask` ends well: with an answer whose quotes stand in the documents, or, as small models do, without one."""
    assert "corpus/" in asked or "The documents do not answer this question." in asked
    assert f"openai/{NAME}" in asked


def test_completion_is_whole_and_counted(replies: Any) -> None:  # noqa: ANN401  # JSON
    """A completion has text, the model's own reason to stop, and the model's own count of tokens."""
    text, finish, tokens, estimated = replies["completion"]
    assert text
    assert finish in {"stop", "length"}
    assert 0 < tokens <= 40
    assert not estimated


def test_stream_comes_in_pieces_and_ends_whole(replies: Any) -> None:  # noqa: ANN401  # JSON
    """A stream's pieces are the text of the completion that ends it, which is counted too."""
    text, finish, tokens, estimated = replies["stream"]
    assert len(replies["pieces"]) > 3
    assert "".join(replies["pieces"]) == text
    assert finish in {"stop", "length"}
    assert 0 < tokens <= 40
    assert not estimated


def test_reply_keeps_to_a_json_schema(replies: Any) -> None:  # noqa: ANN401  # JSON
    """A reply to a JSON schema has the fields that the schema demands, and no others."""
    assert set(replies["city"]) == {"city", "country"}
    assert all(isinstance(value, str) for value in replies["city"].values())
