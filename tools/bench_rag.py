"""How well retrieval finds, against bm25s, and how fast: `make bench-rag DATA=folder`. Prints tables; asserts nothing.

Ingests the collection as files through the application, into a Postgres of its own with the built-in server's
options, and asks the application's retriever. A document's rank is that of its best chunk. Without a folder it takes
the shipped corpus and its questions. Runs with the generated project's Python, in its folder.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from app.db.engine import Database, connect
from app.db.store import read_texts
from app.gateway.gateway import Gateway, open_gateway
from app.rag.ingest import Ingester
from app.rag.retrieval import Retriever
from app.settings import Settings, load_settings
from sqlalchemy import text

from tools.beir import (
    Collection,
    Run,
    Scores,
    paired_bootstrap,
    read_collection,
    read_field_guide,
    recombine,
    score,
    verdict,
    write_files,
)
from tools.bench_gateway import postgres
from tools.bench_peers import run_peer

GROWN = 5_000  # documents
EVERYTHING = 1_000_000  # characters: a document is one chunk
DEEP = 300  # candidates that have a hundred documents among them
ROW = "| {} | {} |".format
SIZES = text("""
    SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class
    WHERE relname IN ('documents', 'chunks', 'postings', 'embeddings') AND relkind = 'r'
    UNION ALL
    SELECT 'HNSW', coalesce(sum(pg_relation_size(c.oid)), 0)::bigint
    FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw'
""")
STOP_WORDS = text("""
    SELECT pg_read_file(setting || '/tsearch_data/english.stop') FROM pg_config WHERE name = 'SHAREDIR'
""")


class CountingGateway:
    """A gateway that counts the texts it embeds."""

    def __init__(self, gateway: Gateway) -> None:
        """`gateway` does the work."""
        self._gateway = gateway
        self.embedded = 0

    async def embed(self, texts: list[str], **options: Any) -> list[list[float]]:  # noqa: ANN401  # handed on
        """As the gateway's."""
        self.embedded += len(texts)
        vectors: list[list[float]] = await self._gateway.embed(texts, **options)
        return vectors

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the gateway has
        """Everything else is the gateway's own."""
        return getattr(self._gateway, name)


@dataclass(frozen=True)
class Bench:
    """The parts of the application, and one collection stored twice: in chunks as set, and each document whole."""

    collection: Collection
    database: Database
    gateway: CountingGateway
    settings: Settings

    @property
    def whole(self) -> Database:
        """Where documents are stored whole."""
        return self.database.for_tenant("whole")

    async def ingest(self, database: Database, settings: Settings) -> tuple[Any, float]:
        """Bring the store up to date with the collection's files; the report, and seconds by the clock."""
        began = time.perf_counter()
        async with Ingester(database, self.gateway, settings) as ingester:
            report = await ingester.ingest_files(list(self.collection.files.values()))
        return report, time.perf_counter() - began

    async def grow(self, documents: int, work: Path) -> None:
        """Store made texts beside the collection's, until there are so many documents."""
        async with self.database.transaction() as connection:
            stored = await read_texts(connection, self.database.tenant)
        made = islice(recombine(list(stored.values())), max(0, documents - len(stored)))
        files = write_files({str(number): text for number, text in enumerate(made)}, work / "made")
        async with Ingester(self.database, self.gateway, self.settings) as ingester:
            await ingester.ingest_files(list(files.values()))

    async def retrieve(self, database: Database, **changed: object) -> Run:
        """The documents that retrieval finds for each query, as many as the candidates hold."""
        settings = self.settings.model_copy(update=changed)
        settings = settings.model_copy(update={"passages": settings.candidates})
        retriever = Retriever(database, self.gateway, settings)
        names = {_source(file): name for name, file in self.collection.files.items()}
        run = {}
        for query, question in self.collection.queries.items():
            passages = await retriever.retrieve(question)
            run[query] = list(dict.fromkeys(names[passage.source] for passage in passages))
        return run

    async def score(self, database: Database, **changed: object) -> Scores:
        """The metrics with the candidates that are set; recall@100 with as many as it takes."""
        shallow = score(await self.retrieve(database, **changed), self.collection.judgements)
        deep = score(await self.retrieve(database, **changed, candidates=DEEP), self.collection.judgements)
        return shallow | {"recall@100": deep["recall@100"]}


def _source(file: Path) -> str:
    """The source of a file's document: its path, relative where it lies below the working directory."""
    absolute = file.resolve()
    return (absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute).as_posix()


async def measure(folder: Path | None, url: str, work: Path) -> None:
    """Ingest, retrieve, score and print."""
    collection = read_collection(folder, work / "documents") if folder else read_field_guide(Path.cwd())
    async with AsyncExitStack() as stack:
        settings = load_settings(database_url=url)
        database = await stack.enter_async_context(connect(url))
        gateway = await stack.enter_async_context(open_gateway(settings, database))
        await gateway.embed(["The first call loads the model."])
        bench = Bench(collection, database, CountingGateway(gateway), settings)
        print(f"{folder.name if folder else 'shipped corpus'}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores,")
        print(f"Python {sys.version.split()[0]}, {settings.embedding.model}, {len(collection.queries)} queries\n")
        await print_ingest(bench)
        await print_latency(bench)
        await bench.ingest(bench.whole, settings.model_copy(update={"chunk_characters": EVERYTHING}))
        await print_quality(bench, work)
        await bench.grow(GROWN, work)
        print(f"\nwith made texts beside them, {GROWN:,} documents:")
        await print_latency(bench)


