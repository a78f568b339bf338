"""Runs a dataset through the pipeline that serves, on pydantic-evals, and collects scores per case. Start here.

The documents go into a tenant of their own, so that nobody's data is read or changed.
Knows nothing of thresholds or of how a run is shown.
"""

import os
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pydantic_evals
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext
from pydantic_evals.reporting import EvaluationReport, ReportCase

from app.datasets.corpus import alone, ingest_only, stored
from app.db.engine import Database
from app.errors import AppError, BudgetExceeded, ConfigurationError, DatabaseUnavailable, DeploymentBusy, InvalidInput
from app.evals.dataset import Case, Dataset
from app.evals.evaluators import Scores, Texts, evaluate
from app.evals.journal import Journal
from app.evals.provenance import describe, fingerprint
from app.evals.runs import CaseResult, Configuration, Run, write_run
from app.gateway.gateway import Gateway, warm
from app.judging.judges import Judge, Verdict, VerdictCache, judge, judge_model
from app.judging.pace import Pace
from app.rag.ingest import Ingester
from app.rag.pipeline import Pipeline
from app.settings import Settings
from app.types import Answer

UNFINISHED = "unfinished"
IN_PROCESS = 2 * (os.cpu_count() or 1)
AT_A_PROVIDER = 16
# The others would end alike: a model is busy when it failed so often that the gateway leaves it alone for a while.
ENDS_THE_RUN = (BudgetExceeded, ConfigurationError, DatabaseUnavailable, DeploymentBusy)
RESUME = "; what was answered before that is kept: run it again to go on from there"

FROM_WHERE = "run it from the folder that their names begin in, or mend the dataset (`app dataset check`)"

Ask = Callable[[Case], Awaitable[Answer]]
Rate = Callable[[Case, Answer], Awaitable[Verdict | None]]
"""A judge, by whatever model: None where it does not apply."""


async def run(
    dataset: Dataset,
    documents: Iterable[Path],
    database: Database,
    gateway: Gateway,
    settings: Settings,
    *,
    name: str = "",
    repeats: int = 1,
    judges: Sequence[Judge] = (),
    journal: Path | None = None,
    concurrency: int | None = None,
    pace: Pace | None = None,
    on_case: Callable[[], None] = lambda: None,
    on_resume: Callable[[int], None] = lambda _: None,
) -> Run:
    """Ingest `documents`, ask every question `repeats` times, score every answer; `on_case` is called after each.

    `journal` is a folder for the answers of runs that are not finished: one that was interrupted goes on from there,
    and `on_resume` is told how many answers it takes.

    Raises:
        InvalidInput: a document could not be read, or another evaluation is under way.
        AppError: one of ENDS_THE_RUN; what was answered before stays in the journal.

    """
    judging = judge_model(gateway) if judges else ""  # wrong settings are found before anything is paid
    pace = pace or Pace()
    verdicts = VerdictCache(journal.with_name("verdicts.jsonl") if journal else None, pace)
    async with alone(database) as own:
        await ingest_only(list(documents), Ingester(own, gateway, settings))
        texts, hashes = await stored(own)
        if lost := [source for case in dataset.cases for source in case.relevant if source not in texts]:
            raise InvalidInput(
                f"{len(lost)} documents that cases rest on are not there, such as {lost[0]}: {FROM_WHERE}"
            )
        configuration = describe(dataset, hashes, settings, name=name, repeats=repeats, judge_model=judging)
        path = journal / f"{fingerprint(configuration)}.jsonl" if journal else None
        pipeline = Pipeline(own, gateway, settings)
        await warm()  # or the first questions would seem slow
        with Journal(path) if path else nullcontext() as kept:
            if kept:
                on_resume(len(kept))
            return await ask_all(
                dataset,
                lambda case: pipeline.ask(case.question),
                texts,
                configuration,
                repeats=repeats,
                judges={f"judge:{one.name}": partial(judge, one, gateway=gateway, cache=verdicts) for one in judges},
                journal=kept,
                concurrency=concurrency or calls_at_a_time(gateway),
                pace=pace,
                on_case=on_case,
            )


