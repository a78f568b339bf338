"""Runs without a pipeline: what is asked, what is kept of it when it breaks off, and what a run says of itself."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from app.errors import (
    AppError,
    BudgetExceeded,
    ConfigurationError,
    ContentFiltered,
    DeploymentBusy,
    InvalidInput,
    ProviderMisconfigured,
)
from app.evals.dataset import Case, Dataset
from app.evals.evaluators import EVALUATORS, Evaluator
from app.evals.journal import Journal
from app.evals.provenance import describe, fingerprint, revision
from app.evals.runner import UNFINISHED, ask_all, keep
from app.evals.runs import CaseResult, Configuration, Run, mean, read_run, write_run
from app.judging.judges import Verdict, VerdictCache
from app.judging.pace import Pace
from app.settings import DeploymentSettings, Settings
from app.tuning.matrix import CURRENT, changed, configurations
from app.types import Answer, Usage

ANSWER = Answer(
    id="1",
    question="?",
    text="To the sea.",
    abstained=False,
    model="offline/extractive",
    notice="",
    prompt_hash="p",
    usage=Usage(),
    cost_nanousd=0,
    latency_ms=1,
)


def dataset(cases: int) -> Dataset:
    """So many questions; "0", "1" and so on are their ids."""
    made = (
        Case(id=str(n), split="gate", question=f"Why {n}?", answerable=True, reference="To the sea.")
        for n in range(cases)
    )
    return Dataset("made", tuple(made), "hash")


CONFIGURATION = describe(dataset(1), {"a.md": "1"}, Settings(), name="first")


async def constant(_: Case) -> Answer:
    """The same answer to everything."""
    return ANSWER


class Asked:
    """Answers with the number of the call; what is to go wrong in a case is raised."""

    def __init__(self, faults: dict[str, Exception] | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self._faults = faults or {}

    async def __call__(self, case: Case) -> Answer:
        """One call."""
        self.calls[case.id] += 1
        number = self.calls[case.id]
        await asyncio.sleep(0)
        if case.id in self._faults:
            raise self._faults[case.id]
        return replace(ANSWER, text=f"{case.id}, call {number}")


def run_of(*results: CaseResult) -> Run:
    """A run with these results."""
    return Run("id", "2026-01-01T00:00:00+00:00", CONFIGURATION, results)


async def test_results_come_in_the_datasets_order_with_every_attempt() -> None:
    """Three attempts at each case, one after the other, and a tick of the progress bar for each."""
    ticks: list[int] = []
    run = await ask_all(
        dataset(4), Asked(), {}, CONFIGURATION, repeats=3, concurrency=5, on_case=lambda: ticks.append(1)
    )
    assert [(one.case.id, one.attempt) for one in run.results] == [(str(n), k) for n in range(4) for k in range(3)]
    assert sorted(one.answer.text for one in run.results if one.answer) == sorted(
        f"{n}, call {k}" for n in range(4) for k in (1, 2, 3)
    )
    assert len(ticks) == 12
    assert run.configuration == CONFIGURATION
    assert (await ask_all(dataset(0), Asked(), {}, CONFIGURATION)).results == ()


async def test_scored_failed_and_unmeasured_are_three_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator that breaks leaves its reason, and the others their scores; what does not apply leaves nothing."""
    monkeypatch.setitem(EVALUATORS, "broken", Evaluator("broken", lambda *_: 1 / 0))
    [result] = (await ask_all(dataset(1), constant, {}, CONFIGURATION)).results
    assert result.scores["answered"] == 1
    assert result.failed == {"broken": "ZeroDivisionError: division by zero"}
    assert "abstained" not in {*result.scores, *result.failed}


