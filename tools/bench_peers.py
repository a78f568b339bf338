"""How fast documents are ingested, against other libraries: `make bench-ingest DATA=folder`. Prints; asserts nothing.

Each library runs in an environment and a process of its own, with the same static vectors and chunks of about the
same size, and leaves its index on disk. Rounds go through all of them in turn, so that what else the machine does
slows each. Imports, loading the model and starting Postgres are not counted. Runs with the generated project's Python.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from app.db.engine import connect
from app.gateway.gateway import open_gateway
from app.rag.ingest import Ingester
from app.settings import load_settings
from sqlalchemy import text

from tools.beir import read_field_guide, read_texts, write_files
from tools.bench_gateway import postgres
from tools.peers import PEERS, PINS

ROUNDS = 5
DOCUMENTS = 1_000
ENVIRONMENTS = Path(__file__).parent.parent / "build" / "peers"
OURS = {
    "this project, each commit on disk": {"PGOPTIONS": "-c synchronous_commit=on"},
    "this project, chunks of 600": {"CHUNK_CHARACTERS": "600"},
    "this project as set": {},
}


def environment(name: str) -> Path:
    """The Python of a library's own environment, made by the first call."""
    folder = ENVIRONMENTS / name
    made = folder / "made"
    if not made.exists() or made.read_text(encoding="utf-8") != "\n".join(PINS[name]):
        print(f"Installing {', '.join(PINS[name])} ...", file=sys.stderr)
        _uv("venv", "--clear", "--python", sys.executable, str(folder))
        # Copies: llama-index refuses to read its own files where they are hard links.
        _uv("pip", "install", "--link-mode", "copy", "--python", str(folder / "bin" / "python"), *PINS[name])
        made.write_text("\n".join(PINS[name]), encoding="utf-8")
    return folder / "bin" / "python"


def _uv(*arguments: str) -> None:
    subprocess.run(["uv", "--quiet", *arguments], check=True)  # noqa: S603, S607  # found on the Makefile's PATH


def run_peer(name: str, folder: Path) -> Any:  # noqa: ANN401  # JSON
    """What a library made of the folder's texts."""
    script = Path(__file__).with_name("peers.py")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(environment(name)), str(script), name, str(folder)]
    done = subprocess.run(command, env=clean, stdout=subprocess.PIPE, check=True)  # noqa: S603  # our own script
    return json.loads(done.stdout.splitlines()[-1])


class CpuClock:
    """CPU seconds of this process and the database server's, each with its children, those that ended too."""

    def __init__(self, backend_pid: int) -> None:
        """`backend_pid` is of one of the server's processes."""
        server = psutil.Process(backend_pid).parent()
        assert server is not None  # noqa: S101  # a backend has a parent
        self._roots = [psutil.Process(), server]

    def seconds(self) -> float:
        """What was used so far."""
        processes = [process for root in self._roots for process in (root, *root.children(recursive=True))]
        return sum(sum(process.cpu_times()[:4]) for process in processes)


async def ingest(files: list[Path], url: str) -> dict[str, float]:
    """Store the files with the application; the figures that the other libraries give."""
    settings = load_settings(database_url=url)
    async with connect(url) as database, open_gateway(settings, database) as gateway:
        await gateway.embed(["The first call loads the model."])
        async with database.transaction() as connection:
            clock = CpuClock(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)
        wall, cpu = time.perf_counter(), clock.seconds()
        async with Ingester(database, gateway, settings) as ingester:
            report = await ingester.ingest_files(files)
        assert len(report.added) == len(files), report.skipped  # noqa: S101  # or the figures mean nothing
        return {"chunks": report.chunks, "wall": time.perf_counter() - wall, "cpu": clock.seconds() - cpu}


def measure_ours(folder: Path) -> dict[str, float]:
    """In a process of its own, on a new database; the settings come from the environment."""
    with postgres() as url:
        return asyncio.run(ingest(sorted((folder / "documents").iterdir()), url))


def run_ours(folder: Path, changed: Mapping[str, str]) -> Any:  # noqa: ANN401  # JSON
    """The same in a child process, as the others run."""
    command = [sys.executable, "-m", "tools.bench_peers", "--ours", str(folder)]
    done = subprocess.run(command, env=os.environ | changed, stdout=subprocess.PIPE, check=True)  # noqa: S603  # ours
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path) -> dict[str, list[dict[str, float]]]:
    """So many rounds of all of them, each on a folder without an index."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in (*PEERS, *OURS)}
    for _ in range(ROUNDS):
        for name, rounds in figures.items():
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                for part in ("texts.json", "documents"):
                    (Path(fresh) / part).symlink_to(folder / part)
                rounds.append(run_ours(Path(fresh), OURS[name]) if name in OURS else run_peer(name, Path(fresh)))
            print(".", end="", file=sys.stderr, flush=True)
    return figures


def print_table(figures: Mapping[str, list[dict[str, float]]], documents: int) -> None:
    """Documents a second, and how many times as fast ours was in the same round, lowest to highest."""
    print("| library | chunks | documents a second | of CPU | this project as set is faster by | lowest to highest |")
    print("|---|---|---|---|---|---|")
    base = [rounds["wall"] for rounds in figures[list(OURS)[-1]]]
    for name, rounds in figures.items():
        wall, cpu = (documents / statistics.median(r[kind] for r in rounds) for kind in ("wall", "cpu"))
        ratios = sorted(r["wall"] / ours for r, ours in zip(rounds, base, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        chunks = f"{rounds[0]['chunks']:,.0f}"
        print(f"| {name} | {chunks} | {wall:.0f} | {cpu:.0f} | {statistics.median(ratios):.2f} | {spread} |")


def main() -> None:
    """Measure on the first documents of a folder, or on the shipped corpus."""
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(measure_ours(Path(sys.argv[2]))))
        return
    if sys.argv[1:]:
        texts = read_texts(Path(sys.argv[1]), DOCUMENTS)
    else:
        shipped = read_field_guide(Path.cwd()).files
        texts = {name: file.read_text("utf-8") for name, file in shipped.items() if file.suffix == ".md"}
    for name in PEERS:
        environment(name)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        write_files(texts, folder / "documents")
        print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {len(texts):,} documents, {ROUNDS} rounds\n")
        print_table(measure(folder), len(texts))


if __name__ == "__main__":
    main()
