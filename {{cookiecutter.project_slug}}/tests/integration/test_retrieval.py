"""Retrieval from the question to the passages, on a real index and real offline models."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import text

from app.db import stamps, store
from app.db.engine import Database
from app.db.search import Search, Span
from app.db.store import Embedded
from app.errors import IndexMismatch, NoDocuments
from app.gateway.gateway import Gateway
from app.rag.retrieval import Retriever
from app.settings import Settings
from app.types import Chunk, Document, Filter
from tests.provider import Provider, Reply, ServerError

PARTS = (
    "Tea leaves are picked by hand in the early morning.",
    "Green tea is brewed at eighty degrees for two minutes.",
    "Black tea needs boiling water and four minutes.",
    "A teapot made of iron keeps its heat for an hour.",
    "Coffee beans are roasted before they are ground.",
    "The grinder sets how fast the water runs.",
)


async def store_chunks(
    database: Database, gateway: Gateway, source: str, parts: tuple[str, ...], metadata: Mapping[str, str] | None = None
) -> str:
    """Store a document of these chunks, with an empty line between them; give its text."""
    whole, chunks = "\n\n".join(parts), []
    for n, part in enumerate(parts):
        start = whole.index(part)
        chunks.append(Chunk(n, start, start + len(part), "Drinks", part))
    vectors = await gateway.embed([chunk.searched for chunk in chunks])
    async with database.transaction() as connection:
        stamp = await stamps.check_stamp(connection, database.tenant, "offline/static", len(vectors[0]))
        document = Document(source, "Drinks", whole, "text/plain", "hash", metadata=metadata or {})
        await store.replace_documents(
            connection, stamp, database.tenant, [Embedded(document, chunks, vectors)], recipe=""
        )
    return whole


def retriever(database: Database, settings: Settings, **changed: object) -> Retriever:
    """With these settings."""
    settings = settings.model_copy(update=changed)
    return Retriever(database, Gateway(settings), settings)


async def test_both_sides_score_every_candidate(database: Database, gateway: Gateway, settings: Settings) -> None:
    """Scores travel with the passages; a chunk without a word of the question has no keyword score."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    found = await retriever(database, settings).search("How long is green tea brewed?")
    assert [c.fate for c in found.candidates] == ["read"] * 6
    assert (found.found, found.queries, found.notes) == (6, ("How long is green tea brewed?",), ())
    assert [(word.lexeme, word.held) for word in found.words.words] == [
        ("long", 0),
        ("brew", 1),
        ("green", 1),
        ("tea", 3),
    ]
    best, last = found.candidates[0], found.candidates[-1]
    assert best.passage.text == PARTS[1]
    assert (best.score.keyword_share, best.score.fused) == (1.0, best.passage.score)
    assert (last.passage.keyword, last.score.keyword_share) == (None, 0.0)
    assert all(c.passage.dense is not None for c in found.candidates)
    assert found.passages == tuple(c.passage for c in found.candidates)


async def test_what_one_side_proposed_the_other_scores_too(
    database: Database, gateway: Gateway, settings: Settings
) -> None:
    """A chunk that only one side proposed has the same two scores as when both had."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    [meant] = await gateway.embed([PARTS[2]])
    whole = await retriever(database, settings).search("green tea", vector=meant)
    found = await retriever(database, settings, candidates=1).search("green tea", vector=meant)
    known = {c.passage.chunk_id: c.passage for c in whole.candidates}
    assert {c.passage.text for c in found.candidates} == {PARTS[1], PARTS[2]}
    for passage in (c.passage for c in found.candidates):
        same = known[passage.chunk_id]
        assert (passage.keyword, passage.dense) == pytest.approx((same.keyword, same.dense))


async def test_a_question_of_stop_words_is_searched_by_meaning(
    database: Database, gateway: Gateway, settings: Settings
) -> None:
    """There is nothing for the keyword side to look for."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    found = await retriever(database, settings).search("What is it that you have there?")
    assert found.words.words == ()
    dense = [c.passage.dense or 0.0 for c in found.candidates]
    assert dense == sorted(dense, reverse=True)
    assert all(c.passage.keyword is None for c in found.candidates)


