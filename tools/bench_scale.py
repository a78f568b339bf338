"""What grows with the number of chunks: `make bench-scale DATA=folder`. Prints a table; asserts nothing.

The store grows through the application's own ingest, the upkeep after it included, and is measured at each size.
Texts are made of the collection's: sentences of two documents, some words exchanged. The questions are the
collection's own. Runs with the generated project's Python, in its folder.
"""

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from app.db.engine import Database, connect
from app.db.search import EXACT_BELOW, Search
from app.gateway.gateway import Gateway, open_gateway
from app.rag.ingest import Ingester
from app.rag.retrieval import Retriever
from app.settings import Settings, load_settings
from sqlalchemy import text

from tools.beir import read_collection, read_field_guide, recombine, write_files
from tools.bench_gateway import postgres
from tools.bench_rag import SIZES, milliseconds, quantiles

CHUNKS = (1_000, 3_000, 10_000, 30_000, 100_000)
NEARLY = 0.98
CHUNKS_OF_A_DOCUMENT = 10  # a guess for the first step, more than it will be
QUESTIONS = 200
NEAREST = 10
SAME = 1e-6  # similarities this close are a tie
COLUMNS = (
    *("chunks", "documents", "documents a second", "HNSW, MB", "all tables, MB", "a query: p50, p95"),
    *("recall@10 of the index", "nearest by the index: p50, ms", "nearest of all: p50, ms"),
)
BUILD_MEMORY = ("64MB", "512MB")
LARGEST_HNSW = text("""
    SELECT c.relname FROM pg_class c JOIN pg_am a ON a.oid = c.relam
    WHERE a.amname = 'hnsw' ORDER BY pg_relation_size(c.oid) DESC LIMIT 1
""")


class Store:
    """A store that grows, and what is asked of it."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings, work: Path) -> None:
        """`work` is where the texts become files on their way."""
        self.database, self.gateway, self.settings, self.work = database, gateway, settings, work
        self.documents = self.chunks = 0

    async def grow(self, to: int, texts: Iterator[str]) -> float:
        """Ingest texts until there are about so many chunks, nearly all of them in one go; documents a second."""
        before, seconds = self.documents, 0.0
        async with Ingester(self.database, self.gateway, self.settings) as ingester:
            while self.chunks < NEARLY * to:
                missing = (to - self.chunks) * (self.documents or 1) / (self.chunks or CHUNKS_OF_A_DOCUMENT)
                named = {str(n): made for n, made in enumerate(islice(texts, int(missing)))}
                files = list(write_files(named, self.work / f"from-{self.documents}").values())
                began = time.perf_counter()
                report = await ingester.ingest_files(files)
                seconds += time.perf_counter() - began
                self.documents += len(report.added)
                self.chunks += report.chunks
                shutil.rmtree(files[0].parent)
                print(f"{self.chunks:,} chunks", file=sys.stderr, flush=True)
        return (self.documents - before) / seconds

    async def sizes(self) -> str:
        """Megabytes of the vectors' index, and of everything."""
        async with self.database.engine.connect() as connection:
            sizes = {row.name: row.bytes / 1e6 for row in await connection.execute(SIZES)}
        index = sizes.pop("HNSW")
        return f"{index:.0f} | {sum(sizes.values()):.0f}"

    async def recall(self, vectors: Sequence[Sequence[float]]) -> str:
        """Share of the nearest that the index finds; the median milliseconds with it, and reading every vector."""
        found, approximate = await self._nearest(vectors, among=self.chunks)
        wanted, exact = await self._nearest(vectors, among=0)
        share = f"{statistics.fmean(map(share_found, found, wanted)):.3f}"
        return f"{share} | {approximate:.1f} | {exact:.1f}" if self.chunks >= EXACT_BELOW else f"- | - | {exact:.1f}"

    async def _nearest(self, vectors: Sequence[Sequence[float]], *, among: int) -> tuple[list[dict[int, float]], float]:
        """What the application's search finds for each vector among so many, and the median of its milliseconds."""
        found, times = [], []
        async with self.database.transaction() as connection:
            search = Search(connection, self.database.tenant)
            stamp = await search.stamp(self.settings.embedding.model)
            for vector in vectors:
                began = time.perf_counter()
                found.append(await search.dense(stamp, vector, self.settings.candidates, among=among))
                times.append(1000 * (time.perf_counter() - began))
        return found, statistics.median(times)


def share_found(found: dict[int, float], wanted: dict[int, float]) -> float:
    """Share of the ten nearest that were found; one as near as the tenth is as good."""
    best = sorted(wanted.values(), reverse=True)[:NEAREST]
    near = [score for score in sorted(found.values(), reverse=True)[:NEAREST] if score >= best[-1] - SAME]
    return len(near) / len(best)


async def measure(texts: Sequence[str], questions: Sequence[str], url: str, work: Path) -> None:
    """Print a row for each size as it is reached."""
    settings = load_settings(database_url=url)
    made = recombine(texts)
    async with connect(url) as database, open_gateway(settings, database) as gateway:
        vectors = [(await gateway.embed([question]))[0] for question in questions]
        grown, retriever = Store(database, gateway, settings, work), Retriever(database, gateway, settings)
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
        for size in CHUNKS:
            rate = await grown.grow(size, made)
            sizes = await grown.sizes()
            await milliseconds(retriever, questions)  # fills the caches, as the questions before would have
            times = quantiles(await milliseconds(retriever, questions))
            row = f"| {grown.chunks:,} | {grown.documents:,} | {rate:.0f} | {sizes} | {times} |"
            print(f"{row} {await grown.recall(vectors)} |", flush=True)
        await print_rebuilds(database)


async def print_rebuilds(database: Database) -> None:
    """How long the index of the vectors takes when it is built at once, by the memory it may use."""
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        index = await connection.scalar(LARGEST_HNSW)
        if index is None:
            return
        for memory in BUILD_MEMORY:
            await connection.execute(text(f"SET maintenance_work_mem = '{memory}'"))
            began = time.perf_counter()
            await connection.execute(text(f"REINDEX INDEX {index}"))
            print(f"\n{index} built at once with {memory}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Grow from the folder named by the first argument, or from what is shipped."""
    with tempfile.TemporaryDirectory() as folder, postgres() as url:
        work = Path(folder)
        given = read_collection(Path(sys.argv[1]), work / "given") if sys.argv[1:] else read_field_guide(Path.cwd())
        texts = [file.read_text(encoding="utf-8") for file in given.files.values() if file.suffix == ".md"]
        questions = list(islice(given.queries.values(), QUESTIONS))
        print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {len(questions)} questions\n")
        asyncio.run(measure(texts, questions, url, work))


if __name__ == "__main__":
    main()
