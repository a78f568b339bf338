"""Documents into a real Postgres: all of a document or nothing of it, and nothing done twice."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError
from structlog.testing import capture_logs

from app.db import stamps, store
from app.db.engine import Database, connect
from app.db.store import Embedded
from app.db.vectors import tend
from app.db.verify import verify
from app.errors import ContextTooLong, IndexMismatch, InvalidInput, NoDocuments, ProviderMisconfigured
from app.gateway.gateway import Gateway
from app.rag import ingest as ingesting
from app.rag.ingest import Ingester, Options, source_of
from app.rag.reembed import Reembedder
from app.rag.retrieval import Retriever
from app.settings import Settings
from app.types import Chunk, Document
from tests.provider import CONTEXT_EXCEEDED, Behaviour, Call, Provider, Rejected, Reply

GUIDE = "\n\n".join(
    f"## Part {n}\n\nThe {animal} of part {n} likes {food}, and {food} only. " + "Nothing else is said here. " * (n % 5)
    for n, (animal, food) in enumerate(
        (animal, food) for animal in ("heron", "otter", "badger", "lynx") for food in ("trout", "berries", "roots")
    )
)
BAD_FILES = {
    "empty.md": (b"", "empty.md is empty"),
    "damaged.pdf": (b"%PDF-1.7\n1 0 obj", "cannot be read"),
    "large.txt": (b"x " * 1_001, "MAX_DOCUMENT_BYTES allows"),
    "bad\udcff.md": (b"text", "is not valid Unicode"),
}
TABLES = ("documents", "chunks", "postings", "embeddings", "index_stamps")
OTHER_DIMENSIONS = 4  # of the double's model
PATIENCE_SECONDS = 30


async def counts(database: Database) -> dict[str, int]:
    """How many rows of the tenant the tables hold."""
    async with database.transaction() as connection:
        return {name: await connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in TABLES}


async def texts(database: Database) -> dict[str, str]:
    """The tenant's stored texts by source."""
    async with database.transaction() as connection:
        return await store.read_texts(connection, database.tenant)


async def put(database: Database, model: str, length: int, *, source: str = "", chunks: int = 1) -> int:
    """Store a document of so many chunks of one word, with vectors of this length; give the stamp."""
    body = " ".join(["word"] * chunks)
    document = Document(source or f"{model}.md", "", body, "text/plain", "h")
    parts = [Chunk(n, 5 * n, 5 * n + 4, "", "word") for n in range(chunks)]
    async with database.transaction() as connection:
        stamp = await stamps.check_stamp(connection, database.tenant, model, length)
        vectors = [[1.0] * length] * chunks
        await store.replace_documents(
            connection, stamp, database.tenant, [Embedded(document, parts, vectors)], recipe=""
        )
    return stamp


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty: sources are names in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Somebody else's embedding model."""
    with Provider() as opened:
        yield opened


@pytest.fixture
def online(settings: Settings, provider: Provider) -> Settings:
    """Settings that use it."""
    embedding = settings.embedding.model_copy(update={"model": "openai/test-embedding", "api_base": provider.url})
    return settings.model_copy(update={"embedding": embedding, "max_attempts": 1})


def write(folder: Path, **contents: str) -> list[Path]:
    """Files by name, Markdown all of them."""
    for name, content in contents.items():
        (folder / f"{name}.md").write_text(content)
    return [folder / f"{name}.md" for name in contents]


async def test_files_are_added_then_unchanged_then_changed(
    ingester: Ingester, database: Database, folder: Path
) -> None:
    """A second run reads nothing again; a changed file takes the place of what it was, and leaves no rest."""
    files = write(folder, a=GUIDE, b="# B\n\nA badger.")
    seen: list[Path] = []
    first = await ingester.ingest_files(files, on_file=seen.append)
    before = await counts(database)
    second = await ingester.ingest_files(files)
    assert (first.added, first.changed, first.unchanged) == (["a.md", "b.md"], [], [])
    assert (second.added, second.changed, second.unchanged) == ([], [], ["a.md", "b.md"])
    assert (second.chunks, second.embedded) == (0, 0)
    assert sorted(seen) == files
    assert await counts(database) == before
    assert (before["documents"], before["chunks"], before["embeddings"]) == (2, first.chunks, first.chunks)

    write(folder, a="# Short\n\nA heron.")
    third = await ingester.ingest_files(files)
    assert (third.added, third.changed, third.unchanged, third.chunks) == ([], ["a.md"], ["b.md"], 1)
    assert (await texts(database))["a.md"] == "# Short\n\nA heron."
    assert (await counts(database))["chunks"] == 2