async def test_reciprocal_ranks_are_a_setting(database: Database, gateway: Gateway, settings: Settings) -> None:
    """FUSION=rrf gives the sums of reciprocal ranks."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    found = await retriever(database, settings, fusion="rrf").retrieve("How long is green tea brewed?")
    assert found[0].score == pytest.approx(2 / 61)


async def test_what_is_below_the_cut_is_told(database: Database, gateway: Gateway, settings: Settings) -> None:
    """PASSAGES are read, the others are candidates."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    found = await retriever(database, settings, passages=2).search("green tea")
    assert [c.fate for c in found.candidates] == ["read"] * 2 + ["below"] * 4
    assert [p.text for p in found.passages][:1] == [PARTS[1]]


async def test_near_duplicates_are_read_once(database: Database, gateway: Gateway, settings: Settings) -> None:
    """The same text in another document makes room for what says something else."""
    await store_chunks(database, gateway, "a.md", PARTS[:2])
    await store_chunks(database, gateway, "b.md", (PARTS[1].upper(), PARTS[2]))
    found = await retriever(database, settings, passages=3).search("green tea")
    assert sorted(p.text.lower() for p in found.passages) == sorted(part.lower() for part in PARTS[:3])
    [twin] = [c for c in found.candidates if c.fate == "duplicate"]
    assert twin.of == found.candidates[0].passage.chunk_id
    assert len({c.passage.chunk_id for c in found.candidates}) == 4


async def test_filters_limit_what_is_found(database: Database, gateway: Gateway, settings: Settings) -> None:
    """Nothing from outside, and no error where nothing is inside."""
    await store_chunks(database, gateway, "old/a.md", PARTS[:2], {"year": "2025"})
    await store_chunks(database, gateway, "new/b.md", PARTS[2:4], {"year": "2026"})
    search = retriever(database, settings)
    for filters, sources in (
        (Filter({"year": "2026"}), {"new/b.md"}),
        (Filter(source_prefix="old/"), {"old/a.md"}),
        (Filter({"year": "2026"}, "old/"), set()),
    ):
        assert {p.source for p in await search.retrieve("green tea", filters=filters)} == sources


async def test_neighbours_are_read_with_what_was_found(
    database: Database, gateway: Gateway, settings: Settings
) -> None:
    """The passage is the stored text from the first neighbour's beginning to the last one's end."""
    whole = await store_chunks(database, gateway, "drinks.md", PARTS)
    question = "How many degrees for green tea, brewed?"
    plain = await retriever(database, settings, passages=1).search(question)
    wide = await retriever(database, settings, passages=1, neighbours=1).search(question)
    [passage] = wide.passages
    assert passage.text == whole[passage.start : passage.end] == "\n\n".join(PARTS[:3])
    assert (passage.chunk_id, passage.score) == (plain.passages[0].chunk_id, plain.passages[0].score)


async def test_a_document_that_goes_meanwhile_is_left_out(database: Database) -> None:
    """Its spans have no text any more, and cost the question nothing."""
    async with database.transaction() as connection:
        assert await Search(connection, database.tenant).texts([Span(1, 0, 0, 0, 9)]) == [""]


async def test_neighbours_that_touch_become_one_passage(
    database: Database, gateway: Gateway, settings: Settings
) -> None:
    """No text is read twice; the best keeps its place, and the others say where they went."""
    whole = await store_chunks(database, gateway, "drinks.md", PARTS)
    other = await store_chunks(database, gateway, "other.md", ("Green tea is green.",))
    found = await retriever(database, settings, passages=7, neighbours=1).search("green tea")
    assert {p.source: p.text for p in found.passages} == {"drinks.md": whole, "other.md": other}
    ids = {p.chunk_id for p in found.passages}
    assert {c.of for c in found.candidates if c.fate == "merged"} <= ids
    assert len([c for c in found.candidates if c.fate == "merged"]) == 5
    assert {c.passage.chunk_id for c in found.candidates if c.fate == "read"} == ids


async def test_nothing_stored_is_said_before_a_model_is_asked(
    database: Database, settings: Settings, gateway: Gateway
) -> None:
    """Without an index, and with an index whose documents are gone."""
    with pytest.raises(NoDocuments):
        await retriever(database, settings).retrieve("tea")
    await store_chunks(database, gateway, "drinks.md", PARTS)
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM documents"))
    with pytest.raises(NoDocuments):
        await retriever(database, settings).retrieve("tea")


async def test_another_models_index_is_refused_and_nothing_is_written(
    database: Database, gateway: Gateway, settings: Settings
) -> None:
    """A question only reads: no stamp appears for the tenant that asks."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE index_stamps SET embedding_model = 'other/model'"))
    with pytest.raises(IndexMismatch):
        await retriever(database, settings).retrieve("tea")
    stranger = database.for_tenant("stranger")
    with pytest.raises(NoDocuments):
        await retriever(stranger, settings).retrieve("tea")
    async with stranger.transaction() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM index_stamps")) == 0


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A chat model over HTTP."""
    with Provider() as running:
        yield running


