"""Another embedding model beside the one that serves, made in pieces, then switched to."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from app.db import stamps, store
from app.db.engine import Database
from app.db.store import Embedded
from app.db.vectors import begin_stamp
from app.db.verify import Check, verify
from app.errors import IndexMismatch, InvalidInput, NoDocuments, ProviderMisconfigured
from app.gateway.gateway import Gateway
from app.rag import indexing
from app.rag import reembed as reembedding
from app.rag.ingest import Ingester
from app.rag.reembed import Reembedder
from app.rag.retrieval import Retriever
from app.settings import Settings
from app.types import Chunk, Document
from tests.provider import Provider, Rejected, Reply

NEW = "openai/new"
NEW_DIMENSIONS = 4
DOCUMENTS = 20
PATIENCE_SECONDS = 30
WRONG_KEY = Rejected(401, "Incorrect API key provided.")


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Who runs the new model."""
    with Provider() as opened:
        yield opened


@pytest.fixture
def new(settings: Settings, provider: Provider) -> Settings:
    """Settings with the new model."""
    embedding = settings.embedding.model_copy(update={"model": NEW, "api_base": provider.url})
    return settings.model_copy(update={"embedding": embedding, "max_attempts": 1})


@pytest.fixture
async def index(database: Database, ingester: Ingester, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Twenty documents of one chunk with the old model's vectors; calls embed four texts, one at a time."""
    monkeypatch.setattr(reembedding, "EMBEDDING_BATCH", 4)
    monkeypatch.setattr(indexing, "CALLS_AT_A_TIME", 1)
    for n in range(DOCUMENTS):
        await ingester.ingest(f"# Bird {n}\n\nThe heron number {n}.".encode(), source=f"{n}.md")
    return database


async def held(database: Database) -> dict[str, tuple[bool, int]]:
    """By model whether it is ready, and how many vectors it has."""
    async with database.transaction() as connection:
        query = text("""SELECT embedding_model, ready, (
                SELECT count(*) FROM embeddings WHERE stamp_id = s.id) AS vectors
            FROM index_stamps s""")
        return {row.embedding_model: (row.ready, row.vectors) for row in await connection.execute(query)}


async def faults(database: Database) -> list[Check]:
    """What verify finds."""
    return [check for check in await verify(database) if check.faults]


async def test_the_new_model_takes_over_without_a_gap(
    index: Database, gateway: Gateway, settings: Settings, new: Settings
) -> None:
    """Old servers answer all the time; new ones from the moment when nothing is missing; then the old vectors go."""
    old_server, new_server = Retriever(index, gateway, settings), Retriever(index, Gateway(new), new)
    reembedder = Reembedder(index, Gateway(new), new)
    with pytest.raises(IndexMismatch, match=f"EMBEDDING_MODEL={NEW} app reembed"):
        await new_server.retrieve("heron")
    assert await reembedder.count() == DOCUMENTS
    steps: list[int] = []
    done = await reembedder.run(steps.append)
    assert (done.model, done.chunks, done.embedded, sum(steps)) == (NEW, DOCUMENTS, DOCUMENTS, DOCUMENTS)
    assert await held(index) == {"offline/static": (True, DOCUMENTS), NEW: (True, DOCUMENTS)}
    for server in (old_server, new_server):
        assert any(passage.dense is not None for passage in await server.retrieve("heron number 3"))
    assert await faults(index) == []

    assert await reembedder.drop("offline/static")
    assert not await reembedder.drop("offline/static")
    assert await held(index) == {NEW: (True, DOCUMENTS)}
    assert await new_server.retrieve("heron number 3")
    with pytest.raises(IndexMismatch, match="offline/static app reembed"):
        await old_server.retrieve("heron")


async def test_what_was_embedded_before_a_failure_is_not_paid_twice(
    index: Database, gateway: Gateway, settings: Settings, new: Settings, provider: Provider
) -> None:
    """It goes on where it ended; until then the model is not ready, verify says so, and old servers answer."""
    provider.then(Reply(), Reply(), Reply(), WRONG_KEY)  # the first asks for the dimensions
    with pytest.raises(ProviderMisconfigured):
        await Reembedder(index, Gateway(new), new).run()
    assert (await held(index))[NEW] == (False, 8)
    assert {check.repair for check in await faults(index)} == {"reembed"}
    with pytest.raises(IndexMismatch, match="not every chunk has a vector"):
        await Retriever(index, Gateway(new), new).retrieve("heron")
    assert await Retriever(index, gateway, settings).retrieve("heron")
    again = Reembedder(index, Gateway(new), new)
    assert (await again.count(), (await again.run()).embedded) == (12, 12)
    assert (await again.run()).embedded == 0
    assert await faults(index) == []


async def test_two_at_once_do_not_collide(index: Database, new: Settings) -> None:
    """Each chunk gets one vector, whoever is first."""
    runs = (Reembedder(index, Gateway(new), new).run() for _ in range(2))
    await asyncio.gather(*runs)
    assert (await held(index))[NEW] == (True, DOCUMENTS)
    assert await faults(index) == []


async def test_documents_that_come_meanwhile_get_both_vectors(
    index: Database, ingester: Ingester, new: Settings
) -> None:
    """One that is written, or replaced, while chunks are embedded is caught before the switch."""
    added: list[asyncio.Task[object]] = []

    def write(_: int) -> None:
        if not added:
            writes = (ingester.ingest(b"# Crane\n\nA crane.", source=source) for source in ("0.md", "new.md"))
            added.extend(map(asyncio.create_task, writes))

    done = await Reembedder(index, Gateway(new), new).run(write)
    await asyncio.gather(*added)
    assert done.model == NEW
    missing = (await held(index))["offline/static"][1] - (await held(index))[NEW][1]
    assert missing in range(3), "what came after the switch has the writer's vectors"
    await Reembedder(index, Gateway(new), new).run()
    assert await held(index) == {"offline/static": (True, DOCUMENTS + 1), NEW: (True, DOCUMENTS + 1)}
    assert await faults(index) == []


async def test_the_switch_waits_for_writers_and_catches_what_they_wrote(
    index: Database, gateway: Gateway, settings: Settings, new: Settings
) -> None:
    """A transaction that is open when everything seems to be embedded is not missed."""
    old_server = Retriever(index, gateway, settings)
    async with asyncio.timeout(PATIENCE_SECONDS), index.transaction() as writing:
        stamp = await stamps.check_stamp(writing, index.tenant, "offline/static", 256)
        document, chunk = Document("new.md", "", "New.", "text/plain", "h"), Chunk(0, 0, 4, "", "New.")
        vectors = [[1.0] * 256]
        await store.replace_documents(writing, stamp, index.tenant, [Embedded(document, [chunk], vectors)], recipe="")
        run = asyncio.create_task(Reembedder(index, Gateway(new), new).run())
        blocked = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        async with index.engine.connect() as watching:
            while not await watching.scalar(blocked):
                await watching.rollback()
        assert not (await held(index))[NEW][0]
        assert await old_server.retrieve("heron"), "who only reads waits for nobody"
    assert (await run).embedded == DOCUMENTS + 1
    assert (await held(index))[NEW] == (True, DOCUMENTS + 1)


async def test_documents_of_another_writer_are_missed_until_the_next_run(
    index: Database, ingester: Ingester, new: Settings
) -> None:
    """An old writer goes on with the old model after the switch: verify tells, and reembed fills."""
    await Reembedder(index, Gateway(new), new).run()
    await ingester.ingest(b"# Late\n\nA late heron.", source="late.md")
    [fault] = await faults(index)
    assert (fault.name, fault.faults, fault.repair) == ("chunks with a vector of each model", 1, "reembed")
    assert (await Reembedder(index, Gateway(new), new).run()).embedded == 1
    assert await faults(index) == []


async def test_a_model_with_other_dimensions_than_it_had_is_refused(index: Database, new: Settings) -> None:
    """The same name stands for one length of vectors; the error says how to begin anew."""
    async with index.transaction() as connection:
        await begin_stamp(connection, index.tenant, NEW, NEW_DIMENSIONS + 1)
    reembedder = Reembedder(index, Gateway(new), new)
    with pytest.raises(InvalidInput, match=f"gives 4 dimensions.*have 5.*--drop {NEW}"):
        await reembedder.run()
    await reembedder.drop(NEW)
    assert (await reembedder.run()).embedded == DOCUMENTS


async def test_vectors_that_change_their_length_on_the_way_are_refused(
    index: Database, new: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is looked at, not the first alone, and those that come at the end too."""
    gateway, calls = Gateway(new), 0
    embed = gateway.embed

    async def shrinking(texts: list[str], **options: Any) -> list[list[float]]:
        nonlocal calls
        calls += 1
        made = [list(vector) for vector in await embed(texts, **options)]
        return made if calls < changes else [*made[:-1], made[-1][:-1]]

    monkeypatch.setattr(gateway, "embed", shrinking)
    changes = 3
    with pytest.raises(InvalidInput, match=f"gives 3 dimensions.*have 4.*--drop {NEW}"):
        await Reembedder(index, gateway, new).run()
    assert (await held(index))[NEW] == (False, 4)


async def test_a_model_is_dropped_when_nobody_writes(index: Database, gateway: Gateway, settings: Settings) -> None:
    """Who is at it is waited for; who comes after is told, and no writer meets a stamp that is gone."""
    document, chunk = Document("new.md", "", "New.", "text/plain", "h"), Chunk(0, 0, 4, "", "New.")
    blocked = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    async with asyncio.timeout(PATIENCE_SECONDS), index.transaction() as writing:
        stamp = await stamps.check_stamp(writing, index.tenant, "offline/static", 256)
        dropped = asyncio.create_task(Reembedder(index, gateway, settings).drop("offline/static"))
        async with index.engine.connect() as watching:
            while not await watching.scalar(blocked):
                await watching.rollback()
        vectors = [[1.0] * 256]
        await store.replace_documents(writing, stamp, index.tenant, [Embedded(document, [chunk], vectors)], recipe="")
    assert await dropped
    with pytest.raises(IndexMismatch, match="app reembed"):
        async with index.transaction() as writing:
            await stamps.check_stamp(writing, index.tenant, "offline/static", 256)


async def test_an_empty_index_has_nothing_to_embed(database: Database, new: Settings, provider: Provider) -> None:
    """No model is called, and no stamp is left that would refuse the first document."""
    reembedder = Reembedder(database, Gateway(new), new)
    assert await reembedder.count() == 0
    with pytest.raises(NoDocuments):
        await reembedder.run()
    assert (provider.count.calls, await held(database)) == (0, {})
