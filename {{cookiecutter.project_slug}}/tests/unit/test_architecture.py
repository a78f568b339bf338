"""The rules that keep the tree readable: who may import what, and what importing must not cost."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROJECT

APP = PROJECT / "app"
SOURCES = sorted(APP.rglob("*.py"))
# What may import each library; a folder stands for everything below it.
OWNERS = {
    "litellm": {"app/gateway/litellm_adapter.py"},
    "wordllama": {"app/gateway/offline.py"},
    "onnxruntime": {"app/gateway/minilm.py", "app/rag/cross_encoder.py"},
    "tokenizers": {"app/gateway/minilm.py", "app/rag/cross_encoder.py"},
    "huggingface_hub": {"app/rag/cross_encoder.py"},
    "httpx": {"app/rag/fetch.py", "app/rag/cross_encoder.py"},
    "pydantic_settings": {"app/settings.py"},
    "sqlalchemy": {"app/db"},
    "alembic": {"app/db"},
    "procrastinate": {"app/jobs", "app/db/migrations"},
    "psycopg": {"app/db"},
    "pgvector": {"app/db"},
    "fastapi": {"app/api"},
    "starlette": {"app/api"},
    "uvicorn": {"app/api/serving.py"},
    "typer": {"app/cli.py", "app/commands"},
}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
SET_BEFORE_IMPORT = {
    "app/gateway/litellm_adapter.py": {
        *("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_MODE", "LITELLM_DISABLE_REDACT_SECRETS"),
        "REPEATED_STREAMING_CHUNK_LIMIT",
    }
}
# What sees the rows of every tenant, and why.
ACROSS_TENANTS = {
    "app/api/security.py": "whose key it is has to be found out",
    "app/commands/costs.py": "an operator's report",
    "app/commands/keys.py": "an operator gives keys to tenants",
    "app/commands/serve.py": "an index is made where any tenant has many vectors",
    "app/gateway/ledger.py": "a batch holds the calls of several",
    "app/gateway/semantic_cache.py": "switches a route off, and forgets its answers",
    "app/jobs/tasks/upkeep.py": "removes what is old",
}
MOST_CPU_SECONDS = 2
# Runs in a process of its own, since this one has imported everything already.
IMPORT = """
import importlib, json, sys, time
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event.startswith("socket.") else None)
began = time.process_time()
importlib.import_module(sys.argv[1])
print(json.dumps([time.process_time() - began, opened, sorted(sys.modules)]))
"""


def _name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[str]:
    """Every imported module, wherever in the file the import stands."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _importers(library: str) -> set[str]:
    return {_name(path) for path in SOURCES if any(name.partition(".")[0] == library for name in _imports(path))}


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owner_alone(library: str) -> None:
    """Each of these libraries has one place, so that it can be exchanged there."""
    importers = _importers(library)
    assert importers, f"nobody imports {library} any more: remove the rule"
    allowed = OWNERS[library]
    assert {name for name in importers if not any(name == a or name.startswith(f"{a}/") for a in allowed)} == set()


def _environment_uses(path: Path) -> Iterator[str]:
    """The name of each variable that is set, `removed` for one that is, and `read` for any other use."""
    nodes = list(ast.walk(_tree(path)))
    assigned = {id(n.value): n.slice for n in nodes if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store)}
    removed = {id(n.value) for n in nodes if isinstance(n, ast.Attribute) and n.attr == "pop"}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            other = "removed" if id(node) in removed else "read"
            yield ast.literal_eval(assigned[id(node)]) if id(node) in assigned else other
        elif isinstance(node, ast.ImportFrom) and node.module == "os" and {a.name for a in node.names} & ENVIRONMENT:
            yield "read"


def test_only_the_settings_read_the_environment() -> None:
    """Nobody else asks for a variable; the litellm adapter sets some before the import, and reads none."""
    uses = {_name(path): set(_environment_uses(path)) for path in SOURCES}
    uses.pop("app/settings.py")
    assert {name: what for name, what in uses.items() if what} == SET_BEFORE_IMPORT


def test_who_sees_every_tenant_is_named() -> None:
    """Anything else works for one tenant, and cannot reach another's rows by mistake."""
    asked = {_name(path) for path in SOURCES for node in ast.walk(_tree(path)) if _is_across(node)}
    assert asked == ACROSS_TENANTS.keys()


def _is_across(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "across_tenants"


def test_types_and_errors_know_nobody() -> None:
    """What every step shares imports nothing of the application."""
    for name in ("types", "errors"):
        assert [i for i in _imports(APP / f"{name}.py") if i.startswith("app")] == []


def test_no_python_file_holds_a_template() -> None:
    """The package is the same in every project, so no `.py` file needs to be rendered."""
    marks = ["{" + sign for sign in ("{", "%", "#")]
    files = [path for folder in ("app", "tests", "scripts") for path in (PROJECT / folder).rglob("*.py")]
    assert [_name(path) for path in files if any(mark in path.read_text(encoding="utf-8") for mark in marks)] == []


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for bytecode, so that it is made once."""
    return str(tmp_path_factory.mktemp("bytecode"))


@pytest.fixture(scope="module", params=["app.api.main", "app.cli"])
def imported(request: pytest.FixtureRequest, bytecode: str) -> tuple[float, list[str], set[str]]:
    """CPU seconds, sockets and modules of an import in a fresh process, bytecode made before."""
    child = [sys.executable, "-c", IMPORT, request.param]
    environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(2):
        done = subprocess.run(child, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True)
    seconds, opened, modules = json.loads(done.stdout)
    return seconds, opened, set(modules)


def test_starting_loads_no_model_library(imported: tuple[float, list[str], set[str]]) -> None:
    """The provider library and the embedding model are imported when they are first used."""
    assert (
        imported[2] & {"litellm", "openai", "wordllama", "onnxruntime", "tokenizers", "alembic", "pydantic_evals"}
        == set()
    )
    assert "app.gateway.litellm_adapter" in imported[2]
    assert not {"fastapi", "app.cli"} <= imported[2], "only `app serve` needs the server"


def test_starting_opens_no_socket(imported: tuple[float, list[str], set[str]]) -> None:
    """Nothing is connected to, and no name is looked up, before the application or a command starts."""
    assert imported[1] == []


def test_starting_is_quick(imported: tuple[float, list[str], set[str]]) -> None:
    """The import of the API, and of the command line, stays below two CPU seconds."""
    assert imported[0] < MOST_CPU_SECONDS
