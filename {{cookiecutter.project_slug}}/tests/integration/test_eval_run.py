"""A tiny dataset over a tiny corpus, all the way: ingest, ask, score, judge and tune."""

from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import text

from app.datasets.corpus import alone
from app.db import stamps, store
from app.db.engine import Database, connect
from app.errors import ConfigurationError, DatabaseUnavailable, InvalidInput
from app.evals import TENANT
from app.evals.dataset import Case, Dataset, Evidence
from app.evals.gate import Demand, Thresholds, Verdict, decide
from app.evals.runner import AT_A_PROVIDER, IN_PROCESS, calls_at_a_time, run
from app.gateway.gateway import Gateway
from app.judging.judges import Judge
from app.rag.ingest import Ingester
from app.settings import Settings
from app.tuning.abstention import THRESHOLDS, Point, sweep
from app.tuning.matrix import run_all
from app.tuning.weights import compare

KILL = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
        AND (classid::bigint << 32 | objid::bigint) = hashtextextended('eval', :seed)
"""

NILE = Case(
    id="nile",
    split="gate",
    question="Which is the longest river of Africa?",
    answerable=True,
    relevant={"rivers.md": 1},
    evidence=(Evidence(document="rivers.md", quote="the longest river of Africa"),),
    reference="The Nile.",
)
OHIO = Case(id="ohio", split="gate", question="How do I renew a driving licence in Ohio?", answerable=False)
EMPTY = Case(id="empty", split="gate", question="   ", answerable=False)


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two documents in a folder."""
    monkeypatch.chdir(tmp_path)
    Path("rivers.md").write_text("# Rivers\n\nThe Nile is the longest river of Africa.\n")
    Path("lakes.md").write_text("# Lakes\n\nLake Baikal is the deepest lake of all.\n")
    return [Path()]


def dataset(*cases: Case) -> Dataset:
    """A dataset as it is loaded."""
    return Dataset("tiny", cases, "hash")


