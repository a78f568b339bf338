"""Documents into a real Postgres and found again: all of a document or nothing of it, and each tenant's apart."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from math import log
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError

from app.db import search, store
from app.db.engine import Database
from app.errors import IndexMismatch, NoDocuments
from app.gateway.gateway import Gateway
from app.rag.chunking import split
from app.rag.ingest import Ingester, IngestReport
from app.rag.loaders import load_bytes
from app.rag.retrieval import Retriever
from app.settings import Settings
from app.types import Chunk, Document, Passage

GUIDE = "\n\n".join(
    f"## Part {n}\n\nThe {animal} of part {n} likes {food}, and {food} only. " + "Nothing else is said here. " * (n % 5)
    for n, (animal, food) in enumerate(
        (animal, food) for animal in ("heron", "otter", "badger", "lynx") for food in ("trout", "berries", "roots")
    )
)
BAD_FILES = {
    "empty.md": (b"", "empty.md is empty"),
    "zero.pdf": (b"", "zero.pdf is empty"),
    "damaged.pdf": (b"%PDF-1.7\n1 0 obj", "the PDF cannot be read"),
    "binary.md": (b"\x7fELF\x00\x01", "neither PDF nor UTF-8 text"),
    "letter.docx": (b"PK\x03\x04\x14\x00", "neither PDF nor UTF-8 text"),
    "picture.png": (b"\x89PNG\r\n\x1a\n\x00", "neither PDF nor UTF-8 text"),
    "large.txt": (b"x" * 2_001, "MAX_DOCUMENT_BYTES allows"),
    "bad\udcff.md": (b"text", "is not valid Unicode"),
}
TABLES = ("documents", "chunks", "postings", "index_stamps")


def loaded(content: str, source: str = "guide.md") -> Document:
    """A document as the loader gives it."""
    return load_bytes(content.encode(), source=source, max_bytes=1_000_000)


async def ingest(ingester: Ingester, *documents: Document) -> IngestReport:
    """Store documents, one after the other."""
    report = IngestReport()
    for document in documents:
        await ingester.ingest(document, report)
    return report


async def counts(database: Database) -> dict[str, int]:
    """How many rows the tables hold, of all tenants."""
    async with database.transaction() as connection:
        return {name: await connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in TABLES}


async def texts(database: Database) -> dict[str, str]:
    """The tenant's stored texts by source."""
    async with database.transaction() as connection:
        return await store.read_texts(connection, database.tenant)


@pytest.fixture
def retriever(database: Database, gateway: Gateway, settings: Settings) -> Retriever:
    """Search in the test database."""
    return Retriever(database, gateway, settings)


async def test_files_are_added_then_unchanged_then_replaced(
    ingester: Ingester, database: Database, tmp_path: Path
) -> None:
    """A second run reads nothing again; a changed file takes the place of what it was, and leaves no rest."""
    files = [tmp_path / "a.md", tmp_path / "b.txt"]
    seen: list[Path] = []
    for file in files:
        file.write_text(GUIDE)
    first = await ingester.ingest_files(files, on_file=seen.append)
    before = await counts(database)
    second = await ingester.ingest_files(files)
    sources = [file.as_posix() for file in files]
    assert (first.added, second.added, second.unchanged, second.chunks) == (sources, [], sources, 0)
    assert seen == files
    assert await counts(database) == before
    assert (before["documents"], before["chunks"]) == (2, first.chunks)

    files[0].write_text("# Short\n\nA heron.")
    third = await ingester.ingest_files(files)
    assert (third.added, third.unchanged, third.chunks) == (sources[:1], sources[1:], 1)
    assert (await texts(database))[sources[0]] == "# Short\n\nA heron."
    after = await counts(database)
    assert after["documents"] == 2
    assert after["chunks"] < before["chunks"]