async def test_a_judge_is_a_metric_with_a_reason() -> None:
    """One that breaks has failed in that case, one that does not apply is unmeasured, and the rest is scored."""

    async def rate(case: Case, answer: Answer) -> Verdict | None:
        assert answer == ANSWER
        if case.id == "0":
            raise ContentFiltered("not that")
        return Verdict(reason="because", passed=case.id == "1") if case.id != "3" else None

    run = await ask_all(dataset(4), constant, {}, CONFIGURATION, judges={"judge:tone": rate})
    assert run.values("judge:tone") == {"1": [1.0], "2": [0.0]}
    assert [one.reasons for one in run.results] == [{}, {"judge:tone": "because"}, {"judge:tone": "because"}, {}]
    assert [one.failed for one in run.results] == [{"judge:tone": "ContentFiltered: not that"}, {}, {}, {}]
    assert run.failures == [run.results[0]]
    assert run.errors == []


async def test_a_case_that_fails_is_an_error_and_the_others_are_scored() -> None:
    """Its attempts come after those that gave an answer; a bug is an error like any other."""
    faults = {"0": InvalidInput("empty"), "2": ZeroDivisionError("bug"), "3": ProviderMisconfigured("forbidden")}
    run = await ask_all(dataset(5), Asked(faults), {}, CONFIGURATION)
    errors = {one.case.id: one.error for one in run.errors}
    assert errors == {
        "0": "InvalidInput: empty",
        "2": "ZeroDivisionError: bug",
        "3": "ProviderMisconfigured: forbidden",
    }
    assert run.values("answered") == {"1": [1.0], "4": [1.0]}


@pytest.mark.parametrize("error", [BudgetExceeded("used up"), DeploymentBusy("left alone"), ConfigurationError("no")])
async def test_what_would_fail_for_all_ends_the_run(error: AppError, tmp_path: Path) -> None:
    """One error, nobody is asked after it, and what was answered before is kept."""
    asked = Asked({"5": error})
    with Journal(tmp_path / "it") as journal, pytest.raises(type(error)) as raised:
        await ask_all(dataset(300), asked, {}, CONFIGURATION, journal=journal, concurrency=1)
    assert raised.value.message.endswith("is kept: run it again to go on from there")
    assert asked.calls.total() == 6
    assert len(Journal(tmp_path / "it")) == 5


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        """Seconds."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Let them pass."""
        self.time += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_questions_and_judges_calls_begin_evenly_spaced(concurrency: int) -> None:
    """One in six seconds at ten a minute, whichever it is; without a pace none waits."""
    clock, begun = Clock(), list[float]()

    async def ask(case: Case) -> Answer:
        begun.append(clock.time)
        return replace(ANSWER, text=case.id)

    async def rated() -> Verdict:
        begun.append(clock.time)
        return Verdict(reason="", passed=True)

    for per_minute, expected in ((10, [6.0 * n for n in range(10)]), (None, [54.0] * 10)):
        begun.clear()
        pace = Pace(per_minute, now=clock.now, sleep=clock.sleep)
        cache = VerdictCache(None, pace)
        judges = {"judge:tone": lambda case, _, cache=cache: cache.once(case.id, Verdict, rated)}
        run = await ask_all(
            dataset(5), ask, {}, CONFIGURATION, judges=judges, repeats=1, concurrency=concurrency, pace=pace
        )
        assert run.errors == run.failures == []
        assert begun == expected


async def test_what_was_answered_or_judged_before_waits_for_no_turn(tmp_path: Path) -> None:
    """Only what is asked of a model counts for the pace."""
    clock = Clock()
    pace = Pace(1, now=clock.now, sleep=clock.sleep)
    with Journal(tmp_path / "it") as journal:
        for n in range(4):
            journal.add(str(n), ANSWER)
    with Journal(tmp_path / "it") as journal:
        run = await ask_all(dataset(6), constant, {}, CONFIGURATION, journal=journal, pace=pace)
    assert (len(run.results), run.errors, clock.time) == (6, [], 60.0)


async def test_a_run_that_ends_early_waits_for_no_turn() -> None:
    """What stands in line is not asked, and the error comes at once."""
    clock = Clock()
    asked = Asked({str(n): BudgetExceeded("used up") for n in range(100)})
    pace = Pace(1, now=clock.now, sleep=clock.sleep)
    with pytest.raises(BudgetExceeded):
        await ask_all(dataset(100), asked, {}, CONFIGURATION, concurrency=50, pace=pace)
    assert asked.calls.total() <= 2
    assert clock.time <= 120