async def test_an_unchanged_file_starts_no_reader(
    ingester: Ingester, database: Database, gateway: Gateway, settings: Settings, folder: Path
) -> None:
    """Where nothing is new no process is started, and no file that is named twice is read twice."""
    [file] = write(folder, a=GUIDE)
    first = await ingester.ingest_files([file, folder / ".." / folder.name / "a.md"])
    assert (first.added, first.changed, first.unchanged) == (["a.md"], [], [])
    before = psutil.Process().children()
    async with Ingester(database, gateway, settings) as fresh:
        assert (await fresh.ingest_files([file])).unchanged == ["a.md"]
        assert psutil.Process().children() == before


async def test_a_document_is_stored_with_its_chunks_and_their_terms(ingester: Ingester, database: Database) -> None:
    """Each chunk has a posting for every term of its heading and text, and the sums stand with the document."""
    content = "# Herons\n\nA heron eats trout, and trout only."
    await ingester.ingest(content.encode(), source="guide.md", options=Options({"team": "birds"}))
    async with database.transaction() as connection:
        [stored] = await store.list_documents(connection, database.tenant)
        postings = await connection.execute(text("SELECT term, frequency, length FROM postings"))
        [row] = await connection.execute(text("SELECT chunk_count, term_count, length(text) AS size FROM documents"))
        [chunk] = await connection.execute(text("SELECT start_char, end_char, text, content_hash FROM chunks"))
    assert (stored.source, stored.title, stored.chunks, stored.origin) == ("guide.md", "Herons", 1, "upload")
    assert stored.metadata == {"team": "birds"}
    assert {row.term: (row.frequency, row.length) for row in postings} == {
        "heron": (3, 6),
        "eat": (1, 6),
        "trout": (2, 6),
    }
    assert (row.chunk_count, row.term_count, row.size) == (1, 6, len(content))
    assert chunk.text == content[chunk.start_char : chunk.end_char]
    assert chunk.content_hash == store.hash_text(f"Herons\n{chunk.text}")


async def test_a_failure_half_way_leaves_nothing_of_a_document(ingester: Ingester, database: Database) -> None:
    """The row that fails takes the whole document with it, and what stood there before stays."""
    await ingester.ingest(b"# Old\n\nThe old text.", source="guide.md")
    before = await counts(database)
    new = Document("guide.md", "New", "The new text.", "text/markdown", "hash")
    parts = [Chunk(0, 0, 3, "New", "The"), Chunk(1, 4, 7, "heading with a \0", "new")]

    async def replace(vectors: int) -> None:
        async with database.transaction() as connection:
            stamp = await stamps.check_stamp(connection, database.tenant, "offline/static", 256)
            given = [[0.5] * 256] * vectors
            await store.replace_documents(connection, stamp, database.tenant, [Embedded(new, parts, given)], recipe="")

    for vectors, error in ((2, DataError), (1, ValueError)):
        with pytest.raises(error):
            await replace(vectors)
    assert await texts(database) == {"guide.md": "# Old\n\nThe old text."}
    assert await counts(database) == before


async def test_bad_files_are_skipped_with_the_reason(
    database: Database, gateway: Gateway, settings: Settings, folder: Path
) -> None:
    """The files before and behind them are read all the same; each is named so that it can be printed."""
    for name, (content, _) in BAD_FILES.items():
        (folder / name).write_bytes(content)
    files = [folder / name for name in ("a.md", *BAD_FILES, "missing.md", "z.md")]
    for good in (files[0], files[-1]):
        good.write_text("# Good\n\ntext")
    small = settings.model_copy(update={"max_document_bytes": 2_000})
    async with Ingester(database, gateway, small) as ingester:
        report = await ingester.ingest_files(files)
    assert report.added == ["a.md", "z.md"]
    skipped = {Path(source).name: reason for source, reason in report.skipped}
    expected = {name.replace("\udcff", "?"): reason for name, (_, reason) in BAD_FILES.items()}
    assert skipped.keys() == {*expected, "missing.md"}
    for name, reason in (expected | {"missing.md": "No such file"}).items():
        assert reason in skipped[name]
    assert sorted(await texts(database)) == ["a.md", "z.md"]