async def test_a_document_is_stored_with_its_chunks_and_their_terms(ingester: Ingester, database: Database) -> None:
    """Each chunk has its offsets, and a posting for every term of its heading and text."""
    document = loaded("# Herons\n\nA heron eats trout, and trout only.")
    await ingest(ingester, document)
    async with database.transaction() as connection:
        [stored] = await store.list_documents(connection, database.tenant)
        postings = await connection.execute(text("SELECT term, frequency FROM postings"))
        lengths = await connection.scalars(text("SELECT length FROM chunks"))
    assert (stored.source, stored.title, stored.media_type, stored.chunks) == ("guide.md", "Herons", "text/markdown", 1)
    assert {row.term: row.frequency for row in postings} == {"heron": 3, "eat": 1, "trout": 2}
    assert lengths.all() == [6]


async def test_a_failure_half_way_leaves_nothing_of_a_document(ingester: Ingester, database: Database) -> None:
    """The row that fails takes the whole document with it, and what stood there before stays."""
    old, new = loaded("# Old\n\nThe old text."), loaded("# New\n\nThe new text.")
    await ingest(ingester, old)
    before = await counts(database)
    parts = [*split(new, max_characters=100), Chunk(1, 0, 1, "heading with a \0", "text")]
    with pytest.raises(DataError):
        async with database.transaction() as connection:
            await store.replace_document(connection, database.tenant, new, parts, [[0.5] * 256] * 2)
    with pytest.raises(ValueError, match="zip"):
        async with database.transaction() as connection:
            await store.replace_document(connection, database.tenant, new, parts, [])
    assert await texts(database) == {"guide.md": old.text}
    assert await counts(database) == before


async def test_bad_files_are_skipped_with_the_reason(
    database: Database, gateway: Gateway, settings: Settings, tmp_path: Path
) -> None:
    """The files before and behind them are read all the same; each is named so that it can be printed."""
    for name, (content, _) in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
    files = [tmp_path / name for name in ("a.md", *BAD_FILES, "missing.md", "z.md")]
    for good in (files[0], files[-1]):
        good.write_text("# Good\n\ntext")
    small = settings.model_copy(update={"max_document_bytes": 2_000})
    report = await Ingester(database, gateway, small).ingest_files(files)
    assert report.added == [files[0].as_posix(), files[-1].as_posix()]
    assert [source for source, _ in report.skipped] == [str(file).replace("\udcff", "?") for file in files[1:-1]]
    reasons = [*(reason for _, reason in BAD_FILES.values()), "No such file"]
    for (_, given), expected in zip(report.skipped, reasons, strict=True):
        assert expected in given


async def test_two_writers_of_one_source_do_not_collide(ingester: Ingester, database: Database) -> None:
    """Sent twice at once, a document is stored once: whole, and as one of the two sent it."""
    versions = [loaded(f"# Version {n}\n\nThe text of version {n}.") for n in range(4)]
    reports = await asyncio.gather(*(ingest(ingester, version) for version in versions))
    assert sum(len(report.added) for report in reports) == 4
    assert (await texts(database))["guide.md"] in {version.text for version in versions}
    assert (await counts(database)) == {"documents": 1, "chunks": 1, "postings": 3, "index_stamps": 1}


async def test_another_embedding_model_is_refused_until_the_index_is_cleared(
    ingester: Ingester, retriever: Retriever, database: Database
) -> None:
    """Vectors of two models cannot be compared, so neither writing nor searching mixes them."""
    async with database.transaction() as connection:
        await store.check_stamp(connection, database.tenant, "other/model", 3)
    document = loaded(GUIDE)
    with pytest.raises(IndexMismatch, match=r"built with other/model \(3 dimensions\)"):
        await ingest(ingester, document)
    assert (await counts(database))["documents"] == 0
    await ingester.clear()
    assert (await ingest(ingester, document)).added == ["guide.md"]
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE index_stamps SET embedding_model = 'other/model'"))
    with pytest.raises(IndexMismatch, match="--rebuild"):
        await retriever.retrieve("heron")


async def test_deleting_a_document_removes_all_of_it(ingester: Ingester, database: Database) -> None:
    """Its chunks and postings go with it; a document that is not there, or another tenant's, is no success."""
    await ingest(ingester, loaded(GUIDE))
    async with database.transaction() as connection:
        [stored] = await store.list_documents(connection, database.tenant)
        assert not await store.delete_document(connection, "other", stored.id)
        assert await store.delete_document(connection, database.tenant, stored.id)
        assert not await store.delete_document(connection, database.tenant, stored.id)
    assert await counts(database) == dict.fromkeys(TABLES, 0) | {"index_stamps": 1}


