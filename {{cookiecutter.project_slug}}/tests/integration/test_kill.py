"""`kill -9` of a process that ingests, at any moment: the next run leaves each document once, whole, as a clean run.

`make test` kills a few times; the template's `make kill-ingest` twenty times over two thousand documents.
"""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from pydantic import SecretStr

from app.db.engine import Database, connect
from app.db.verify import verify
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.rag.sources import find_files
from app.settings import Settings
from tests.conftest import EVERY_TABLE, PROJECT

PATIENCE_SECONDS = 300
LOOK_SECONDS = 0.005
ANIMALS = ("heron", "otter", "badger", "lynx", "crane", "viper", "newt")
# Every table at once, so that the two runs can be compared: what is stored, and not under which number.
STORED = """
    SELECT d.source, d.content_hash, d.chunk_count, d.term_count,
        (SELECT string_agg(c.ordinal || c.content_hash, ' ' ORDER BY c.ordinal)
            FROM chunks c WHERE c.document_id = d.id),
        (SELECT count(*) FROM embeddings e JOIN chunks c ON c.id = e.chunk_id WHERE c.document_id = d.id),
        (SELECT md5(string_agg(p.term || p.frequency, ' ' ORDER BY c.ordinal, p.term))
            FROM postings p JOIN chunks c ON c.id = p.chunk_id WHERE c.document_id = d.id)
    FROM documents d ORDER BY d.source
"""
ORPHANS = """
    SELECT (SELECT count(*) FROM chunks WHERE document_id NOT IN (SELECT id FROM documents))
        + (SELECT count(*) FROM postings WHERE chunk_id NOT IN (SELECT id FROM chunks))
        + (SELECT count(*) FROM embeddings WHERE chunk_id NOT IN (SELECT id FROM chunks))
"""


@dataclass
class Killed:
    """How it went: documents and chunks at the end, how many documents each killed run left, and what was wrong."""

    documents: int = 0
    chunks: int = 0
    left: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def kill_ingest(
    url: str, folder: Path, *, documents: int, kills: int, seed: int = 0, say: Callable[[str], None] = lambda _: None
) -> Killed:
    """Ingest the same documents once in peace and once with kills; report what differs. Empties the database.

    Half-way some documents change, so that not only additions are interrupted.
    """
    dice = random.Random(seed)  # noqa: S311  # moments to kill at, no secret
    _write(folder, documents, edition=1)
    asyncio.run(_ingest(url, folder))
    wanted = _query(url, STORED)
    chunks = sum(int(str(row[2])) for row in wanted)
    _query(url, f"TRUNCATE {', '.join(EVERY_TABLE)} CASCADE")

    report = Killed()
    _write(folder, documents, edition=0)
    for number in range(kills):
        if number == kills // 2:
            _write(folder, documents, edition=1)
        _kill(url, folder, after_chunks=int(dice.uniform(0, 1) * chunks / kills))
        [[left]] = _query(url, "SELECT count(*) FROM documents")
        report.left.append(int(str(left)))
        say(f"killed: {left} documents are stored")
        report.faults += [f"{n} orphans after kill {number + 1}" for [n] in _query(url, ORPHANS) if n]
    assert _app(url, folder).wait(PATIENCE_SECONDS) == 0, "the last run failed"
    stored = _query(url, STORED)
    report.documents, report.chunks = len(stored), chunks
    if stored != wanted:
        report.faults.append(f"{len(set(stored) ^ set(wanted))} documents differ from a clean run")
    report.faults += asyncio.run(_verify(url))
    return report


def _write(folder: Path, documents: int, edition: int) -> None:
    """Documents of one to six chunks; of every tenth there is another edition."""
    for n in range(documents):
        dice = random.Random(n)  # noqa: S311  # text, no secret
        sections = (
            f"## Section {s}\n\n" + " ".join(f"The {dice.choice(ANIMALS)} of {n} was seen." for _ in range(20))
            for s in range(1 + n % 6)
        )
        changed = f"\n\nEdition {edition}." if n % 10 == 0 else ""
        (folder / f"{n}.md").write_text(f"# Document {n}\n\n" + "\n\n".join(sections) + changed)


def _app(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """The command line, ingesting the folder."""
    environment = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "app", "ingest", "."]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(url: str, folder: Path, after_chunks: int) -> None:
    """Ingest, and kill it when it has begun to write so many chunks: a sequence counts what is not committed too."""
    written = "SELECT coalesce(max(last_value), 0) FROM pg_sequences WHERE sequencename = 'chunks_id_seq'"
    busy = """
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()
    """
    with psycopg.connect(url, autocommit=True) as watching, _app(url, folder) as process:
        [before] = watching.execute(written).fetchone() or (0,)
        while (watching.execute(written).fetchone() or (0,))[0] <= before + after_chunks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                break
        process.kill()
        process.wait()
        while watching.execute(busy).fetchone():  # the server has to notice, and undo what was not committed
            pass


async def _ingest(url: str, folder: Path) -> None:
    settings = Settings(database_url=SecretStr(url))
    async with connect(url) as database, Ingester(database, Gateway(settings), settings) as ingester:
        with contextlib.chdir(folder):
            await ingester.ingest_files(find_files([Path()]))


async def _verify(url: str) -> list[str]:
    async with connect(url) as database:
        return [f"{check.faults} faults: {check.name}" for check in await verify(database) if check.faults]


def _query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_a_killed_ingest_leaves_no_trace(owner: Database, database_url: str, tmp_path: Path) -> None:
    """Each document is there once, its chunks are those of a clean run, and verify finds nothing."""
    assert owner
    report = kill_ingest(database_url, tmp_path, documents=150, kills=2, seed=7)
    assert report.faults == []
    assert report.documents == 150
