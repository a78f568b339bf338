"""A rendered project in a fresh environment: its own checks, tests and evaluation, and the README's commands.

Minutes, not seconds. The template is cloned first, so that nothing which is not committed helps.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.render import ROOT, export

pytestmark = pytest.mark.slow
TYPESCRIPT = ("openapi-fetch@0.17.0", "typescript@5.9.3")
PAGE_CHECK = "--noEmit --allowJs --checkJs --strict --target es2023 --lib es2023,dom,dom.iterable --module es2022"
PAGE_CHECK += " --moduleResolution bundler"
INHERITED = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "q")


def run(command: str, folder: Path, *, path: str | None = None) -> str:
    """Run a shell command as a person would, without this process's environment settings, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment |= {"PATH": path} if path else {}
    environment.pop("COOKIECUTTER_AI_APP_NO_LOCK", None)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}"
    return done.stdout


def path_without_uv(folder: Path) -> str:
    """A PATH like a bare machine's: what is there now, but no uv."""
    tools = folder / "bare-bin"
    tools.mkdir()
    for directory in reversed(os.environ["PATH"].split(":")):
        for program in Path(directory).glob("*") if Path(directory).is_dir() else []:
            link = tools / program.name
            if not program.name.startswith("uv"):
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(tools)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a fresh clone would have it."""
    folder = tmp_path_factory.mktemp("clone") / "cookiecutter-ai-app"
    export(folder)
    run("git init -q && git add -A", folder)
    return folder


@pytest.fixture(scope="module")
def project(clone: Path) -> Path:
    """What `make demo` made, on a machine that has no uv."""
    output = run("make demo", clone, path=path_without_uv(clone.parent))
    assert "Installing uv" in output
    assert re.search(r"The lock is the tested set: 1\d\d packages", output)
    assert "corpus/fallback-and-circuit-breakers.md" in output
    return clone / "build" / "demo" / "my-ai-app"


def test_demo_answers_with_a_citation(project: Path) -> None:
    """`make demo` on a bare machine renders, locks, installs, ingests and answers; the project stands whole."""
    assert (project / "uv.lock").exists()
    assert (project / ".env").exists()


def test_own_checks_tests_and_evals_pass(project: Path) -> None:
    """The generated project's `make check coverage eval` passes as it comes, with its coverage gate."""
    output = run("make check coverage eval", project)
    assert re.search(r"\d+ passed", output)
    assert "pass: field-guide" in output


def test_readme_commands_work(project: Path) -> None:
    """The commands of the generated README work as they are written there."""
    tested = (project / "tested-set.txt").read_bytes()
    answer = run('make ask q="How do I add a model provider?"', project)
    assert "docs/howto/add-a-provider.md" in answer
    assert "documents read" in run(".venv/bin/app ingest README.md", project)
    assert "[1]" in run('.venv/bin/app ask "What does a circuit breaker do?"', project)
    assert "tested set" in run("make lock", project)
    assert "ABSTAIN_BELOW" in run("make tune", project)
    assert "make ask" in run("make", project)
    assert "unchanged" in run("make ingest", project)
    assert "offline/extractive" in run("make models", project)
    assert "ok" in run(".venv/bin/app models --check", project)
    assert "embedding" in run("make costs", project)
    assert "packages" in run("make tested-set", project)
    assert (project / "tested-set.txt").read_bytes() == tested


def test_pages_tenants_and_the_whole_api_hold(project: Path) -> None:
    """The page works in a real browser, tenants never meet, and no request that Schemathesis makes breaks the API."""
    assert re.search(r"\d+ passed", run("make test-browser", project))
    assert re.search(r"\d+ passed", run("make test-tenants OPERATIONS=2000", project))
    assert re.search(r"(\d+) generated, \1 passed", run("make test-api CASES=500 SEED=7", project))


