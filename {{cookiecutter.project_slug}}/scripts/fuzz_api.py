"""`make test-api`: Schemathesis sends what the OpenAPI document allows, and what it forbids, to a server of its own.

The server is `app serve` in a folder that is thrown away, on offline models, with an API key and without limits. It
fails where an answer is a 5xx, has a status or a shape that is not documented, or refuses what the document allows.
CASES in the environment is how many requests there are at least; SEED repeats a run.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parent.parent
CASES = int(os.environ.get("CASES", "5000"))
APP = [sys.executable, "-m", "app"]
DOCUMENTS = ("corpus/bm25.md", "corpus/chunking.md", "corpus/fallback-and-circuit-breakers.md")
SCOPES = ("chat", "documents:read", "documents:write")
PATIENCE_SECONDS = 120.0


def main() -> int:
    """Run it; the status is Schemathesis's, or 1 where there were too few cases."""
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        subprocess.run([*APP, "ingest", *DOCUMENTS], cwd=PROJECT, env=environment, check=True)  # noqa: S603  # our own
        scopes = [part for scope in SCOPES for part in ("--scope", scope)]
        create = [*APP, "keys", "create", "schemathesis", *scopes]
        made = subprocess.run(create, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True)  # noqa: S603  # our own
        with _serving(environment) as url:
            return _test(url, made.stdout.strip(), Path(folder))


def _environment(folder: Path) -> dict[str, str]:
    """Settings of this run alone; those of whoever runs it do not count."""
    kept = {name: value for name, value in os.environ.items() if name.isupper() and name in {"PATH", "HOME", "LANG"}}
    return kept | {
        "PYTHONPATH": str(PROJECT),
        "DATA_DIR": str(folder / "data"),
        "PORT": str(_free_port()),
        "LOG_LEVEL": "WARNING",
        "API_KEY_SECRET": secrets.token_hex(32),
        "KEY_REQUESTS_PER_MINUTE": "1000000",
        "KEY_STREAMS": "1000",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _serving(environment: dict[str, str]) -> Iterator[str]:
    url = f"http://127.0.0.1:{environment['PORT']}"
    with subprocess.Popen([*APP, "serve"], cwd=PROJECT, env=environment) as server:  # noqa: S603  # our own command
        try:
            _wait_for(f"{url}/readyz")
            yield url
        finally:
            server.terminate()


def _wait_for(url: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # of our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"the server did not become ready in {PATIENCE_SECONDS:.0f} s")


def _test(url: str, key: str, folder: Path) -> int:
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=60) as response:  # noqa: S310  # of our own server
        operations = sum(len(methods) for methods in json.load(response)["paths"].values())
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(PROJECT / "schemathesis.toml")]
    command += ["run", f"{url}/openapi.json"]
    command += ["--max-examples", str(max(1, CASES // operations)), "--continue-on-failure"]
    command += ["--report", "json", "--report-json-path", str(report)]
    command += ["--seed", seed] if (seed := os.environ.get("SEED")) else []
    environment = os.environ | {"API_KEY": key}
    status = subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode  # noqa: S603  # our own
    if (sent := json.loads(report.read_text())["test_cases"]["generated"]) < CASES:
        print(f"only {sent:,} cases of {CASES:,}: see CASES")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
