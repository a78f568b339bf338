"""Both searches in SQL, against plain Python, across tenants, filters and the index."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from app.db import search as sql
from app.db import stamps, store
from app.db.engine import Database
from app.db.search import K1, B, Search
from app.db.store import Embedded
from app.db.vectors import tend
from app.types import Chunk, Document, Filter

MODEL, DIMENSIONS = "test/vectors", 256
# Stems of themselves, and no stop words.
WORDS = ("river", "stone", "bread", "cloud", "lamp", "goat")
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), min_size=1, max_size=8)
QUESTIONS = st.lists(st.sampled_from((*WORDS, "unseen")), min_size=1, max_size=9)


async def fill(
    database: Database,
    texts: Sequence[str],
    *,
    vectors: Sequence[Sequence[float]] | None = None,
    source: str = "doc",
    metadata: dict[str, str] | None = None,
) -> int:
    """Store each text as a document of one chunk, in order; give the stamp."""
    async with database.transaction() as connection:
        stamp = await stamps.check_stamp(connection, database.tenant, MODEL, DIMENSIONS)
        for n, body in enumerate(texts):
            document = Document(f"{source}{n}.md", "", body, "text/plain", "hash", metadata=metadata or {})
            vector = vectors[n] if vectors else direction(n)
            chunk = Chunk(0, 0, len(body), "", body)
            await store.replace_documents(
                connection, stamp, database.tenant, [Embedded(document, [chunk], [vector])], recipe=""
            )
    return stamp


def direction(n: int, lean: float = 0.0) -> list[float]:
    """A unit vector along axis `n`, leaning towards the next axis."""
    vector = [0.0] * DIMENSIONS
    vector[n % DIMENSIONS], vector[(n + 1) % DIMENSIONS] = math.cos(lean), math.sin(lean)
    return vector


def bm25(question: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """The formula, read aloud."""
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for words in texts:
        score = 0.0
        for word in question:
            held, times = sum(word in other for other in texts), Counter(words)[word]
            idf = math.log(1 + (len(texts) - held + 0.5) / (held + 0.5))
            score += idf * times * (K1 + 1) / (times + K1 * (1 - B + B * len(words) / mean))
        scores.append(score)
    return scores


async def clear(database: Database) -> None:
    """Forget this tenant's documents."""
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM documents"))