def bm25(wanted: Iterable[str], chunks: dict[int, dict[str, int]]) -> dict[int, float]:
    """Robertson and Zaragoza's formula in plain Python, over the terms of every chunk."""
    k1, b = 1.2, 0.75
    lengths = {chunk: sum(terms.values()) for chunk, terms in chunks.items()}
    mean = sum(lengths.values()) / len(lengths)
    scores: Counter[int] = Counter()
    for term in wanted:
        holding = {chunk: terms[term] for chunk, terms in chunks.items() if term in terms}
        rarity = log(1 + (len(chunks) - len(holding) + 0.5) / (len(holding) + 0.5))
        for chunk, frequency in holding.items():
            saturation = frequency + k1 * (1 - b + b * lengths[chunk] / mean)
            scores[chunk] += rarity * frequency * (k1 + 1) / saturation  # type: ignore[assignment]  # a float Counter
    return dict(scores)


@pytest.mark.parametrize(
    "question", ["heron", "Which badgers like berries?", "nothing else said part 3", "the", "zebra"]
)
async def test_keyword_scores_equal_a_plain_reference(ingester: Ingester, database: Database, question: str) -> None:
    """The SQL computes BM25 and nothing else, best first; another tenant's chunks do not weigh in."""
    await ingest(ingester, loaded(GUIDE), loaded("# Zoo\n\nA heron met a zebra.", "zoo.md"))
    other = Ingester(database.for_tenant("other"), ingester._gateway, ingester._settings)
    await ingest(other, loaded("# Other\n\nheron heron zebra"))
    async with database.transaction() as connection:
        found = await search.keyword_scores(connection, database.tenant, question, 100)
        rows = await connection.execute(
            text("SELECT chunk_id, term, frequency FROM postings WHERE tenant = :t"), {"t": database.tenant}
        )
        wanted = await connection.scalars(
            text("SELECT unnest(tsvector_to_array(to_tsvector('english', :q)))"), {"q": question}
        )
    chunks: dict[int, dict[str, int]] = {}
    for chunk, term, frequency in rows:
        chunks.setdefault(chunk, {})[term] = frequency
    expected = bm25(wanted, chunks)
    assert found == pytest.approx(expected, abs=1e-9)
    assert list(found) == sorted(found, key=lambda chunk: (-found[chunk], chunk))


async def test_dense_search_orders_by_cosine(ingester: Ingester, database: Database, gateway: Gateway) -> None:
    """The same order as numpy's over the stored vectors, scored by the cosine; the limit takes the best."""
    await ingest(ingester, *(loaded(part, f"{n}.md") for n, part in enumerate(GUIDE.split("\n\n## "))))
    other = Ingester(database.for_tenant("other"), gateway, ingester._settings)
    await ingest(other, loaded("What does the lynx eat?"))
    [question] = await gateway.embed(["What does the lynx eat?"])
    async with database.transaction() as connection:
        found = await search.dense_scores(connection, database.tenant, question, 100)
        best = await search.dense_scores(connection, database.tenant, question, 3)
        rows = (await connection.execute(text("SELECT id, embedding::text FROM chunks WHERE tenant = 'default'"))).all()
    ids = np.array([row[0] for row in rows])
    stored = np.array([[float(value) for value in row[1].strip("[]").split(",")] for row in rows])
    cosines = stored @ np.array(question) / np.linalg.norm(stored, axis=1) / np.linalg.norm(question)
    assert list(found) == ids[np.argsort(-cosines)].tolist()
    assert list(found.values()) == pytest.approx(sorted(cosines, reverse=True), abs=1e-3)
    assert list(best) == list(found)[:3]