async def test_a_judge_that_would_fail_for_all_ends_the_run_too() -> None:
    """No judge and no model is asked once it is known."""
    asked, judged = Asked(), Counter[str]()

    async def rate(case: Case, _: Answer) -> Verdict:
        judged[case.id] += 1
        raise BudgetExceeded

    with pytest.raises(BudgetExceeded) as raised:
        await ask_all(dataset(50), asked, {}, CONFIGURATION, judges={"judge:tone": rate}, concurrency=1)
    assert raised.value.message == BudgetExceeded.sentence()
    assert (asked.calls.total(), judged.total()) == (1, 1)


async def interrupted(cases: int, asked: Asked, path: Path, turns: int) -> None:
    """A run with a journal, cancelled after so many turns of the loop; two questions are under way at a time."""
    with Journal(path) as journal:
        run = asyncio.create_task(ask_all(dataset(cases), asked, {}, CONFIGURATION, journal=journal, concurrency=2))
        for _ in range(turns):
            await asyncio.sleep(0)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


@settings(max_examples=40)
@given(cases=st.integers(1, 12), turns=st.integers(0, 40), cut=st.integers(0, 30))
def test_a_run_that_is_cancelled_pays_for_no_answer_twice(
    tmp_path_factory: pytest.TempPathFactory, *, cases: int, turns: int, cut: int
) -> None:
    """Whenever it breaks off, and wherever its last line is cut: only what was not written is asked again."""
    path = tmp_path_factory.mktemp("run") / "journal"
    asked = Asked()
    asyncio.run(interrupted(cases, asked, path, turns))
    begun, written = asked.calls.total(), len(Journal(path))
    assert begun - written <= 2
    path.write_bytes(path.read_bytes()[: -cut or None])
    lost = min(written, 1) if cut else 0
    with Journal(path) as journal:
        run = asyncio.run(ask_all(dataset(cases), asked, {}, CONFIGURATION, journal=journal))
    assert asked.calls.total() - begun == cases - (written - lost)
    assert [one.case.id for one in run.results] == [str(n) for n in range(cases)]
    assert run.errors == []


def test_a_journal_gives_each_answer_once(tmp_path: Path) -> None:
    """In the order in which they were written; a line that is cut or is none is passed over, and harms no other."""
    with Journal(tmp_path / "new" / "it") as journal:
        for text in ("first", "second"):
            journal.add("a", replace(ANSWER, text=text))
    with (tmp_path / "new" / "it").open("ab") as file:
        file.write(b'\n["b", {"id": "1", "quest')
    with Journal(tmp_path / "new" / "it") as journal:
        journal.add("c", ANSWER)
    journal = Journal(tmp_path / "new" / "it")
    assert len(journal) == 3
    taken = [journal.take("a"), journal.take("a")]
    assert [one.text for one in taken if one] == ["first", "second"]
    assert (journal.take("a"), journal.take("b"), journal.take("c")) == (None, None, ANSWER)
    assert len(journal) == 0


