"""Evaluation inside of ordinary tests: `await assert_eval(...)` asks questions and fails where the answers are bad.

Knows nothing of pytest: any runner shows an AssertionError.
"""

from collections.abc import Mapping, Sequence

from app.db import store
from app.db.engine import Database
from app.errors import InvalidInput
from app.evals.dataset import Case, Dataset
from app.evals.evaluators import EVALUATORS
from app.evals.provenance import describe
from app.evals.runner import ask_all
from app.evals.runs import Run
from app.gateway.gateway import Gateway
from app.rag.pipeline import Pipeline
from app.settings import Settings

SHOWN = 10  # cases in a message


async def assert_eval(
    cases: Sequence[Case],
    demands: Mapping[str, float],
    database: Database,
    gateway: Gateway,
    settings: Settings,
    *,
    repeats: int = 1,
) -> Run:
    """Ask every case of the documents that the database's tenant holds; give the run, for whatever else is to be seen.

    `demands` names the least mean of each metric, or the largest where less is better.

    Raises:
        AssertionError: a mean is worse than demanded, was measured on no case, or a case ended in an error.
        InvalidInput: a metric that does not exist.

    """
    __tracebackhide__ = True
    if unknown := demands.keys() - EVALUATORS.keys():
        raise InvalidInput(f"no metric is named {', '.join(sorted(unknown))}; there are {', '.join(EVALUATORS)}")
    dataset = Dataset("test", tuple(cases), "")
    async with database.transaction() as connection:
        texts = await store.read_texts(connection, database.tenant)
    pipeline = Pipeline(database, gateway, settings)
    configuration = describe(dataset, {}, settings, name="test", repeats=repeats)
    run = await ask_all(dataset, lambda case: pipeline.ask(case.question), texts, configuration, repeats=repeats)
    problems = [f"{r.case.id}: {r.error or r.failed}" for r in [*run.errors, *run.failures]][:SHOWN]
    problems += [line for metric, wanted in demands.items() for line in _misses(run, metric, wanted)]
    if problems:
        raise AssertionError("\n".join(problems))
    return run


def _misses(run: Run, metric: str, wanted: float) -> list[str]:
    """What is wrong with a metric, and the cases that are to blame."""
    mean = run.means().get(metric)
    if mean is None:
        return [f"{metric} was measured on no case"]
    sign = 1 if EVALUATORS[metric].higher_is_better else -1
    if sign * mean >= sign * wanted:
        return []
    blamed = [r for r in run.results if metric in r.scores and sign * r.scores[metric] < sign * wanted]
    shown = [f"  {r.case.id}: {r.scores[metric]:g}, {r.case.question!r} -> {_said(r.answer)!r}" for r in blamed[:SHOWN]]
    return [f"{metric} is {mean:.3f}, and {wanted:g} is demanded:", *shown]


def _said(answer: object) -> str:
    return str(getattr(answer, "text", ""))[:200]