async def ask_all(
    dataset: Dataset,
    ask: Ask,
    texts: Texts,
    configuration: Configuration,
    *,
    repeats: int = 1,
    judges: Mapping[str, Rate] | None = None,
    journal: Journal | None = None,
    concurrency: int = IN_PROCESS,
    pace: Pace | None = None,
    on_case: Callable[[], None] = lambda: None,
) -> Run:
    """Put every question to `ask`, whatever that is, and score what it says; `judges` are by their metric.

    Raises:
        AppError: one of ENDS_THE_RUN: nothing more is asked, and what is under way is waited for.

    """
    began, asking = datetime.now(UTC), _Asking(ask, journal, pace or Pace(), on_case)
    cases = [pydantic_evals.Case[Case, Answer, None](name=case.id, inputs=case) for case in dataset.cases]
    judged = [Judged(metric, rate, asking.allowed) for metric, rate in (judges or {}).items()]
    evals = pydantic_evals.Dataset(name=dataset.name, cases=cases, evaluators=judged)
    report = await evals.evaluate(asking.answer, max_concurrency=concurrency, repeat=repeats, progress=False)
    if asking.ended:
        asking.ended.message += RESUME * (journal is not None)
        raise asking.ended
    run_id = f"{began:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    return Run(run_id, began.isoformat(timespec="seconds"), configuration, _results(dataset, report, texts))


def keep(run: Run, reports: Path) -> Path:
    """Write a run to its file in `reports`, and remove its journal where nothing failed that is worth another try."""
    path = reports / "runs" / f"{run.id}.json"
    write_run(run, path)
    if not (run.errors or run.failures):
        (reports / UNFINISHED / f"{fingerprint(run.configuration)}.jsonl").unlink(missing_ok=True)
    return path


def calls_at_a_time(gateway: Gateway) -> int:
    """How many questions are under way at once: what our cores can do, or what providers bear."""
    return IN_PROCESS if all(d.is_offline for d in gateway.deployments()) else AT_A_PROVIDER


@dataclass
class _Asking:
    """Puts questions, until something fails that would fail for all of them."""

    ask: Ask
    journal: Journal | None
    pace: Pace
    on_case: Callable[[], None]
    ended: AppError | None = None

    async def answer(self, case: Case) -> Answer:
        """What an earlier run was told, or else an answer of now, written down at once."""
        try:
            with self.allowed():
                if self.journal is None:
                    return await self._asked(case)
                if (kept := self.journal.take(case.id)) is None:
                    kept = await self._asked(case)
                    self.journal.add(case.id, kept)
                return kept
        finally:
            self.on_case()

    async def _asked(self, case: Case) -> Answer:
        await self.pace.turn()
        return await self.ask(case)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let nothing begin that costs, once the run is to end."""
        if self.ended:
            raise AppError("not asked, for the run ends early")
        try:
            yield
        except ENDS_THE_RUN as error:
            self.ended = self.ended or error
            self.pace.end()
            raise


class Judged(Evaluator[Case, Answer, None]):
    """A judge as an evaluator of pydantic-evals; where it fails, that is what the report says of it."""

    def __init__(self, metric: str, rate: Rate, allowed: Callable[[], AbstractContextManager[None]]) -> None:
        self._metric, self._rate, self._allowed = metric, rate, allowed

    def get_default_evaluation_name(self) -> str:
        """The metric."""
        return self._metric

    async def evaluate(self, ctx: EvaluatorContext[Case, Answer, None]) -> dict[str, EvaluationReason]:
        """Passed or not, with the reason; nothing where the judge does not apply."""
        with self._allowed():
            verdict = await self._rate(ctx.inputs, ctx.output)
        return {self._metric: EvaluationReason(float(verdict.passed), verdict.reason)} if verdict else {}


def _results(dataset: Dataset, report: EvaluationReport[Case, Answer, None], texts: Texts) -> tuple[CaseResult, ...]:
    """In the dataset's order, the attempts at a case together: first those that gave an answer."""
    attempts: dict[str, list[CaseResult]] = {case.id: [] for case in dataset.cases}
    for item in report.cases:
        here = attempts[item.inputs.id]
        here.append(_result(item, len(here), evaluate(item.inputs, item.output, texts)))
    for failure in report.failures:
        here = attempts[failure.inputs.id]
        here.append(CaseResult(failure.inputs, len(here), error=failure.error_message))
    return tuple(result for case in attempts.values() for result in case)


def _result(item: ReportCase[Case, Answer, None], attempt: int, scores: Scores) -> CaseResult:
    """Evaluators measure here and not inside of pydantic-evals, which takes four times as long to keep their scores."""
    return CaseResult(
        item.inputs,
        attempt,
        item.output,
        scores=scores.scored | {name: float(judged.value) for name, judged in item.scores.items()},
        failed=scores.failed | {failure.name: failure.error_message for failure in item.evaluator_failures},
        reasons={name: judged.reason for name, judged in item.scores.items() if judged.reason},
    )