async def test_a_bad_upload_is_refused(ingester: Ingester, database: Database) -> None:
    """One document alone is an error, not a report."""
    for data, source in ((b"", "empty.md"), (b"text", "a\udcff.md")):
        with pytest.raises(InvalidInput):
            await ingester.ingest(data, source=source)
    assert (await counts(database))["documents"] == 0


async def test_writers_of_one_source_do_not_collide(ingester: Ingester, database: Database) -> None:
    """Sent several times at once, a document is stored once: whole, and as one of those sent."""
    versions = [f"# Version {n}\n\nThe text of version {n}." for n in range(4)]
    reports = await asyncio.gather(*(ingester.ingest(version.encode(), source="guide.md") for version in versions))
    assert sorted(len(report.added) for report in reports) == [0, 0, 0, 1]
    assert (await texts(database))["guide.md"] in versions
    assert await counts(database) == {"documents": 1, "chunks": 1, "postings": 3, "embeddings": 1, "index_stamps": 1}


async def test_only_what_reads_differently_is_embedded(ingester: Ingester, database: Database, folder: Path) -> None:
    """One changed section costs one vector, and another name for the same file none; the vectors stay the same."""
    files = write(folder, a=GUIDE, b=GUIDE)
    first = await ingester.ingest_files(files)
    assert first.embedded == first.chunks / 2, "what reads the same is embedded once"

    write(folder, a=GUIDE.replace("The otter of part 4 likes berries", "The otter of part 4 likes nothing"))
    files[1].rename(folder / "c.md")
    second = await ingester.ingest_files([files[0], folder / "c.md"])
    assert (second.changed, second.added, second.chunks, second.embedded) == (["a.md"], ["c.md"], first.chunks, 1)

    async with database.transaction() as connection:
        vectors = await connection.scalar(
            text("""SELECT count(DISTINCT e.embedding::text) FROM embeddings e JOIN chunks c ON c.id = e.chunk_id
                JOIN documents d ON d.id = c.document_id WHERE d.source <> 'a.md'""")
        )
    assert vectors == first.embedded
    again = await ingester.ingest_files([files[0]], options=Options(again=True))
    assert (again.changed, again.embedded) == (["a.md"], again.chunks)


@pytest.mark.parametrize("change", [{"chunk_characters": 300}, {"chunk_overlap": 50}])
async def test_other_settings_cut_a_document_anew(
    database: Database, gateway: Gateway, settings: Settings, folder: Path, change: dict[str, int]
) -> None:
    """What decides the chunks is remembered with the document: a change of it is a change of the document."""
    files = write(folder, a=GUIDE)
    async with Ingester(database, gateway, settings) as ingester:
        await ingester.ingest_files(files)
    async with Ingester(database, gateway, settings.model_copy(update=change)) as other:
        assert (await other.ingest_files(files)).changed == ["a.md"]
        assert (await other.ingest_files(files)).unchanged == ["a.md"]


def test_contexts_are_part_of_the_recipe(settings: Settings) -> None:
    """Whether a model writes contexts, and which one, decides what is stored; without them the model does not."""
    from app.rag.indexing import recipe  # noqa: PLC0415  # used here alone

    other = settings.chat.model_copy(update={"model": "openai/other"})
    made = [
        recipe(settings.model_copy(update=update))
        for update in ({}, {"chat": other}, {"contextual_chunks": True}, {"contextual_chunks": True, "chat": other})
    ]
    assert made[0] == made[1]
    assert len(set(made)) == 3


async def test_other_metadata_files_a_document_anew(ingester: Ingester, database: Database, folder: Path) -> None:
    """Metadata that is given is stored, without a call of the model; a run without any leaves it alone."""
    files = write(folder, a=GUIDE)
    await ingester.ingest_files(files)
    filed = await ingester.ingest_files(files, options=Options({"team": "birds"}))
    assert (filed.changed, filed.embedded) == (["a.md"], 0)
    assert (await ingester.ingest_files(files, options=Options({"team": "birds"}))).unchanged == ["a.md"]
    assert (await ingester.ingest_files(files)).unchanged == ["a.md"]
    async with database.transaction() as connection:
        [stored] = await store.list_documents(connection, database.tenant)
    assert stored.metadata == {"team": "birds"}