async def test_the_best_passages_come_first_with_their_scores(
    ingester: Ingester, retriever: Retriever, settings: Settings
) -> None:
    """A passage says which side found it, and stands in its document just where it says."""
    documents = {f"{n}.md": loaded(part, f"{n}.md") for n, part in enumerate(GUIDE.split("\n\n## "))}
    await ingest(ingester, *documents.values())
    passages = await retriever.retrieve("Which part is about the otter and its roots?")
    assert "otter" in passages[0].text
    assert "roots" in passages[0].text
    assert len(passages) == settings.passages
    assert [p.score for p in passages] == sorted({p.score for p in passages}, reverse=True)
    for passage in passages:
        assert documents[passage.source].text[passage.start : passage.end] == passage.text
    assert passages[0].keyword is not None
    assert passages[0].dense is not None


async def test_a_passage_that_one_side_missed_is_found(
    database: Database, gateway: Gateway, settings: Settings, ingester: Ingester
) -> None:
    """Each side proposes on its own: no filter of one hides what the other knows."""
    await ingest(ingester, loaded("The error XK-4711 was seen.", "code.txt"), loaded("Rivers and lakes.", "water.txt"))

    async def found(question: str) -> Passage:
        one_each = settings.model_copy(update={"candidates": 1, "dense_weight": 0.5})
        passages = await Retriever(database, gateway, one_each).retrieve(question)
        return next(p for p in passages if p.source == "water.txt")

    assert (await found("streams and ponds")).keyword is None
    assert (await found("lakes")).keyword is not None


async def test_a_heading_counts_for_what_stands_under_it(
    database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Two chunks of the same words differ on both sides of the search by the headings above them."""
    small = settings.model_copy(update={"chunk_characters": 100})
    first, second = "A few words that fill the first chunk of it. " * 2, "It is eaten raw or cooked, in a short season."
    text = "\n\n".join(f"## {name}\n\n{first}\n\n{second}" for name in ("Strawberries", "Mushrooms"))
    await ingest(Ingester(database, gateway, small), loaded(text))
    passages = await Retriever(database, gateway, small).retrieve("Are mushrooms eaten cooked?")
    best, other = (passage for passage in passages if passage.text == second)
    assert (best.heading, other.heading) == ("Mushrooms", "Strawberries")
    assert (best.keyword or 0) > (other.keyword or 0)
    assert (best.dense or 0) > (other.dense or 0)


async def test_without_documents_there_is_nothing_to_search(
    retriever: Retriever, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """The error says how to add some; another tenant's do not count."""
    await ingest(Ingester(database.for_tenant("other"), gateway, settings), loaded(GUIDE))
    with pytest.raises(NoDocuments, match="app ingest PATH"):
        await retriever.retrieve("heron")


async def test_tenants_do_not_see_each_others_rows(
    database: Database, gateway: Gateway, settings: Settings, ingester: Ingester
) -> None:
    """The same source may hold different texts, and clearing one tenant leaves the other."""
    other = database.for_tenant("other")
    theirs = Ingester(other, gateway, settings)
    await ingest(ingester, loaded("# Ours\n\nThe heron is ours."))
    await ingest(theirs, loaded("# Theirs\n\nThe heron is theirs."))
    for tenant, words in ((database, "is ours"), (other, "is theirs")):
        [passage] = await Retriever(tenant, gateway, settings).retrieve("Whose heron is it?")
        assert words in passage.text
    async with other.transaction() as connection:
        [passage_id] = await connection.scalars(text("SELECT id FROM chunks WHERE tenant = 'other'"))
        assert await search.read_passages(connection, database.tenant, [passage_id]) == {}
    await theirs.clear()
    assert list(await texts(database)) == ["guide.md"]
    assert await texts(other) == {}


async def test_a_vector_without_a_direction_finds_nothing_worse_than_others(
    ingester: Ingester, database: Database
) -> None:
    """A provider may answer with zeros; that is no likeness to anything, and no not-a-number in an answer."""
    await ingest(ingester, loaded("# Herons\n\nA heron eats trout, and trout only."))
    async with database.transaction() as connection:
        scores = await search.dense_scores(connection, database.tenant, [0.0] * 256, 5)
    assert list(scores.values()) == [0.0]