@given(texts=TEXTS, question=QUESTIONS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_bm25_in_sql_is_bm25(database: Database, texts: list[list[str]], question: list[str]) -> None:
    """Scores equal those of a plain implementation, words asked twice count twice, and ties keep the older first."""
    await clear(database)
    await fill(database, [" ".join(words) for words in texts])
    async with database.transaction() as connection:
        search = Search(connection, database.tenant)
        words = await search.words(" ".join(question))
        scores = await search.keyword(words, 100)
        named = await search.keyword_of(words, scores)
    expected = [score for score in bm25(question, texts) if score > 0]
    assert [scores[chunk] for chunk in sorted(scores)] == pytest.approx(expected, abs=1e-6)
    assert list(scores) == sorted(scores, key=lambda chunk: (-scores[chunk], chunk))
    assert named == pytest.approx(scores)


async def find_words(database: Database, question: str, limit: int = 10, filters: Filter | None = None) -> list[int]:
    """The chunks that the keyword search finds, best first."""
    async with database.transaction() as connection:
        search = Search(connection, database.tenant, filters)
        return list(await search.keyword(await search.words(question), limit))


async def find_near(
    database: Database, stamp: int, vector: Sequence[float], limit: int = 10, filters: Filter | None = None
) -> dict[int, float]:
    """What the dense search finds among as many chunks as the filters leave."""
    async with database.transaction() as connection:
        search = Search(connection, database.tenant, filters)
        among = await search.count(await search.words("any"))
        return await search.dense(stamp, vector, limit, among=among)


async def sources(database: Database, chunks: Sequence[int]) -> list[str]:
    """Where the chunks come from, in order."""
    async with database.transaction() as connection:
        found = await Search(connection, database.tenant).passages(chunks)
    return [found[chunk].source for chunk in chunks]


async def test_a_question_without_words_finds_nothing_by_words(database: Database) -> None:
    """Stop words alone are no words; the size of the index is known all the same."""
    await fill(database, ["the river", "a stone"])
    async with database.transaction() as connection:
        search = Search(connection, database.tenant)
        words = await search.words("what is the of and")
        assert (words.words, words.chunks) == ((), 2)
        assert await search.keyword(words, 10) == {}
        assert await search.keyword_of(words, [1]) == {}


async def test_an_empty_index_has_no_chunks(database: Database) -> None:
    """Nothing is divided by nothing."""
    async with database.transaction() as connection:
        search = Search(connection, database.tenant)
        words = await search.words("river")
        assert (words.chunks, words.mean_length) == (0, 1.0)
        assert await search.keyword(words, 10) == {}


async def test_a_very_long_question_is_searched_whole(database: Database) -> None:
    """Its one rare word decides, wherever it stands."""
    await fill(database, ["river stone", "goat lamp", "bread"])
    long = " ".join(["unheard of things"] * 200 + ["goat"] + ["and more of it"] * 200)
    assert await sources(database, await find_words(database, long)) == ["doc1.md"]


async def test_words_that_are_too_common_rate_what_others_propose(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A common word brings in no chunk of its own, and still counts in full for those that come in."""
    texts = ["river stone", "river", "goat stone", "river river goat", "river bread", "river"]
    await fill(database, texts)
    async with database.transaction() as connection:
        search = Search(connection, database.tenant)
        exact = await search.keyword(await search.words("river goat"), 10)
        monkeypatch.setattr(sql, "MOST_POSTINGS", 3)
        words = await search.words("river goat")
        proposed = await search.keyword(words, 10)
        best = await search.keyword(words, 1)
    assert [(word.lexeme, word.held, word.proposes) for word in words.words] == [("goat", 2, True), ("river", 5, False)]
    assert proposed == pytest.approx({chunk: exact[chunk] for chunk in proposed})
    assert list(proposed) == list(exact)[:2]
    assert list(best) == list(exact)[:1]
    assert set(await sources(database, list(proposed))) == {"doc2.md", "doc3.md"}


async def test_the_rarest_word_proposes_however_common_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question of common words alone still finds something."""
    monkeypatch.setattr(sql, "MOST_POSTINGS", 0)
    await fill(database, ["river", "river stone", "stone river"])
    assert len(await find_words(database, "river stone")) == 2


async def test_headings_and_contexts_are_searched(database: Database) -> None:
    """A chunk is found by the heading it stands under and by the context that was written for it."""
    async with database.transaction() as connection:
        stamp = await stamps.check_stamp(connection, database.tenant, MODEL, DIMENSIONS)
        document = Document("a.md", "", "stone", "text/plain", "hash")
        chunk = Chunk(0, 0, 5, "goat", "stone", context="lamp")
        await store.replace_documents(
            connection, stamp, database.tenant, [Embedded(document, [chunk], [direction(0)])], recipe=""
        )
    assert len(await find_words(database, "goat")) == len(await find_words(database, "lamp")) == 1


async def test_equal_scores_keep_the_older_chunk_first(database: Database) -> None:
    """Two runs over the same index give the same order, on both sides."""
    stamp = await fill(database, ["river"] * 5, vectors=[direction(3)] * 5)
    by_words, near = await find_words(database, "river", 3), await find_near(database, stamp, direction(3), 3)
    assert by_words == list(near) == sorted(near)
    assert await sources(database, by_words) == ["doc0.md", "doc1.md", "doc2.md"]


async def test_the_nearest_come_first_with_their_cosine(database: Database) -> None:
    """Scores are cosine similarities, to the precision of half a float; `also` names others to rate."""
    stamp = await fill(database, ["a", "b", "c"], vectors=[direction(0, lean) for lean in (0.9, 0.1, 1.5)])
    near = await find_near(database, stamp, direction(0), 2)
    assert await sources(database, list(near)) == ["doc1.md", "doc0.md"]
    assert list(near.values()) == pytest.approx([math.cos(0.1), math.cos(0.9)], abs=2e-3)
    async with database.transaction() as connection:
        search = Search(connection, database.tenant)
        other = max(near) + 1
        named = await search.dense(stamp, direction(0), 1, among=3, also=[other, *near])
    assert named == pytest.approx(near | {other: math.cos(1.5)}, abs=2e-3)


async def test_a_vector_of_zeros_is_like_nothing(database: Database) -> None:
    """A question without a known word still gets its chunks, with a score of 0."""
    stamp = await fill(database, ["a", "b"])
    assert list((await find_near(database, stamp, [0.0] * DIMENSIONS)).values()) == [0, 0]


@pytest.fixture
async def index(database: Database, owner: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """An HNSW index for these vectors, taken for any number of them."""
    monkeypatch.setattr(sql, "EXACT_BELOW", 0)
    await fill(database.for_tenant("first"), ["river"])
    await tend(owner.for_tenant("first"), index_from=1)
    yield
    async with owner.engine.begin() as connection:
        await connection.execute(text(f"DROP INDEX embeddings_hnsw_{DIMENSIONS}"))


async def plan(database: Database, dimensions: int, limits: str) -> str:
    """How Postgres would search for vectors of this length."""
    values = {"stamp": 1, "tenant": "t", "limit": 5, "also": [1], "metadata": "{}", "prefix": ""}
    distance, indexed = sql.APPROXIMATE.format(n=dimensions), f"dimensions = {dimensions}"
    statement = "EXPLAIN " + sql.DENSE.format(distance=distance, indexed=indexed, limits=limits)
    vector = store.as_literal([1.0] * dimensions)
    async with database.transaction() as connection:
        await connection.execute(sql.WALK, {"ef": "100"})
        return "\n".join((await connection.execute(text(statement), values | {"vector": vector})).scalars())


@pytest.mark.usefixtures("index")
async def test_each_tenant_finds_only_its_own_through_the_index(database: Database) -> None:
    """Every one of many small tenants gets as many rows as it asks for, the right ones, from the one HNSW index."""
    tenants = [database.for_tenant(f"tenant-{n}") for n in range(25)]
    for n, tenant in enumerate(tenants):
        # Their vectors lie among each other, so that the nearest of all belong to others.
        await fill(tenant, ["river"] * 12, vectors=[direction(7, 0.004 * (25 * m + n)) for m in range(12)])
    for tenant in tenants:
        async with tenant.transaction() as connection:
            stamp = await stamps.check_stamp(connection, tenant.tenant, MODEL, DIMENSIONS)
            for table in ("postings", "embeddings"):
                assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) >= 12
        near = await find_near(tenant, stamp, direction(7), 10)
        assert await sources(tenant, sorted(near, key=lambda chunk: -near[chunk])) == [f"doc{m}.md" for m in range(10)]


@pytest.mark.usefixtures("index")
async def test_many_chunks_are_searched_through_the_index_of_their_dimensions(database: Database) -> None:
    """The planner takes the HNSW index, with filters too; where there is none for these dimensions it sorts."""
    assert "embeddings_hnsw_256" in await plan(database, 256, "true")
    assert "embeddings_hnsw_256" in await plan(database, 256, sql.OF_CHUNKS)
    assert "hnsw" not in await plan(database, 100, "true")


async def test_a_search_leaves_the_planner_as_it_was(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for the walk through the index does not outlive it."""
    stamp = await fill(database, ["river"])
    monkeypatch.setattr(sql, "EXACT_BELOW", 0)
    async with database.transaction() as connection:
        await Search(connection, database.tenant).dense(stamp, direction(0), 1, among=1)
        assert await connection.scalar(text("SHOW enable_sort")) == "on"


async def test_vectors_of_another_length_are_searched_without_an_index(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model with unusual dimensions works, exactly."""
    monkeypatch.setattr(sql, "EXACT_BELOW", 0)
    async with database.transaction() as connection:
        stamp = await stamps.check_stamp(connection, database.tenant, "test/three", 3)
        for n, vector in enumerate(([1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0])):
            document, chunk = Document(f"{n}.md", "", "x", "text/plain", "hash"), Chunk(0, 0, 1, "", "x")
            await store.replace_documents(
                connection, stamp, database.tenant, [Embedded(document, [chunk], [vector])], recipe=""
            )
    near = await find_near(database, stamp, [0.0, 1.0, 0], 3)
    assert list(near.values()) == pytest.approx([0.8, 0, 0], abs=2e-3)


async def test_too_few_from_the_index_are_searched_for_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the walk ends before it has found enough of this tenant's, every vector is read."""
    stamp = await fill(database, ["river"] * 8)
    monkeypatch.setattr(sql, "EXACT_BELOW", 0)
    monkeypatch.setattr(sql, "APPROXIMATE", "embedding::halfvec({n}) <=> CAST(:vector AS halfvec({n})) LIMIT 2 --")
    async with database.transaction() as connection:
        search = Search(connection, database.tenant)
        assert len(await search.dense(stamp, direction(0), 5, among=8)) == 5


@pytest.mark.parametrize("exact_below", [0, 10_000])
async def test_filters_hold_on_both_sides(
    database: Database, monkeypatch: pytest.MonkeyPatch, exact_below: int
) -> None:
    """Metadata has to be all there, the source has to begin as asked, and neither is a pattern."""
    monkeypatch.setattr(sql, "EXACT_BELOW", exact_below)
    near_all = [direction(0)] * 6
    await fill(database, ["river"] * 6, vectors=near_all, source="a_b/", metadata={"team": "x", "year": "2026"})
    await fill(database, ["river"] * 6, vectors=near_all, source="axb/", metadata={"team": "x"})
    stamp = await fill(database, ["river"] * 6, vectors=near_all, source="a%/", metadata={"team": 'y"'})
    for filters, expected in (
        (Filter({"team": "x", "year": "2026"}), {"a_b/": 6}),
        (Filter({"team": "x"}), {"a_b/": 6, "axb/": 6}),
        (Filter({"team": 'y"'}), {"a%/": 6}),
        (Filter({"team": "z"}), {}),
        (Filter(source_prefix="a_b"), {"a_b/": 6}),
        (Filter(source_prefix="a%"), {"a%/": 6}),
        (Filter({"team": "x"}, "ax"), {"axb/": 6}),
        (Filter(), {"a_b/": 6, "axb/": 6, "a%/": 6}),
    ):
        by_words = await find_words(database, "river", 20, filters)
        near = await find_near(database, stamp, direction(0), 20, filters)
        for found in (by_words, list(near)):
            assert Counter(source[:-4] for source in await sources(database, found)) == expected


async def test_idf_is_the_tenants_whatever_the_filters(database: Database) -> None:
    """How much a word tells does not change with the part that is searched."""
    await fill(database, ["river", "stone"], source="a/")
    await fill(database, ["river"], source="b/")
    async with database.transaction() as connection:
        whole, part = (Search(connection, database.tenant, f) for f in (None, Filter(source_prefix="b/")))
        words = await part.words("river")
        assert words == await whole.words("river")
        assert (await part.count(words), await whole.count(words)) == (1, 3)
