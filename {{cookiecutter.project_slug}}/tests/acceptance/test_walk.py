"""The whole walk as a user takes it: real processes, the real corpus, the built-in Postgres, real HTTP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.db.embedded import EmbeddedPostgres
from tests.conftest import PROJECT

QUESTION = "What does k1 do in BM25?"
PATIENCE_SECONDS = 60


class Shell:
    """Starts `python -m app` in a copy of the project's texts, where no `.env` of a developer is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "data")
        self._started: list[subprocess.Popen[str]] = []
        self.environment = os.environ | {"DATA_DIR": str(folder / "data"), "PYTHONPATH": str(PROJECT)}
        for part in ("corpus", "docs", "evals"):
            shutil.copytree(PROJECT / part, folder / part)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run a command beside this test."""
        command = [sys.executable, "-m", "app", *arguments]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=-1, stderr=subprocess.STDOUT, text=True
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str) -> str:
        """Run a command to its end, which has to be a good one, and give what it printed."""
        return self.ended(self.start(*arguments))

    def ended(self, process: subprocess.Popen[str]) -> str:
        """Wait for a good end."""
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, printed
        return printed

    def close(self) -> None:
        """End what a failed test has left behind, and remove the built-in Postgres."""
        for process in self._started:
            process.kill()
            process.communicate()
        self.postgres.start()
        self.postgres.stop()
        shutil.rmtree(self.postgres.home)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in a folder of its own."""
    with closing(Shell(tmp_path)) as opened:
        yield opened


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def test_a_user_walks_from_documents_to_answers_and_an_evaluation(shell: Shell) -> None:
    """Serve and evaluate beside ingesting and asking, all on one database, with no key and no network."""
    port = free_port()
    server, evaluation = shell.start("serve", "--port", str(port)), shell.start("eval")

    documents = sum(path.is_file() for path in (shell.folder / "corpus").iterdir())
    assert f"{documents} documents read" in shell.run("ingest", "corpus")
    assert "[1] corpus/bm25.md" in shell.run("ask", QUESTION)

    transport = httpx.HTTPTransport(retries=5)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=PATIENCE_SECONDS) as client:
        answer = client.post("/v1/ask", json={"question": QUESTION}).json()
        streamed = client.post("/v1/ask", json={"question": QUESTION, "stream": True}).text
        assert client.get("/readyz").json()["status"] == "ok"
        assert len(client.get("/v1/documents?limit=100").json()["data"]) == documents
    cited = answer["citations"][0]
    assert cited["quote"] in (shell.folder / cited["source"]).read_text(encoding="utf-8")
    *_, name, data = streamed.strip().splitlines()
    assert (name, json.loads(data.removeprefix("data: "))["text"]) == ("event: answer", answer["text"])

    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=PATIENCE_SECONDS)
    assert server.returncode in {0, -signal.SIGTERM}
    assert "every case is in evals/reports/latest.html" in shell.ended(evaluation)
    assert not shell.postgres._alive()