async def test_every_case_is_asked_and_scored(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Results come in the dataset's order, with what they were made with, and pass a gate that fits."""
    ticks: list[int] = []
    done = await run(dataset(OHIO, NILE), documents, database, gateway, settings, on_case=lambda: ticks.append(1))
    assert [result.case.id for result in done.results] == ["ohio", "nile"]
    assert (done.results[0].scores["abstained"], "answered" in done.results[0].scores) == (1.0, False)
    measured = ("recall@5", "ndcg@10", "evidence_recall", "citation_validity", "cites_relevant", "answered")
    assert {name: done.results[1].scores[name] for name in measured} == dict.fromkeys(measured, 1.0)
    assert len(ticks) == 2
    made = done.configuration
    assert (made.dataset, made.dataset_hash, made.chat_model) == ("tiny", "hash", "offline/extractive")
    perfect = Demand(at_least=1.0)
    demanded = Thresholds(min_cases=2, max_error_rate=0, metrics={"answered": perfect, "abstained": perfect})
    assert decide(done, demanded).verdict is Verdict.PASS


async def test_a_case_that_fails_is_an_error_and_not_a_score(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """The others are scored, and the gate refuses to judge."""
    done = await run(dataset(EMPTY, NILE), documents, database, gateway, settings)
    failed = done.results[0]
    assert (failed.scores, failed.failed, failed.answer) == ({}, {}, None)
    assert "the question is empty" in failed.error
    assert done.errors == [failed]
    assert done.means()["answered"] == 1.0
    demanded = Thresholds(min_cases=1, max_error_rate=0, metrics={"answered": Demand(at_least=1.0)})
    assert decide(done, demanded).verdict is Verdict.CANNOT_JUDGE


async def test_another_document_is_another_configuration(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """By what the documents hold and what they are called; read again as they were, they are the same."""

    async def documents_hash() -> str:
        return (await run(dataset(), documents, database, gateway, settings)).configuration.documents_hash

    first = await documents_hash()
    Path("lakes.md").rename("seas.md")
    renamed = await documents_hash()
    Path("seas.md").write_text("# Seas\n\nThere are seven.\n")
    changed = await documents_hash()
    assert len({first, renamed, changed}) == 3
    Path("seas.md").write_text("# Lakes\n\nLake Baikal is the deepest lake of all.\n")
    assert await documents_hash() == renamed


async def test_without_a_judge_role_nothing_is_asked(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """The settings are wrong before anything is paid for."""
    asked: list[int] = []
    with pytest.raises(ConfigurationError, match="JUDGE_MODEL"):
        await run(
            dataset(NILE),
            documents,
            database,
            gateway,
            settings,
            judges=[Judge("groundedness", "judge-groundedness")],
            on_case=lambda: asked.append(1),
        )
    assert asked == []


async def test_models_at_a_provider_are_asked_more_at_a_time(gateway: Gateway, settings: Settings) -> None:
    """They have cores of their own."""
    chat = settings.chat.model_copy(update={"model": "openai/m", "api_base": "http://127.0.0.1:1"})
    remote = Gateway(settings.model_copy(update={"chat": chat}))
    assert (calls_at_a_time(gateway), calls_at_a_time(remote)) == (IN_PROCESS, AT_A_PROVIDER)


async def test_a_dataset_without_cases_gives_a_run_without_results(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """An empty split is for the gate to refuse, not a crash."""
    done = await run(dataset(), documents, database, gateway, settings)
    assert (done.results, done.means()) == ((), {})


async def test_a_run_holds_just_its_documents_and_leaves_other_tenants_alone(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings, ingester: Ingester
) -> None:
    """What an earlier run left is gone, and what people stored is untouched."""
    await ingester.ingest_files([Path("lakes.md")])
    await run(dataset(), documents, database, gateway, settings)
    await run(dataset(), [Path("rivers.md")], database, gateway, settings)
    for tenant, source in ((database.for_tenant(TENANT), "rivers.md"), (database, "lakes.md")):
        async with tenant.transaction() as connection:
            assert list(await store.read_texts(connection, tenant.tenant)) == [source]


async def test_a_run_with_another_model_begins_anew(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """What an earlier model's vectors stood for is forgotten: this tenant serves nobody."""
    theirs = database.for_tenant(TENANT)
    async with theirs.transaction() as connection:
        await stamps.check_stamp(connection, TENANT, "another/model", 3)
    await run(dataset(), documents, database, gateway, settings)
    async with theirs.transaction() as connection:
        assert [stamp.model for stamp in await stamps.read_stamps(connection, TENANT)] == [settings.embedding.model]


async def test_two_evaluations_at_once_are_refused(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings, migrated_url: str
) -> None:
    """Each would search what the other ingests; the lock is over all processes, and ends with what held it."""
    cases = dataset(NILE)
    everyone = (
        lambda: run(cases, documents, database, gateway, settings),
        lambda: run_all(cases, documents, database, {"a": settings, "b": settings}),
        lambda: sweep(cases, documents, database, gateway, settings),
        lambda: compare(cases, documents, database, gateway, settings),
    )
    async with connect(migrated_url) as another:
        async with alone(another) as own:
            for evaluate in everyone:
                with pytest.raises(InvalidInput, match=r"^another evaluation is under way on this database: wait"):
                    await evaluate()
            done = await run(cases, documents, own, gateway, settings)
            assert done.means()["answered"] == 1
        for evaluate in everyone:
            assert await evaluate()
        async with alone(another):
            pass


async def test_a_lock_whose_connection_broke_is_nobodys(database: Database, migrated_url: str) -> None:
    """The error is that of the work, and not one of letting go; without a database there is no lock."""

    async def work() -> None:
        async with alone(another):
            async with database.engine.begin() as connection:
                killed = await connection.scalars(text(KILL), {"seed": 3})
            assert list(killed) == [True]
            raise RuntimeError("the work's")

    async with connect(migrated_url) as another:
        with pytest.raises(RuntimeError, match="the work's"):
            await work()
    async with alone(database):
        pass
    async with connect("postgresql://nobody@127.0.0.1:1/none") as nowhere:
        with pytest.raises(DatabaseUnavailable):
            async with alone(nowhere):
                pass


@pytest.mark.parametrize(("mode", "refused"), [("on", True), ("read_only", True), ("write_only", False)])
async def test_repeats_from_the_cache_are_refused(
    documents: list[Path], database: Database, settings: Settings, mode: str, *, refused: bool
) -> None:
    """One answer would count as several; to write alone does no harm."""
    given = {"it": settings, "other": settings.model_copy(update={"cache_mode": mode})}
    if refused:
        with pytest.raises(InvalidInput, match=f"^with CACHE_MODE={mode} .* set CACHE_MODE=off$"):
            await run_all(dataset(NILE), documents, database, given, repeats=2)
    else:
        assert len(await run_all(dataset(NILE), documents, database, given, repeats=2)) == 2
    assert len(await run_all(dataset(NILE), documents, database, given)) == 2


async def test_a_document_that_cannot_be_read_stops_the_run(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Scores over a part of the corpus would mislead."""
    Path("empty.md").touch()
    for evaluate in (run, sweep):
        with pytest.raises(InvalidInput, match=r"empty\.md: empty\.md is empty"):
            await evaluate(dataset(NILE), documents, database, gateway, settings)


async def test_tuning_counts_at_every_threshold(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """A higher threshold answers less and refuses more; between the two cases lies one that does both right."""
    points = await sweep(dataset(NILE, OHIO), documents, database, gateway, settings)
    assert [point.threshold for point in points] == THRESHOLDS
    for low, high in pairwise(points):
        assert low.answered >= high.answered
        assert low.abstained <= high.abstained
    assert max(point.balanced for point in points) == 1.0


async def test_tuning_agrees_with_the_pipeline(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """What the sweep predicts for a threshold is what a run does: at the lowest, and where answers end."""
    harder = NILE.model_copy(update={"question": "Is there a long stream in Africa?"})
    cases = dataset(harder, OHIO)
    points = await sweep(cases, documents, database, gateway, settings)
    last = max(n for n, point in enumerate(points) if point.answered)
    for point in (points[0], *points[last : last + 2]):
        changed = settings.model_copy(update={"abstain_below": point.threshold})
        means = (await run(cases, documents, database, Gateway(changed), changed)).means()
        assert (means["answered"], means["abstained"]) == (point.answered, point.abstained)


async def test_a_kind_of_question_that_is_missing_counts_as_none_right(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """A threshold cannot be chosen on one kind alone: its balance stays at a half."""
    points = await sweep(dataset(NILE), documents, database, gateway, settings)
    assert max(point.balanced for point in points) == 0.5
    assert Point(0.4, answered=1.0, abstained=0.5).balanced == 0.75