@contextmanager
def serving(project: Path, **settings: str) -> Iterator[str]:
    """`make serve`, at the address given; it ends when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | settings | {"PORT": str(port)}
    server = subprocess.Popen(["make", "serve"], cwd=project, env=environment, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def test_make_serve_answers_over_http(project: Path) -> None:
    """`make serve` serves the documented API, and ends when it is told to."""
    with serving(project) as url:
        ask = f"curl --silent --retry 30 --retry-connrefused --retry-delay 1 {url}"
        assert '"ok"' in run(f"{ask}/livez", project)
        body = '{"question": "What does a circuit breaker do?"}'
        answer = json.loads(run(f"{ask}/v1/ask -H 'Content-Type: application/json' -d '{body}'", project))
        assert answer["citations"][0]["source"] == "corpus/fallback-and-circuit-breakers.md"


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js with npm")
def test_the_typescript_client_works_as_its_document_says(project: Path) -> None:
    """`make client`, the strict compiler on the document's program and the page's, and the former against a server."""
    run("make client", project)
    client, howto = project / "client", (project / "docs/howto/typescript-client.md").read_text(encoding="utf-8")
    (client / "example.ts").write_text(re.findall(r"```ts\n(.*?)```", howto, re.DOTALL)[0], encoding="utf-8")
    (client / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    run(f"npm install --no-package-lock --no-audit --no-fund {' '.join(TYPESCRIPT)}", client)
    run("npx tsc --strict --target es2022 --module nodenext --outDir out example.ts", client)
    run(f"npx tsc {PAGE_CHECK} ../app/api/static/*.js", client)
    secret = secrets.token_hex(32)
    key = run(f"API_KEY_SECRET={secret} .venv/bin/app keys create typescript 2>/dev/null", project).strip()
    with serving(project, API_KEY_SECRET=secret) as url:
        run(f"curl --silent --fail --retry 30 --retry-all-errors --retry-delay 1 {url}/readyz", project)
        program = f"import('./out/example.js').then(({{main}}) => main('{url}', '{key}'))"
        models, _, *citations, problem = run(f'node -e "{program}"', client).splitlines()
    assert models == "models: chat, documents, embedding"
    assert any(re.match(r"\[1\] corpus/bm25\.md: .*k1", citation) for citation in citations)
    assert problem == "404 not_found"
    assert run("git status --short client", project) == "", "what is generated is ignored"


def test_refuses_what_cannot_work(project: Path) -> None:
    """Bad input ends in one clear line and a non-zero exit, and leaves nothing half-written."""
    (project / "empty.md").touch()
    for command, message in {
        ".venv/bin/app ingest nowhere.md": "nowhere.md does not exist",
        ".venv/bin/app ingest empty.md": "is empty",
        "CHAT_MODEL=openai/gpt-5.4-mini .venv/bin/app ask hello": "set CHAT_API_KEY",
        "make migrate": "set DATABASE_URL",
        ".venv/bin/app cache measure --route ask --threshold 0.95 --pairs evals/datasets/same-question.jsonl": "off",
    }.items():
        assert message in run(f"{command}; test $? -ne 0", project)


def test_environment_has_no_start_up_files(project: Path) -> None:
    """No package brings a file that Python runs at every start, but for coverage's; the Dockerfile refuses the same."""
    packages = project / ".venv"
    found = {path.name for name in ("*.pth", "sitecustomize.py", "usercustomize.py") for path in packages.rglob(name)}
    assert found <= {"_virtualenv.pth", "_editable_impl_my_ai_app.pth", "a1_coverage.pth"}


def test_clean_removes_what_was_made(project: Path) -> None:
    """`make clean` takes away the environment and the built-in database."""
    copy = project.parent / "to-clean"
    shutil.copytree(project, copy, symlinks=True)
    run("make clean", copy)
    assert not (copy / ".venv").exists()
    assert not (copy / ".data").exists()


def test_template_lock_is_its_tested_set() -> None:
    """The template's own environment is the set it was tested with."""
    script = ROOT / "{{cookiecutter.project_slug}}" / "scripts" / "tested_set.py"
    assert "The lock is the tested set" in run(f"python3 '{script}' check", ROOT)
