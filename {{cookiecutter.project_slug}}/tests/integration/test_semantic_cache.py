"""The semantic cache: no switch without a measurement, and nothing served that may be somebody else's answer."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.db import stamps, store
from app.db.cache import index_state
from app.db.engine import Database
from app.errors import InvalidInput, ProviderRejected
from app.evals.dataset import load_dataset
from app.gateway.gateway import Gateway
from app.gateway.semantic_cache import Measurement, SemanticCache, load_pairs, measure, off
from app.rag.ingest import Ingester
from app.settings import Settings
from tests.conftest import PROJECT
from tests.provider import Provider, Rejected

SHIPPED = PROJECT / "evals" / "datasets" / "same-question.jsonl"
SCOPE = ["prompt", "model", "index"]
ANSWER = {"text": "Two retries.", "citations": [{"marker": 1}]}
ASKED = "How many retries does the OpenAI Python library make by default?"
REWORDED = "By default, how many retries does the OpenAI Python library make?"
NEAR_MISS = "How long does the OpenAI Python library wait by default?"
COUNTED = Measurement("ask", 0.95, "a/model", "hash", same=50, different=50, true_hits=45, false_hits=5, limit=0.01)

Write = Callable[[Iterable[tuple[str, str, bool]]], Path]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A limit that 40 pairs of each kind can show to hold."""
    return settings.model_copy(update={"semantic_cache_max_false_hits": 0.1})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes a file of pairs."""

    def made(pairs: Iterable[tuple[str, str, bool]]) -> Path:
        file = tmp_path / "pairs.jsonl"
        file.write_text("\n".join(json.dumps(dict(zip(("a", "b", "same"), pair, strict=True))) for pair in pairs))
        return file

    return made


@pytest.fixture
def provider() -> Iterator[Provider]:
    """An embedding model elsewhere."""
    with Provider() as running:
        yield running


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """Eighty questions of the field guide that have nothing to do with each other."""
    cases = load_dataset(PROJECT / "evals" / "datasets" / "field-guide.jsonl").cases
    return [case.question for case in cases[:80]]


@pytest.fixture
def easy(write: Write, questions: list[str]) -> Path:
    """Pairs that anything can tell apart: the same words with another mark, and questions about something else."""
    same = [(question, f"{question}!", True) for question in questions[:40]]
    different = [(a, b, False) for a, b in zip(questions[:40], questions[40:], strict=True)]
    return write(same + different)


@pytest.fixture
def hard(write: Write, questions: list[str]) -> Path:
    """The same with two pairs that look alike and are not."""
    same = [(question, f"{question}!", True) for question in questions[:40]]
    different = [(a, b, False) for a, b in zip(questions[:38], questions[40:78], strict=True)]
    alike = [
        ("Are refunds possible?", "Are refunds not possible?", False),
        ("Should the answer stand before the reason?", "Should the reason stand before the answer?", False),
    ]
    return write(same + different + alike)


@pytest.fixture
async def switched_on(database: Database, gateway: Gateway, settings: Settings, easy: Path) -> Measurement:
    """The route `ask` after a measurement that went well."""
    return await measure(database, gateway, settings, route="ask", threshold=0.95, pairs=easy)


@pytest.fixture
def cache(database: Database, settings: Settings) -> SemanticCache:
    """The cache of the default tenant."""
    return SemanticCache(database, settings)


async def vector_of(gateway: Gateway, question: str) -> list[float]:
    """As the pipeline embeds a question."""
    [vector] = await gateway.embed([question])
    return vector


async def count(database: Database, table: str) -> int:
    """How many rows a table has."""
    async with database.transaction() as connection:
        return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


async def make_older(database: Database, seconds: float) -> None:
    """Let time pass in the table."""
    older = text("UPDATE semantic_cache SET created_at = created_at - make_interval(secs => :seconds)")
    async with database.transaction() as connection:
        await connection.execute(older, {"seconds": seconds})


def test_the_shipped_pairs_are_enough_of_both_kinds() -> None:
    """More than sixty rewordings and as many near misses, each once."""
    pairs, _ = load_pairs(SHIPPED)
    assert sum(pair.same for pair in pairs) >= 60
    assert sum(not pair.same for pair in pairs) >= 60


@pytest.mark.parametrize("threshold", [0.7, 0.85, 0.95, 0.99])
async def test_the_offline_embedding_is_refused_on_the_shipped_pairs(
    database: Database, gateway: Gateway, settings: Settings, threshold: float
) -> None:
    """Static vectors see the words and not the meaning: of near misses more would hit than of rewordings."""
    measured = await measure(database, gateway, settings, route="ask", threshold=threshold, pairs=SHIPPED)
    assert measured.false_hits > measured.true_hits
    assert not measured.is_safe
    assert await count(database, "semantic_cache_routes") == 0


async def test_pairs_that_are_told_apart_switch_the_cache_on(database: Database, switched_on: Measurement) -> None:
    """The row that is the switch holds what was measured, with which model, and on what."""
    assert (switched_on.true_hits, switched_on.false_hits, switched_on.is_safe) == (40, 0, True)
    async with database.transaction() as connection:
        row = (await connection.execute(text("SELECT * FROM semantic_cache_routes"))).mappings().one()
    assert dict(row) | {"measured_at": None} == {
        "route": "ask",
        "threshold": 0.95,
        "embedding_model": "offline/static",
        "false_hit_rate": 0.0,
        "false_hit_rate_at_most": switched_on.false_hit_rate_at_most,
        "pairs": 80,
        "dataset_hash": switched_on.dataset_hash,
        "measured_at": None,
    }


async def test_few_false_hits_are_not_enough_to_be_safe(
    database: Database, gateway: Gateway, settings: Settings, hard: Path
) -> None:
    """Two of forty are five percent as counted, and may be fifteen in truth: a limit of ten is not shown to hold."""
    measured = await measure(database, gateway, settings, route="ask", threshold=0.95, pairs=hard)
    assert measured.false_hits == 2
    assert measured.false_hit_rate < measured.limit < measured.false_hit_rate_at_most
    assert await count(database, "semantic_cache_routes") == 0


@pytest.mark.usefixtures("switched_on")
async def test_a_measurement_that_goes_badly_switches_off(
    database: Database, gateway: Gateway, settings: Settings, cache: SemanticCache, hard: Path
) -> None:
    """What was on goes off, and what was kept is gone; another route is left as it is."""
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    await measure(database, gateway, settings, route="other", threshold=0.95, pairs=hard)
    assert await cache.find("ask", SCOPE, vector) == ANSWER
    await measure(database, gateway, settings, route="ask", threshold=0.95, pairs=hard)
    assert await cache.find("ask", SCOPE, vector) is None
    assert await count(database, "semantic_cache") == 0


@pytest.mark.usefixtures("switched_on")
async def test_a_better_measurement_takes_the_place_of_the_last(
    database: Database, gateway: Gateway, settings: Settings, easy: Path
) -> None:
    """One row a route, with the newest threshold."""
    await measure(database, gateway, settings, route="ask", threshold=0.9, pairs=easy)
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT threshold FROM semantic_cache_routes")) == 0.9


@pytest.mark.usefixtures("switched_on")
async def test_a_measurement_that_fails_changes_nothing(
    database: Database, settings: Settings, easy: Path, provider: Provider
) -> None:
    """Where the embedding model cannot be asked, nothing is known that was not known before."""
    provider.then(Rejected())
    elsewhere = settings.embedding.model_copy(update={"model": "openai/embed", "api_base": provider.url})
    gateway = Gateway(settings.model_copy(update={"embedding": elsewhere}))
    with pytest.raises(ProviderRejected):
        await measure(database, gateway, settings, route="ask", threshold=0.95, pairs=easy)
    assert await count(database, "semantic_cache_routes") == 1


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, 95, float("nan")])
async def test_a_threshold_is_a_cosine(
    database: Database, gateway: Gateway, settings: Settings, threshold: float
) -> None:
    """Whoever means percent is told."""
    with pytest.raises(InvalidInput, match="above 0 and at most 1"):
        await measure(database, gateway, settings, route="ask", threshold=threshold, pairs=SHIPPED)


@pytest.mark.parametrize(
    ("changed", "rate", "at_most"),
    [
        ({}, 0.1, 0.2136),
        ({"different": 10}, 0.5, 0.7634),
        ({"true_hits": 0}, 1.0, 1.0),
        ({"true_hits": 0, "false_hits": 0}, 1.0, 1.0),
        ({"different": 0, "false_hits": 0}, 1.0, 1.0),
        ({"false_hits": 0}, 0.0, 0.0787),
    ],
    ids=["as the field guide has it", "few near misses", "only false hits", "no hit", "no near miss", "no false hit"],
)
def test_false_hits_are_held_against_the_fewer(changed: dict[str, int], rate: float, at_most: float) -> None:
    """Of hits and different pairs the fewer count, and where there are none, nothing is known and all may be wrong."""
    measured = replace(COUNTED, **changed)  # type: ignore[arg-type]  # mypy takes each for a field of any type
    assert measured.false_hit_rate == pytest.approx(rate)
    assert measured.false_hit_rate_at_most == pytest.approx(at_most, abs=1e-4)


def test_one_percent_takes_hundreds_of_pairs() -> None:
    """The default limit can be shown to hold by 381 hits and as many near misses without a mistake, not by fewer."""
    perfect = replace(COUNTED, same=381, different=381, true_hits=381, false_hits=0)
    assert perfect.is_safe
    assert not replace(perfect, true_hits=380).is_safe
    assert not replace(perfect, different=380).is_safe


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_what_cannot_be_ruled_out_is_more_than_what_was_counted(
    same: int, right: int, different: int, bad: int
) -> None:
    """Whatever was counted, both rates are shares, and one more near miss that hits never makes them smaller."""
    counts = {"same": same, "true_hits": min(right, same), "different": different, "false_hits": min(bad, different)}
    measured = replace(COUNTED, **counts)  # type: ignore[arg-type]  # as above
    worse = replace(measured, different=measured.different + 1, false_hits=measured.false_hits + 1)
    assert 0 <= measured.hit_rate <= 1
    assert 0 <= measured.false_hit_rate <= measured.false_hit_rate_at_most + 1e-9 <= 1 + 1e-9
    assert measured.trials == 0 or worse.false_hit_rate >= measured.false_hit_rate


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": "x", "b": "y"}', "same: Field required"),
        ('{"a": "x", "b": "", "same": true}', "b: String should have at least 1 character"),
        ('{"a": "x", "b": "y", "same": true, "c": 1}', "c: Extra inputs are not permitted"),
        ("no JSON", "pair: Invalid JSON"),
        ('{"a": "2", "b": "1", "same": true}', "this pair was there before"),
    ],
)
def test_a_mistake_in_the_pairs_is_named_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    """The third line is wrong, and an empty one counts as a line."""
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"a": "1", "b": "2", "same": false}\n\n' + line)
    with pytest.raises(InvalidInput, match=rf"pairs.jsonl:3: {reason}"):
        load_pairs(file)


def test_pairs_that_are_not_there_are_named(tmp_path: Path) -> None:
    """A wrong path is a sentence."""
    with pytest.raises(InvalidInput, match=r"none.jsonl cannot be read: No such file"):
        load_pairs(tmp_path / "none.jsonl")


async def test_an_unmeasured_route_stores_and_finds_nothing(
    database: Database, gateway: Gateway, cache: SemanticCache
) -> None:
    """Off is the default."""
    assert not await cache.is_on("ask")
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    assert await cache.find("ask", SCOPE, vector) is None
    assert await count(database, "semantic_cache") == 0


@pytest.mark.usefixtures("switched_on")
async def test_a_reworded_question_gets_the_answer_and_a_near_miss_does_not(
    gateway: Gateway, cache: SemanticCache
) -> None:
    """From the threshold on, questions are the same."""
    assert (await cache.is_on("ask"), await cache.is_on("other")) == (True, False)
    await cache.keep("ask", SCOPE, ASKED, await vector_of(gateway, ASKED), ANSWER)
    assert await cache.find("ask", SCOPE, await vector_of(gateway, REWORDED)) == ANSWER
    assert await cache.find("ask", SCOPE, await vector_of(gateway, NEAR_MISS)) is None


@pytest.mark.usefixtures("switched_on")
async def test_the_nearest_question_answers_and_of_equals_the_newest(gateway: Gateway, cache: SemanticCache) -> None:
    """Not the first that is near enough."""
    asked, reworded = await gateway.embed([ASKED, REWORDED])
    await cache.keep("ask", SCOPE, REWORDED, reworded, {"text": "of the reworded"})
    await cache.keep("ask", SCOPE, ASKED, asked, {"text": "old"})
    await cache.keep("ask", SCOPE, ASKED, asked, {"text": "new"})
    assert await cache.find("ask", SCOPE, asked) == {"text": "new"}
    assert await cache.find("ask", SCOPE, reworded) == {"text": "of the reworded"}


@pytest.mark.usefixtures("switched_on")
@pytest.mark.parametrize("scope", [["prompt", "model", "index 2"], ["prompt", "model"], {"prompt": 1}, None], ids=str)
async def test_an_answer_of_another_scope_is_not_found(gateway: Gateway, cache: SemanticCache, scope: object) -> None:
    """Another prompt, another model, another state of the index: another answer."""
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    assert await cache.find("ask", scope, vector) is None


@pytest.mark.usefixtures("switched_on")
async def test_an_answer_of_another_tenant_or_route_is_not_found(
    database: Database, gateway: Gateway, settings: Settings, cache: SemanticCache, easy: Path
) -> None:
    """However near the question is, and though both may use the cache."""
    await measure(database, gateway, settings, route="other", threshold=0.95, pairs=easy)
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    assert await SemanticCache(database.for_tenant("other"), settings).find("ask", SCOPE, vector) is None
    assert await cache.find("other", SCOPE, vector) is None


@pytest.mark.usefixtures("switched_on")
async def test_another_embedding_model_than_the_measured_one_is_off(
    database: Database, gateway: Gateway, settings: Settings, cache: SemanticCache
) -> None:
    """It neither finds nor keeps, and its vectors of another length disturb nothing."""
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    changed = settings.embedding.model_copy(update={"model": "openai/embed"})
    another = SemanticCache(database, settings.model_copy(update={"embedding": changed}))
    assert not await another.is_on("ask")
    assert await another.find("ask", SCOPE, [1.0, 0.0]) is None
    await another.keep("ask", SCOPE, ASKED, [1.0, 0.0], ANSWER)
    assert await count(database, "semantic_cache") == 1


@pytest.mark.usefixtures("switched_on")
async def test_a_limit_that_is_lowered_holds_at_once(
    database: Database, gateway: Gateway, settings: Settings, cache: SemanticCache
) -> None:
    """What was measured under a laxer limit does not outlive it."""
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    stricter = settings.model_copy(update={"semantic_cache_max_false_hits": 0.01})
    under_it = SemanticCache(database, stricter)
    assert (await under_it.is_on("ask"), await under_it.find("ask", SCOPE, vector)) == (False, None)


@pytest.mark.usefixtures("switched_on")
async def test_answers_grow_too_old_and_are_removed(
    database: Database, gateway: Gateway, settings: Settings, cache: SemanticCache
) -> None:
    """After CACHE_SECONDS an answer is not found, and the next one that is kept takes it away."""
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    await make_older(database, settings.cache_seconds - 60)
    assert await cache.find("ask", SCOPE, vector) == ANSWER
    await make_older(database, 60)
    assert await cache.find("ask", SCOPE, vector) is None
    await cache.keep("ask", SCOPE, NEAR_MISS, await vector_of(gateway, NEAR_MISS), ANSWER)
    assert await count(database, "semantic_cache") == 1


@pytest.mark.usefixtures("switched_on")
async def test_a_question_without_a_known_word_never_hits(gateway: Gateway, cache: SemanticCache) -> None:
    """Its vector has no direction and is near to nothing, not even to itself."""
    nothing = [0.0] * len(await vector_of(gateway, ASKED))
    await cache.keep("ask", SCOPE, "?", nothing, ANSWER)
    assert await cache.find("ask", SCOPE, nothing) is None
    assert await cache.find("ask", SCOPE, await vector_of(gateway, ASKED)) is None


@pytest.mark.usefixtures("switched_on")
async def test_any_answer_survives_the_table(gateway: Gateway, cache: SemanticCache) -> None:
    """Also one with characters that Postgres takes in no text."""
    vector = await vector_of(gateway, ASKED)
    strange = {"text": "\0 \ud800 日本", "latency": 1.5, "none": None}
    await cache.keep("ask", SCOPE, ASKED, vector, strange)
    assert await cache.find("ask", SCOPE, vector) == strange


@pytest.mark.usefixtures("switched_on")
async def test_switched_off_by_hand_it_is_off_and_empty(
    database: Database, gateway: Gateway, cache: SemanticCache
) -> None:
    """The route finds nothing more, not even after it is switched on again."""
    vector = await vector_of(gateway, ASKED)
    await cache.keep("ask", SCOPE, ASKED, vector, ANSWER)
    await off(database, "ask")
    assert await cache.find("ask", SCOPE, vector) is None
    assert (await count(database, "semantic_cache_routes"), await count(database, "semantic_cache")) == (0, 0)


async def test_the_state_of_the_index_changes_with_every_document_and_never_comes_back(
    database: Database, ingester: Ingester
) -> None:
    """Added, replaced, deleted, added again: five states. What changes nothing, or another tenant, changes none."""
    states: list[str] = []

    async def note() -> None:
        async with database.transaction() as connection:
            states.append(await index_state(connection, "default"))

    async def ingest(words: str) -> None:
        await ingester.ingest(words.encode(), source="tea.md")
        await note()

    await note()
    await ingest("# Tea\n\nGreen tea is brewed at eighty degrees.")
    await ingest("# Tea\n\nGreen tea is brewed at seventy degrees.")
    async with database.transaction() as connection:
        [document] = await store.list_documents(connection, "default")
        await store.delete_document(connection, "default", document.id)
    await note()
    await ingest("# Tea\n\nGreen tea is brewed at eighty degrees.")
    assert (len(set(states)), states[3]) == (4, states[0])  # empty is empty
    await ingest("# Tea\n\nGreen tea is brewed at eighty degrees.")
    async with database.for_tenant("other").transaction() as connection:
        await stamps.check_stamp(connection, "other", "a/model", 4)
    async with database.transaction() as connection:
        assert states[-1] == states[-2] == await index_state(connection, "default")
        assert await index_state(connection, "other") == states[0]