def test_a_journal_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    """Answers that were paid for would be lost one after the other."""
    with Journal(tmp_path / "it") as journal:
        journal._file.close()
        journal._file = (tmp_path / "it").open("rb", buffering=0)
        asked = Asked()
        with pytest.raises(ConfigurationError, match="cannot be written"):
            asyncio.run(ask_all(dataset(20), asked, {}, CONFIGURATION, journal=journal, concurrency=1))
    assert asked.calls.total() == 1


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With every answer, score, failure and reason."""
    case = dataset(1).cases[0]
    run = run_of(
        CaseResult(case, 0, ANSWER, scores={"answered": 1.0}, failed={"x": "broke"}, reasons={"judge:tone": "so"}),
        CaseResult(case, 1, error="InvalidInput: empty"),
    )
    write_run(run, tmp_path / "new" / "run.json")
    assert read_run(tmp_path / "new" / "run.json") == run
    (tmp_path / "other.json").write_text("{}")
    for name, reason in (("other.json", "is no run"), ("none.json", "cannot be read: No such file")):
        with pytest.raises(InvalidInput, match=reason):
            read_run(tmp_path / name)


def test_a_stored_run_leaves_no_journal(tmp_path: Path) -> None:
    """The journal goes when the run is there, and those of other configurations stay."""
    journals = [tmp_path / UNFINISHED / f"{name}.jsonl" for name in (fingerprint(CONFIGURATION), "other")]
    for path in journals:
        with Journal(path):
            pass
    file = keep(run_of(), tmp_path)
    assert file == tmp_path / "runs" / "id.json"
    assert read_run(file) == run_of()
    assert [path.exists() for path in journals] == [False, True]
    assert keep(run_of(), tmp_path) == file


@pytest.mark.parametrize("result", [{"error": "broke"}, {"answer": ANSWER, "failed": {"judge:tone": "broke"}}])
def test_a_run_in_which_something_failed_leaves_its_journal(tmp_path: Path, result: dict[str, Any]) -> None:
    """The next one asks for what failed alone."""
    journal = tmp_path / UNFINISHED / f"{fingerprint(CONFIGURATION)}.jsonl"
    case = dataset(1).cases[0]
    with Journal(journal) as kept:
        kept.add("0", ANSWER)
    keep(run_of(CaseResult(case, 0, ANSWER), CaseResult(case, 1, **result)), tmp_path)
    assert len(Journal(journal)) == 1


def test_means_are_over_cases_and_not_over_attempts() -> None:
    """A case that was tried three times counts once; one without a score does not count at all."""
    first, second, third = dataset(3).cases
    run = run_of(
        *(CaseResult(first, n, ANSWER, scores={"answered": value}) for n, value in enumerate((1.0, 0.0, 0.5))),
        CaseResult(second, 0, ANSWER, scores={"answered": 1.0, "abstained": 0.0}),
        CaseResult(third, error="broke"),
    )
    assert run.metrics() == ["answered", "abstained"]
    assert run.values("answered") == {"0": [1.0, 0.0, 0.5], "1": [1.0]}
    assert run.means() == {"answered": 0.75, "abstained": 0.0}
    assert mean([[0.0, 1.0], [1.0]]) == 0.75


def test_a_configuration_holds_what_answers_depend_on_and_no_secret() -> None:
    """Settings that are not as they come, by their variables; no key, no address of the database, no port."""
    judge = DeploymentSettings(model="openai/judge", api_key=SecretStr("canary-key"))
    changed_settings = Settings(
        database_url=SecretStr("postgresql://user:canary@host/db"), judge=judge, port=9999, rewrite=True, passages=10
    )
    made = describe(dataset(1), {"b.md": "2", "a.md": "1"}, changed_settings, name="n", repeats=2, judge_model="m")
    assert made.settings == {"JUDGE_MODEL": "openai/judge", "REWRITE": "True"}
    assert "canary" not in repr(made)
    assert (made.name, made.dataset, made.split, made.repeats, made.judge_model) == ("n", "made", "gate", 2, "m")
    assert (made.chat_model, made.embedding_model) == ("offline/extractive", "offline/static")
    assert made.prompts["answer"]
    assert describe(dataset(1), {"a.md": "1", "b.md": "2"}, Settings()).documents_hash == made.documents_hash


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, settings={"PASSAGES": "8"}),
        lambda one: replace(one, dataset_hash="other"),
        lambda one: replace(one, documents_hash=describe(dataset(1), {"a.md": "2"}, Settings()).documents_hash),
        lambda one: replace(one, prompts=one.prompts | {"answer": "other"}),
        lambda one: replace(one, chat_model="other/model"),
    ],
)
def test_answers_of_another_configuration_are_not_taken(change: Callable[[Configuration], Configuration]) -> None:
    """Whatever an answer depends on changes the fingerprint."""
    assert fingerprint(change(CONFIGURATION)) != fingerprint(CONFIGURATION)


def test_answers_are_taken_whatever_they_are_called_and_whoever_judges_them() -> None:
    """The name, the commit, the number of attempts, the judges and limits make no other answers."""
    same = replace(
        CONFIGURATION,
        name="second",
        revision="other",
        repeats=3,
        judge_model="other",
        settings={
            "JUDGE_MODEL": "other",
            "TENANT_BUDGET_USD": "5",
            "CHAT_MAX_CONCURRENCY": "2",
            "DEADLINE_SECONDS": "9",
        },
        prompts={**CONFIGURATION.prompts, "judge-tone": "other"},
    )
    assert fingerprint(same) == fingerprint(CONFIGURATION)


def test_the_revision_is_the_commit_with_a_plus_where_the_code_was_changed(tmp_path: Path) -> None:
    """A file that is not committed changes the code too; without git there is no revision."""
    assert revision(tmp_path) == ""
    assert revision(tmp_path / "none") == ""
    if not (git := shutil.which("git")):
        pytest.skip("git is not installed")

    def run(*arguments: str) -> str:
        who = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
        command = [git, *who, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--quiet")
    (tmp_path / "code.py").write_text("one")
    run("add", ".")
    run("commit", "--quiet", "--message", "first")
    commit = run("rev-parse", "HEAD")[:12]
    assert revision(tmp_path) == commit
    (tmp_path / "new.py").touch()
    assert revision(tmp_path) == f"{commit}+"


def test_settings_are_changed_for_one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the environment would set them, on top of it: a role's other settings stay."""
    monkeypatch.setenv("CHAT_API_BASE", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("PASSAGES", "7")
    made = configurations(["FUSION=rrf", "CHAT_MODEL=openai/m, PASSAGES=8"])
    assert list(made) == [CURRENT, "FUSION=rrf", "CHAT_MODEL=openai/m, PASSAGES=8"]
    assert made[CURRENT] == Settings()
    assert made["FUSION=rrf"] == Settings(fusion="rrf")
    last = made["CHAT_MODEL=openai/m, PASSAGES=8"]
    assert (last.chat.model, last.chat.api_base, last.passages) == ("openai/m", "http://127.0.0.1:1/v1", 8)
    assert changed(["PASSAGES=8", "FUSION=rrf"]) == Settings(passages=8, fusion="rrf")


def test_a_change_that_changes_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two configurations that are one would share their answers, and seem to differ by nothing."""
    with pytest.raises(InvalidInput, match=r"^PASSAGES=10 changes nothing: it is what is set$"):
        configurations(["PASSAGES=8", "PASSAGES=10"])
    with pytest.raises(InvalidInput, match=r"^PASSAGES=08 is the same as PASSAGES=8$"):
        configurations(["PASSAGES=8", "PASSAGES=08"])
    monkeypatch.setenv("PASSAGES", "8")
    assert list(configurations(["PASSAGES=10"])) == [CURRENT, "PASSAGES=10"]


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ("PASAGES=8", InvalidInput, "PASAGES is no setting; did you mean PASSAGES?"),
        ("CHAT_MODAL=x/y", InvalidInput, "CHAT_MODAL is no setting; did you mean CHAT_MODEL?"),
        ("PASSAGES", InvalidInput, "--set takes KEY=VALUE, and this is 'PASSAGES'"),
        ("FUSION=rrf,", InvalidInput, "--set takes KEY=VALUE, and this is ''"),
        ("PASSAGES=many", ConfigurationError, "--set PASSAGES=many: PASSAGES: Input should be a valid integer"),
        ("CHAT_MAX_CONCURRENCY=0", ConfigurationError, "CHAT_MAX_CONCURRENCY: Input should be greater than"),
        ("CHAT_MODEL=nobody", ConfigurationError, "write provider/model"),
        ("CHAT_API_KEY=canary", InvalidInput, "CHAT_API_KEY belongs into .env or the environment"),
        ("DATABASE_URL=canary", InvalidInput, "DATABASE_URL belongs into .env"),
        ("PORT=1", InvalidInput, "PORT belongs into .env"),
    ],
)
def test_a_wrong_change_is_refused(change: str, error: type[AppError], reason: str) -> None:
    """Before anything is asked; a key is not repeated."""
    with pytest.raises(error) as refused:
        configurations([change])
    assert reason in refused.value.message
    assert "canary" not in refused.value.message
