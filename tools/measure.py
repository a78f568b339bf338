"""The figures of docs/performance.md: `make measure`. Prints a table; asserts nothing.

From nothing means an empty package cache; cached means that the same packages were installed once before.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tools.render import render  # noqa: E402  # run as a script

QUESTION = "What does a circuit breaker do?"
IMPORT = "import time; t = time.process_time(); import app.api.main; print(time.process_time() - t)"
DROPPED = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "PYTHONDONTWRITEBYTECODE")


def seconds(command: list[str], folder: Path, **environment: str) -> float:
    """Wall time of a command; its output is shown where it fails."""
    clean = {name: value for name, value in os.environ.items() if name not in DROPPED} | environment
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)  # noqa: S603  # our own commands
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - began


def first_answer(folder: Path, cache: Path) -> float:
    """Seconds from the render to the first cited answer, with packages from `cache`."""
    os.environ["UV_CACHE_DIR"] = str(cache)
    began = time.monotonic()
    project = render(folder)
    seconds(["make", "ask", f"q={QUESTION}"], project)
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    row = "| {} | {} |".format
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    print(row("figure", "measured"))
    print("|---|---|")
    work = Path(tempfile.mkdtemp())
    cache = work / "cache"
    os.environ["COOKIECUTTER_AI_APP_NO_LOCK"] = "1"
    began = time.monotonic()
    project = render(work / "render")
    print(row("render of the default project, lock not counted", f"{time.monotonic() - began:.1f} s"))
    files = [file.relative_to(project) for file in project.rglob("*") if file.is_file()]
    files = [file for file in files if file.parts[0] != ".git"]
    beside = [file for file in files if file.parts[0] != "corpus"]
    print(row("files in all; beside the corpus", f"{len(files)}; {len(beside)}"))
    sources = [project / file for file in files if file.parts[0] == "app" and file.suffix == ".py"]
    print(row("files of `app/`; lines with blanks, comments, docstrings", f"{len(sources)}; {_lines(sources)}"))
    del os.environ["COOKIECUTTER_AI_APP_NO_LOCK"]
    print(row("from nothing to the first cited answer", f"{first_answer(work / 'cold', cache):.0f} s"), flush=True)
    print(row("the same with cached packages", f"{first_answer(work / 'warm', cache):.1f} s"), flush=True)
    project = work / "warm" / "my-ai-app"
    print(row("another question", f"{seconds(['make', 'ask', f'q={QUESTION}'], project):.1f} s"))
    seconds(["make", "check"], project)
    seconds(["make", "test"], project)
    print(row("`make test`, warm", f"{seconds(['make', 'test'], project):.0f} s"), flush=True)
    print(row("`make eval`, warm", f"{seconds(['make', 'eval'], project):.0f} s"))
    python = project / ".venv" / "bin" / "python"
    imported = subprocess.run([python, "-c", IMPORT], cwd=project, capture_output=True, text=True, check=True)  # noqa: S603  # our own command
    print(row("`import app.api.main`", f"{float(imported.stdout):.2f} CPU s"))
    shutil.rmtree(work)


def _lines(files: list[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


if __name__ == "__main__":
    main()