def online(provider: Provider, settings: Settings, **changed: Any) -> Settings:
    """The settings with the provider's chat model."""
    chat = {"model": "openai/test-model", "api_base": provider.url, "json_schema": True}
    given = {"database_url": settings.database_url, "data_dir": settings.data_dir, "chat": chat, "max_attempts": 1}
    return Settings(**given | changed)


async def test_written_queries_find_what_the_question_does_not(
    provider: Provider, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Each query is searched for, and a chunk keeps its best score with the query that gave it."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    asked, written = "What about espresso?", "coffee beans roasted"
    settings = online(provider, settings, rewrite=True)
    plain = await retriever(database, settings.model_copy(update={"rewrite": False})).search(asked)
    provider.then(Reply(json.dumps({"queries": [written]})))
    found = await retriever(database, settings).search(asked)
    assert (found.queries, found.words, found.notes) == ((asked, written), plain.words, ())
    best = found.candidates[0]
    assert (best.passage.text, best.score.query, best.score.fused) == (PARTS[4], written, 1.0)
    before = {c.passage.chunk_id: c.score for c in plain.candidates}
    for candidate in found.candidates:
        known = before[candidate.passage.chunk_id]
        assert candidate.score == known or (candidate.score.query, candidate.score.fused > known.fused) == (
            written,
            True,
        )


async def test_a_known_vector_is_not_made_again(database: Database, gateway: Gateway, settings: Settings) -> None:
    """The question's vector may come from whoever needed it before."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    [tea] = await gateway.embed(["green tea"])
    found = await retriever(database, settings).search("roasted", vector=tea)
    assert max(found.candidates, key=lambda c: c.passage.dense or 0).passage.text == PARTS[1]


async def test_without_a_written_query_the_question_is_searched_for(
    provider: Provider, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """A model that fails is noted, and stops nothing."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    provider.then(ServerError())
    found = await retriever(database, online(provider, settings, rewrite=True)).search("green tea")
    assert (found.queries, found.notes) == (("green tea",), ("no further query was written",))
    assert found.passages[0].text == PARTS[1]


async def test_a_reranker_has_the_last_word(
    provider: Provider, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """It sees more than is read, and its order decides; what it puts last is below the cut."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    provider.then(Reply(json.dumps({"ratings": [{"passage": 6, "relevance": 3}, {"passage": 5, "relevance": 2}]})))
    plain = await retriever(database, settings).search("green tea")
    found = await retriever(database, online(provider, settings, rerank="llm", passages=2)).search("green tea")
    assert [p.text for p in found.passages] == [plain.passages[5].text, plain.passages[4].text]
    assert [(c.fate, c.passage.rerank) for c in found.candidates] == [("read", 3), ("read", 2)] + [("below", 0)] * 4
    assert found.notes == ()


async def test_a_reranker_does_not_limit_how_much_is_read(
    provider: Provider, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Where more passages are wanted than are usually reranked, all of them are."""
    numbers = tuple(f"Green tea number {n} {'abcdefghijklmnopqrstuvwxyzABCDEFGHIJ'[n] * 5}." for n in range(36))
    await store_chunks(database, gateway, "drinks.md", numbers)
    provider.then(Reply(json.dumps({"ratings": []})))
    found = await retriever(database, online(provider, settings, rerank="llm", passages=36)).search("green tea")
    assert (len(found.passages), found.notes) == (36, ())


async def test_a_reranker_that_fails_leaves_the_fused_order(
    provider: Provider, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """With a note of it."""
    await store_chunks(database, gateway, "drinks.md", PARTS)
    provider.then(ServerError())
    plain = await retriever(database, settings, passages=2).search("green tea")
    found = await retriever(database, online(provider, settings, rerank="llm", passages=2)).search("green tea")
    assert (found.passages, found.notes) == (plain.passages, ("the reranker failed: the fused order was kept",))


async def test_nothing_stored_is_said_before_a_query_is_written(
    provider: Provider, database: Database, settings: Settings
) -> None:
    """A model that costs money is not asked for a search in nothing."""
    with pytest.raises(NoDocuments):
        await retriever(database, online(provider, settings, rewrite=True)).retrieve("tea")
    assert provider.requests == []
