"""Runs a dataset through the pipeline that serves, on pydantic-evals, and collects scores per case. Start here.

The documents go into a tenant of their own, so that nobody's data is read or changed.
Knows nothing of thresholds or of how a run is shown.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import pydantic_evals
from pydantic_evals.evaluators import Evaluator, EvaluatorContext

from app.db import store
from app.db.engine import Database
from app.errors import IndexMismatch, InvalidInput
from app.evals.dataset import Case, Dataset
from app.evals.evaluators import METRICS, Texts, score
from app.gateway.gateway import Gateway
from app.prompts.loader import load_prompt
from app.rag.ingest import Ingester, source_of
from app.rag.pipeline import Pipeline
from app.rag.sources import find_files
from app.settings import Settings
from app.types import Answer

TENANT = "eval"
CONCURRENCY = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class CaseResult:
    """One case: its scores, or the error that left it without."""

    case: Case
    scores: dict[str, float] = field(default_factory=dict)
    answer: Answer | None = None
    error: str = ""


@dataclass(frozen=True)
class Run:
    """A dataset's results and what they were made with."""

    dataset: str
    dataset_hash: str
    chat_model: str
    embedding_model: str
    prompt_hash: str
    results: tuple[CaseResult, ...]

    def scores(self, metric: str) -> list[float]:
        """The metric's values over the cases it applies to."""
        return [result.scores[metric] for result in self.results if metric in result.scores]

    def means(self) -> dict[str, float]:
        """The mean of every metric that applied to at least one case."""
        return {metric: fmean(values) for metric in METRICS if (values := self.scores(metric))}

    @property
    def errors(self) -> list[CaseResult]:
        """The cases that ended in an error."""
        return [result for result in self.results if result.error]


@dataclass
class Metrics(Evaluator[Case, Answer, None]):
    """All metrics as one pydantic-evals evaluator."""

    texts: Texts

    def evaluate(self, ctx: EvaluatorContext[Case, Answer, None]) -> dict[str, float]:
        """Score one case."""
        return score(ctx.inputs, ctx.output, self.texts)


async def run(
    dataset: Dataset,
    documents: Iterable[Path],
    database: Database,
    gateway: Gateway,
    settings: Settings,
    *,
    on_case: Callable[[], None] = lambda: None,
) -> Run:
    """Ingest `documents`, ask every question, score every answer; `on_case` is called after each.

    Raises:
        InvalidInput: a document could not be read.

    """
    database = database.for_tenant(TENANT)
    await ingest_only(list(documents), Ingester(database, gateway, settings))
    async with database.transaction() as connection:
        texts = await store.read_texts(connection, database.tenant)
    pipeline = Pipeline(database, gateway, settings)

    async def ask(case: Case) -> Answer:
        try:
            return await pipeline.ask(case.question)
        finally:
            on_case()

    cases = [pydantic_evals.Case[Case, Answer, None](name=case.id, inputs=case) for case in dataset.cases]
    evals = pydantic_evals.Dataset(name=dataset.name, cases=cases, evaluators=[Metrics(texts)])
    report = await evals.evaluate(ask, max_concurrency=CONCURRENCY, progress=False)
    done = {
        item.name: CaseResult(
            item.inputs,
            {name: float(result.value) for name, result in item.scores.items()},
            item.output,
            # A metric that fails is no metric that does not apply: the case counts as an error.
            "; ".join(failure.error_message for failure in item.evaluator_failures),
        )
        for item in report.cases
    }
    done |= {item.name: CaseResult(item.inputs, error=item.error_message) for item in report.failures}
    return Run(
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        chat_model=settings.chat.model,
        embedding_model=settings.embedding.model,
        prompt_hash=load_prompt("answer").content_hash,
        results=tuple(done[case.id] for case in dataset.cases),
    )


async def ingest_only(documents: list[Path], ingester: Ingester) -> None:
    """Make the ingester's tenant hold just these documents, and close the ingester.

    Raises:
        InvalidInput: a document could not be read: scores over a part of the corpus would mislead.

    """
    files = list(find_files(documents))
    async with ingester:
        try:
            report = await ingester.ingest_files(files)
        except IndexMismatch:  # an earlier run was with another model
            await ingester.clear()
            report = await ingester.ingest_files(files)
        await ingester.remove_missing(map(source_of, files), ["", "/"])
    if report.skipped:
        raise InvalidInput("; ".join(f"{source}: {reason}" for source, reason in report.skipped))


def as_record(result: CaseResult) -> dict[str, object]:
    """A case's result as JSON holds it."""
    answer = result.answer
    return {
        "id": result.case.id,
        "question": result.case.question,
        "scores": result.scores,
        "error": result.error,
        "answer": answer.text if answer else None,
        "citations": [asdict(c) for c in answer.citations] if answer else [],
        "retrieved": [p.source for p in answer.passages] if answer else [],
    }