async def print_ingest(bench: Bench) -> None:
    """How fast the collection is stored, how large it is, and what a second time costs."""
    report, seconds = await bench.ingest(bench.database, bench.settings)
    documents = len(report.added)
    print(ROW("figure", "measured") + "\n|---|---|")
    print(ROW("documents stored", f"{documents:,} in {report.chunks:,} chunks, {documents / seconds:.0f} a second"))
    for source, reason in report.skipped[:5]:
        print(ROW("left out", f"{source}: {reason}"))
    if len(report.skipped) > 5:  # noqa: PLR2004  # enough to see what it is
        print(ROW("left out in all", len(report.skipped)))
    before = bench.gateway.embedded
    again, seconds = await bench.ingest(bench.database, bench.settings)
    thousand = f"{1000 * seconds / len(bench.collection.files):.2f} s for 1,000 documents"
    print(ROW("the same again", f"{thousand}, {bench.gateway.embedded - before} embeddings, {len(again.added)} stored"))
    async with bench.database.engine.begin() as connection:
        sizes = {row.name: f"{row.name} {row.bytes / 1e6:.1f}" for row in await connection.execute(SIZES)}
    print(ROW("MB with indexes (HNSW is a part of embeddings)", ", ".join(sizes.values())), flush=True)


async def print_latency(bench: Bench) -> None:
    """What one question after the other waits for its passages, with the embedding of the question."""
    retriever = Retriever(bench.database, bench.gateway, bench.settings)
    questions = list(bench.collection.queries.values())
    await milliseconds(retriever, questions[:50])
    print(ROW("a query, p50 and p95", quantiles(await milliseconds(retriever, questions))) + "\n", flush=True)


async def milliseconds(retriever: Retriever, questions: Sequence[str]) -> list[float]:
    """How long each question took."""
    times = []
    for question in questions:
        began = time.perf_counter()
        await retriever.retrieve(question)
        times.append(1000 * (time.perf_counter() - began))
    return times


def quantiles(times: Sequence[float]) -> str:
    """The median and the time that one in twenty exceeds, in milliseconds."""
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return f"{cuts[9]:.1f} ms, {cuts[18]:.1f} ms"


async def print_quality(bench: Bench, work: Path) -> None:
    """A row for bm25s and one for each way to retrieve, with the difference of their nDCG@10."""
    async with bench.database.transaction() as connection:
        stored = await read_texts(connection, bench.database.tenant)
    async with bench.database.engine.begin() as connection:
        stop_words = str(await connection.scalar(STOP_WORDS)).split()
    texts = {name: stored[_source(file)] for name, file in bench.collection.files.items() if _source(file) in stored}
    runs = rank_with_bm25s(texts, bench.collection.queries, stop_words, work)
    base, same_words = (score(run, bench.collection.judgements) for run in runs)
    print("| retrieval | " + " | ".join(base) + " | nDCG@10 less that of bm25s, 95 % interval |")
    print("|---|---|---|---|---|---|")
    print(row("bm25s, whole documents", base, ""))
    print(row("bm25s with the stop words of Postgres", same_words, compared(same_words, base)), flush=True)
    hybrid = f"hybrid as set ({bench.settings.fusion}, vectors {bench.settings.dense_weight})"
    for name, database, changed in (
        ("BM25, whole documents", bench.whole, {"dense_weight": 0.0, "fusion": "weighted"}),
        ("BM25, chunks", bench.database, {"dense_weight": 0.0, "fusion": "weighted"}),
        ("vectors, chunks", bench.database, {"dense_weight": 1.0, "fusion": "weighted"}),
        ("reciprocal rank fusion", bench.database, {"fusion": "rrf"}),
        (hybrid, bench.database, {}),
    ):
        scores = await bench.score(database, **changed)
        print(row(name, scores, compared(scores, base)), flush=True)


def row(name: str, scores: Scores, difference: str) -> str:
    """A line of the table."""
    means = " | ".join(f"{statistics.fmean(values):.3f}" for values in scores.values())
    return f"| {name} | {means} | {difference} |"


def compared(scores: Scores, base: Scores) -> str:
    """The interval of the difference and what it says."""
    low, high = paired_bootstrap(scores["nDCG@10"], base["nDCG@10"])
    difference = statistics.fmean(scores["nDCG@10"]) - statistics.fmean(base["nDCG@10"])
    return f"{difference:+.3f} ({low:+.3f} to {high:+.3f}): {verdict((low, high))}"


def rank_with_bm25s(
    texts: Mapping[str, str], queries: Mapping[str, str], stop_words: Sequence[str], work: Path
) -> list[Run]:
    """What bm25s finds in the same texts, each whole: with its own stop words, and with those given."""
    for name, given in (("texts", texts), ("queries", queries), ("stop_words", stop_words)):
        (work / f"{name}.json").write_text(json.dumps(given), encoding="utf-8")
    runs: list[Run] = run_peer("bm25s", work)
    return runs


def main() -> None:
    """Measure on the folder named by the first argument, or on what is shipped."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else None
    with tempfile.TemporaryDirectory() as work, postgres() as url:
        asyncio.run(measure(folder, url, Path(work)))


if __name__ == "__main__":
    main()
