"""Documents into a real Postgres: all of a document or nothing of it, and nothing done twice."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError

from app.db import store
from app.db.engine import Database
from app.errors import ContextTooLong, IndexMismatch, InvalidInput, ProviderMisconfigured
from app.gateway.gateway import Gateway
from app.rag import ingest as ingesting
from app.rag.ingest import Ingester, Options, source_of
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


async def counts(database: Database) -> dict[str, int]:
    """How many rows of the tenant the tables hold."""
    async with database.transaction() as connection:
        return {name: await connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in TABLES}


async def texts(database: Database) -> dict[str, str]:
    """The tenant's stored texts by source."""
    async with database.transaction() as connection:
        return await store.read_texts(connection, database.tenant)


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
            stamp = await store.check_stamp(connection, database.tenant, "offline/static", 256)
            given = [[0.5] * 256] * vectors
            await store.replace_document(connection, stamp, database.tenant, new, parts, vectors=given, recipe="")

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
    async with database.transaction() as connection:
        await store.check_stamp(connection, database.tenant, "openai/test-embedding", OTHER_DIMENSIONS + 1)
    async with Ingester(database, Gateway(online), online) as ingester:
        with pytest.raises(IndexMismatch, match="gives 4 dimensions now, and the index holds 5"):
            await ingester.ingest_files(write(folder, a=GUIDE))


async def test_two_first_writers_with_different_models_do_not_mix(database: Database) -> None:
    """Of two that meet in an empty index one is refused."""

    async def stamp(model: str) -> int:
        async with database.transaction() as connection:
            return await store.check_stamp(connection, database.tenant, model, 3)

    results = await asyncio.gather(*(stamp(f"a/model-{n % 2}") for n in range(8)), return_exceptions=True)
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
    ingester: Ingester, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many changes the planner knows how much there is."""
    monkeypatch.setattr(ingesting, "TEND_FROM", 1)
    before = text("UPDATE pg_class SET reltuples = -1 WHERE relname = 'postings'")
    async with database.engine.begin() as connection:
        await connection.execute(before)
    await ingester.ingest_files(write(folder, a=GUIDE))
    async with database.engine.connect() as connection:
        known = await connection.scalar(text("SELECT reltuples FROM pg_class WHERE relname = 'postings'"))
    assert known == (await counts(database))["postings"]