async def test_a_dry_run_writes_and_embeds_nothing(
    database: Database, online: Settings, provider: Provider, folder: Path
) -> None:
    """It says what a real one would do, what would be skipped included."""
    files = write(folder, a=GUIDE, b="# B\n\nA badger.", c="# C\n\nA crow.", empty="")
    async with Ingester(database, Gateway(online), online) as ingester:
        await ingester.ingest_files(files[1:3])
        before, calls = await counts(database), provider.count.calls
        write(folder, c="# C\n\nAnother crow.")
        plan = await ingester.ingest_files(files, options=Options(dry=True))
        assert (plan.added, plan.changed, plan.unchanged) == (["a.md"], ["c.md"], ["b.md"])
        assert [source for source, _ in plan.skipped] == ["empty.md"]
        one = await ingester.ingest(b"# D", source="d.md", options=Options(dry=True))
        two = await ingester.ingest(b"# D", source="c.md", options=Options(dry=True))
        assert (one.added, two.changed) == (["d.md"], ["c.md"])
        assert await ingester.remove_missing([], [""], dry=True) == ["b.md", "c.md"]
    assert (await counts(database), provider.count.calls) == (before, calls)


async def test_a_model_that_fails_ends_the_run_and_keeps_what_was_done(
    database: Database, online: Settings, provider: Provider, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how to go on, and the next run does the rest alone."""
    monkeypatch.setattr(ingesting, "EMBEDDING_BATCH", 4)
    files = write(folder, **{f"file{n}": f"# File {n}\n\nThe text of file {n}." for n in range(20)})
    provider.then(Reply(), Reply(), Rejected(401, "Incorrect API key provided."))
    provider.always(Rejected(401, "Incorrect API key provided."))
    async with Ingester(database, Gateway(online), online) as ingester:
        with pytest.raises(ProviderMisconfigured, match="run it again to go on"):
            await ingester.ingest_files(files)
        stored = (await counts(database))["documents"]
        assert stored < 20
    provider.reset()
    async with Ingester(database, Gateway(online), online) as ingester:
        report = await ingester.ingest_files(files)
    assert (len(report.added), len(report.unchanged)) == (20 - stored, stored)


async def test_a_document_that_the_model_refuses_is_skipped_alone(
    database: Database, online: Settings, provider: Provider, folder: Path
) -> None:
    """It was sent in one call with others: they are tried again without it."""
    files = write(folder, good="# Good\n\nA heron.", long="# Long\n\nToo long.", better="# Better\n\nAn otter.")

    def too_long(call: Call) -> Behaviour:
        return CONTEXT_EXCEEDED if any("Too long" in given for given in call.body["input"]) else Reply()

    provider.always(too_long)
    async with Ingester(database, Gateway(online), online) as ingester:
        report = await ingester.ingest_files(files)
        with pytest.raises(ContextTooLong):
            await ingester.ingest(b"Too long", source="alone.md")
    assert report.added == ["better.md", "good.md"]
    assert [source for source, _ in report.skipped] == ["long.md"]
    assert sorted(await texts(database)) == ["better.md", "good.md"]


async def test_another_embedding_model_is_refused_before_it_is_called(
    ingester: Ingester, database: Database, online: Settings, provider: Provider, folder: Path
) -> None:
    """Vectors of two models cannot be compared; the error names the command that embeds anew."""
    files = write(folder, a=GUIDE)
    await ingester.ingest_files(files)
    async with Ingester(database, Gateway(online), online) as other:
        for run in (other.ingest_files(files), other.ingest(b"text", source="b.md")):
            with pytest.raises(IndexMismatch, match="EMBEDDING_MODEL=openai/test-embedding app reembed"):
                await run
        assert provider.count.calls == 0
        await other.clear()
        assert (await other.ingest_files(files)).added == ["a.md"]


async def test_a_model_that_changes_its_length_is_refused(database: Database, online: Settings, folder: Path) -> None:
    """The same name with other dimensions is another model, and the error says what to do."""
    await put(database, "openai/test-embedding", OTHER_DIMENSIONS + 1)
    async with Ingester(database, Gateway(online), online) as ingester:
        with pytest.raises(IndexMismatch, match="gives 4 dimensions now, and the index holds 5"):
            await ingester.ingest_files(write(folder, a=GUIDE))


async def test_a_document_never_stores_vectors_of_two_lengths(
    database: Database, gateway: Gateway, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors that are used again have the old length, those of what has changed another: nothing is written."""
    files = write(folder, a=GUIDE)
    async with Ingester(database, gateway, settings) as ingester:
        await ingester.ingest_files(files)
        before = await texts(database)

        async def halved(given: list[str], **_: object) -> list[list[float]]:
            return [[1.0] * 128 for _ in given]

        monkeypatch.setattr(gateway, "embed", halved)
        for place in ("part 11", "part 0"):
            write(folder, a=GUIDE.replace(f"of {place} likes", f"of {place} never likes"))
            with pytest.raises(IndexMismatch, match="gives 128 dimensions now, and the index holds 256"):
                await ingester.ingest_files(files)
            assert await texts(database) == before


async def test_the_schema_refuses_a_vector_of_another_length(database: Database) -> None:
    """Were the code to forget to look, one length of vectors would still stand under one stamp."""
    await put(database, "a/model", 4)
    with pytest.raises(IntegrityError):
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE embeddings SET dimensions = 3"))


async def test_an_index_without_any_vector_says_what_to_do(
    ingester: Ingester, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """After the last model was dropped nobody is told that there are no documents, and none is stored beside them."""
    await ingester.ingest(GUIDE.encode(), source="guide.md")
    reembedder = Reembedder(database, gateway, settings)
    assert await reembedder.drop("offline/static")
    for refused in (
        ingester.ingest(b"# New", source="new.md"),
        put(database, "offline/static", 256),
        Retriever(database, gateway, settings).retrieve("heron"),
    ):
        with pytest.raises(IndexMismatch, match="run `EMBEDDING_MODEL=offline/static app reembed`"):
            await refused
    assert (await reembedder.run()).embedded == (await counts(database))["chunks"]
    assert (await ingester.ingest(b"# New", source="new.md")).added == ["new.md"]


async def test_a_model_whose_documents_are_gone_binds_nobody(
    ingester: Ingester, database: Database, online: Settings
) -> None:
    """Another model may begin where nothing is stored any more; a question says that there is nothing."""
    await ingester.ingest(GUIDE.encode(), source="guide.md")
    async with database.transaction() as connection:
        assert await store.delete_sources(connection, database.tenant, ["guide.md"]) == 1
    with pytest.raises(NoDocuments):
        await Retriever(database, Gateway(online), online).retrieve("heron")
    async with Ingester(database, Gateway(online), online) as other:
        assert (await other.ingest(GUIDE.encode(), source="guide.md")).added == ["guide.md"]
    async with database.transaction() as connection:
        assert [stamp.model for stamp in await stamps.read_stamps(connection, database.tenant)] == [
            "openai/test-embedding"
        ]


async def test_a_first_model_waits_for_one_who_is_writing(database: Database) -> None:
    """Who meets an empty index while another's first document is not committed does not take its stamp away."""
    await put(database, "a/model", 3)
    async with database.transaction() as connection:
        await store.delete_sources(connection, database.tenant, ["a/model.md"])
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    async with asyncio.timeout(PATIENCE_SECONDS), database.transaction() as writing:
        stamp = await stamps.check_stamp(writing, database.tenant, "a/model", 3)
        other = asyncio.create_task(put(database, "b/model", 3))
        async with database.engine.connect() as watching:
            while not await watching.scalar(waiting):
                await watching.rollback()
        document = Document("a.md", "", "x", "text/plain", "h")
        await store.replace_documents(
            writing, stamp, database.tenant, [Embedded(document, [Chunk(0, 0, 1, "", "x")], [[1.0] * 3])], recipe=""
        )
    with pytest.raises(IndexMismatch, match="a/model"):
        await other
    assert (await counts(database))["embeddings"] == 1


async def test_a_large_document_is_written_in_slices(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each statement takes so many chunks; the sums are those of all, also where the document is replaced."""
    monkeypatch.setattr(store, "CHUNKS_AT_ONCE", 3)
    sizes: list[int] = []
    as_json = store._chunks_json  # what one statement gets cannot be seen from outside

    def noted(parts: Sequence[tuple[int, Chunk, Sequence[float]]]) -> str:
        sizes.append(len(parts))
        return as_json(parts)

    monkeypatch.setattr(store, "_chunks_json", noted)
    for size in (8, 7):
        await put(database, "a/model", 4, chunks=size)
        async with database.transaction() as connection:
            [row] = await connection.execute(text("SELECT chunk_count, term_count FROM documents"))
            [held] = await connection.scalars(text("SELECT sum(frequency) FROM postings"))
        assert (row.chunk_count, row.term_count, held) == (size, size, size)
        assert [check for check in await verify(database) if check.faults] == []
    assert sizes == [3, 3, 2, 3, 3, 1]


async def test_files_are_read_a_few_at_a_time(
    ingester: Ingester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more bytes are read than are soon needed: the rest of the files is opened later, and none is left out."""
    monkeypatch.setattr(ingesting, "READ_BYTES", 10)
    files = [tmp_path / f"{n}.md" for n in range(5)]
    for file in files:
        file.write_text("tea cup")
    left = iter(files)
    assert [len(ingesting._read_some(left, 1_000)) for _ in range(4)] == [2, 2, 1, 0]
    assert len((await ingester.ingest_files(files)).added) == 5


async def test_documents_that_are_written_together_keep_their_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice may end within a document: each has its own chunks and sums, and what it had before is gone."""
    monkeypatch.setattr(store, "CHUNKS_AT_ONCE", 3)
    stamp = await put(database, "a/model", 4, source="b.md", chunks=5)
    batch = [
        Embedded(
            Document(name, name, name * size, "text/plain", "h", metadata={"of": name}, page_starts=(0, 1)),
            [Chunk(n, 4 * n, 4 * n + 4, "", name) for n in range(size)],
            [[1.0] * 4] * size,
        )
        for name, size in (("c.md", 2), ("b.md", 4), ("a.md", 1))
    ]
    async with database.transaction() as connection:
        assert await store.replace_documents(connection, stamp, database.tenant, batch, recipe="") == {"b.md"}
        rows = await connection.execute(
            text("""SELECT source, metadata ->> 'of', page_starts, chunk_count, term_count,
                (SELECT string_agg(c.text, ' ' ORDER BY ordinal) FROM chunks c WHERE document_id = d.id)
                FROM documents d ORDER BY source""")
        )
        assert [tuple(row) for row in rows] == [
            (name, name, [0, 1], size, size, " ".join([name] * size))
            for name, size in (("a.md", 1), ("b.md", 4), ("c.md", 2))
        ]
    assert [check for check in await verify(database) if check.faults] == []


async def test_the_vector_that_is_used_again_is_the_models_own(
    ingester: Ingester, database: Database, online: Settings
) -> None:
    """With two models side by side the same text under another name gets each model's vector, without a call."""
    await ingester.ingest(b"# Heron\n\nA heron.", source="a.md")
    await Reembedder(database, Gateway(online), online).run()
    async with Ingester(database, Gateway(online), online) as other:
        assert (await other.ingest(b"# Heron\n\nA heron.", source="b.md")).embedded == 0
    assert (await ingester.ingest(b"# Heron\n\nA heron.", source="c.md")).embedded == 0
    async with database.transaction() as connection:
        found = await connection.execute(
            text("""SELECT embedding_model, count(*) AS copies, count(DISTINCT embedding::text) AS kinds
                FROM embeddings JOIN index_stamps s ON s.id = stamp_id GROUP BY 1""")
        )
        assert sorted(map(tuple, found)) == [("offline/static", 2, 1), ("openai/test-embedding", 2, 1)]


async def test_metadata_counts_as_it_is_stored(ingester: Ingester, database: Database, folder: Path) -> None:
    """A value in decomposed characters, or one that is cut when it is stored, is no change in the next run."""
    files = write(folder, a=GUIDE)
    options = Options({"cafe\u0301": "cre\u0300me", "long": "x" * 1_001})
    await ingester.ingest_files(files, options=options)
    assert (await ingester.ingest_files(files, options=options)).unchanged == ["a.md"]
    async with database.transaction() as connection:
        [stored] = await store.list_documents(connection, database.tenant)
    assert stored.metadata == {"caf\u00e9": "cr\u00e8me", "long": "x" * 1_000}


async def test_two_first_writers_with_different_models_do_not_mix(database: Database) -> None:
    """Of two that meet in an empty index one is refused."""
    results = await asyncio.gather(
        *(put(database, f"a/model-{n % 2}", 3, source=f"{n}.md") for n in range(8)), return_exceptions=True
    )
    assert {type(result) for result in results} == {int, IndexMismatch}
    assert (await counts(database))["index_stamps"] == 1


async def test_only_what_came_from_below_the_folder_is_removed(
    ingester: Ingester, database: Database, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Uploads, other folders and folders whose name begins alike stay; the working directory is no other folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for place in (folder / "docs", folder / "docs2", elsewhere):
        place.mkdir(exist_ok=True)
        write(place, a=f"# A\n\nIn {place.name}.", b=f"# B\n\nIn {place.name}.")
    files = [*folder.rglob("*.md"), *elsewhere.rglob("*.md")]
    await ingester.ingest_files(files)
    await ingester.ingest(b"text", source="docs/upload.md")
    assert await ingester.remove_missing(["docs/a.md"], [source_of(folder / "docs")]) == ["docs/b.md"]
    assert await ingester.remove_missing(["docs/a.md"], [source_of(folder)]) == ["docs2/a.md", "docs2/b.md"]
    assert sorted(await texts(database)) == sorted(
        ["docs/a.md", "docs/upload.md", *(source_of(elsewhere / name) for name in ("a.md", "b.md"))]
    )


async def test_deleting_a_document_removes_all_of_it(ingester: Ingester, database: Database) -> None:
    """Its chunks, vectors and postings go with it; a document that is not there, or another tenant's, is no success."""
    await ingester.ingest(GUIDE.encode(), source="guide.md")
    async with database.transaction() as connection:
        [stored] = await store.list_documents(connection, database.tenant)
        assert not await store.delete_document(connection, "other", stored.id)
        assert await store.delete_document(connection, database.tenant, stored.id)
        assert not await store.delete_document(connection, database.tenant, stored.id)
    assert await counts(database) == dict.fromkeys(TABLES, 0) | {"index_stamps": 1}


async def test_a_large_run_leaves_the_tables_tended(
    owner: Database, gateway: Gateway, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many changes the planner knows how much there is, where it is the owner who made them."""
    monkeypatch.setattr(ingesting, "TEND_FROM", 1)
    before = text("UPDATE pg_class SET reltuples = -1 WHERE relname = 'postings'")
    async with owner.engine.begin() as connection:
        await connection.execute(before)
    async with Ingester(owner, gateway, settings) as ingester:
        await ingester.ingest_files(write(folder, a=GUIDE))
    async with owner.engine.connect() as connection:
        known = await connection.scalar(text("SELECT reltuples FROM pg_class WHERE relname = 'postings'"))
    assert known == (await counts(owner))["postings"]


async def test_small_runs_make_the_index_when_there_are_enough(
    owner: Database, gateway: Gateway, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads make none; the next run that writes anything does, and only where there is none yet."""
    made = text("SELECT CAST(to_regclass('embeddings_hnsw_256') AS oid)")
    monkeypatch.setattr(ingesting, "INDEX_FROM", 3)
    async with owner.engine.connect() as plain, Ingester(owner, gateway, settings) as ingester:
        await ingester.ingest(b"# A", source="a.md")
        await ingester.ingest_files(write(folder, b="# B"))
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        assert await connection.scalar(made) is None
        await ingester.ingest(b"# C", source="c.md")
        await ingester.ingest_files(write(folder, b="# B"))
        assert await connection.scalar(made) is None, "nothing was written"
        await ingester.ingest_files(write(folder, d="# D"))
        first = await connection.scalar(made)
        await ingester.ingest_files(write(folder, e="# E"))
        assert first is not None
        assert await connection.scalar(made) == first
        await connection.execute(text("DROP INDEX embeddings_hnsw_256"))


async def test_tables_that_cannot_be_tended_fail_no_run(
    ingester: Ingester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is stored when the database goes: that is worth a warning."""
    monkeypatch.setattr(ingesting, "TEND_FROM", 1)

    async def gone(_: Database, **options: Any) -> None:
        async with connect("postgresql://127.0.0.1:1/app") as nowhere:
            await tend(nowhere, **options)

    monkeypatch.setattr(ingesting, "tend", gone)
    with capture_logs() as logs:
        assert (await ingester.ingest_files(write(folder, a=GUIDE))).added == ["a.md"]
    [warning] = [entry for entry in logs if entry["event"].startswith("the tables were not tended")]
    assert warning["log_level"] == "warning"
    assert "refused" in warning["reason"]
