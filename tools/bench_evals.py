"""What the eval harness costs over bare pydantic-evals: `make bench-evals`. Prints a table; asserts nothing.

A thousand cases are asked of a pipeline that gives a constant answer. The harness measures, writes its journal and the
run, makes an interval for each metric and judges it by a baseline. Bare pydantic-evals keeps nothing: with the same
evaluators, with one that gives a constant, and with none. They take turns in one process, and each round gives one
ratio. CPU time counts, which is the time that a quiet core takes. Runs with the generated project's Python, in its
folder.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pydantic_evals
from app.evals.dataset import Case, Dataset, Evidence
from app.evals.evaluators import EVALUATORS, evaluate
from app.evals.gate import Demand, Thresholds, decide, read_baseline, write_baseline
from app.evals.journal import Journal
from app.evals.provenance import describe, fingerprint
from app.evals.runner import IN_PROCESS, UNFINISHED, ask_all, keep
from app.evals.runs import Run
from app.evals.statistics import interval
from app.settings import load_settings
from app.types import Answer, Citation, Passage, Usage
from pydantic_evals.evaluators import Evaluator, EvaluatorContext

CASES = 1_000
ROUNDS = 9
TEXT = "The Nile is the longest river of Africa. It runs to the sea, and the sea is never full. "
TEXTS = {f"{n}.md": TEXT for n in range(10)}
PASSAGES = tuple(
    Passage(n, source, "Rivers", "Africa", 0, len(text), text, score=1 / (n + 1), use="read")
    for n, (source, text) in enumerate(TEXTS.items())
)
ANSWER = Answer(
    id="1",
    question="Which is the longest river of Africa?",
    text="The Nile is. [1]",
    abstained=False,
    model="offline/extractive",
    notice="",
    prompt_hash="",
    usage=Usage(1_400, 25),
    cost_nanousd=0,
    latency_ms=3,
    citations=(Citation(1, 1, "0.md", "Rivers", "Africa", "The Nile is", 0, 11),),
    passages=PASSAGES,
)
DATASET = Dataset(
    "made",
    tuple(
        Case(
            id=f"{n}",
            split="gate",
            question=f"Which is river number {n}?",
            answerable=n % 5 > 0,
            relevant={"0.md": 1, f"{n % 20}.md": 2} if n % 5 else {},
            evidence=(Evidence(document="0.md", quote="longest river of Africa"),) if n % 5 else (),
            reference="The Nile." if n % 5 else "",
        )
        for n in range(CASES)
    ),
    "made",
)
THRESHOLDS = Thresholds(
    min_cases=100,
    max_error_rate=0,
    metrics={name: Demand(at_least=0, margin=0) for name in ("ndcg@10", "cites_relevant", "answered", "abstained")},
)
Way = Callable[[], Awaitable[None]]


async def ask(_: Case) -> Answer:
    """The no-op pipeline."""
    return ANSWER


@dataclass(repr=False)
class Constant(Evaluator[Case, Answer, None]):  # type: ignore[misc]  # this environment does not have it
    """The cheapest evaluator of pydantic-evals."""

    def evaluate(self, _: EvaluatorContext[Case, Answer, None]) -> float:
        """The same score for everything."""
        return 1.0


@dataclass(repr=False)
class Same(Evaluator[Case, Answer, None]):  # type: ignore[misc]  # as above
    """What the harness measures, as one evaluator of pydantic-evals."""

    def evaluate(self, ctx: EvaluatorContext[Case, Answer, None]) -> dict[str, float]:
        """Every score that applies."""
        return dict(evaluate(ctx.inputs, ctx.output, TEXTS).scored)


def bare(*evaluators: Evaluator[Case, Answer, None]) -> Way:
    """Pydantic-evals by itself: nothing is kept."""

    async def way() -> None:
        cases = [pydantic_evals.Case[Case, Answer, None](name=case.id, inputs=case) for case in DATASET.cases]
        evals = pydantic_evals.Dataset(name="made", cases=cases, evaluators=evaluators)
        await evals.evaluate(ask, max_concurrency=IN_PROCESS, progress=False)

    return way


async def asked(reports: Path) -> Run:
    """A run with its journal, measured and stored."""
    configuration = describe(DATASET, {source: source for source in TEXTS}, load_settings(_env_file=None))
    with Journal(reports / UNFINISHED / f"{fingerprint(configuration)}.jsonl") as journal:
        run = await ask_all(DATASET, ask, TEXTS, configuration, journal=journal)
    keep(run, reports)
    return run


def ours(reports: Path, baseline: Path) -> Way:
    """The harness: asked, measured, stored, every metric with its interval, and judged by the baseline."""

    async def way() -> None:
        run = await asked(reports)
        for metric in run.metrics():
            interval(run.values(metric))
        decide(run, THRESHOLDS, read_baseline(baseline))

    return way


async def cases_a_second(way: Way) -> float:
    """By the CPU time of this process."""
    began = time.process_time()
    await way()
    return CASES / (time.process_time() - began)


async def measure(reports: Path) -> None:
    """Warm every way, let them take turns, and print a row for each."""
    baseline = reports / "baseline.json"
    write_baseline(await asked(reports), THRESHOLDS, baseline)
    ways = {
        "the harness": ours(reports, baseline),
        "bare pydantic-evals, the same evaluators": bare(Same()),
        "bare pydantic-evals, one constant evaluator": bare(Constant()),
        "bare pydantic-evals, no evaluator": bare(),
    }
    rounds = [[await cases_a_second(way) for way in ways.values()] for _ in range(ROUNDS + 1)][1:]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, {ROUNDS} rounds")
    print(f"{CASES:,} cases, {len(EVALUATORS)} evaluators\n")
    print("| | cases a second, median | lowest to highest | the harness over it, median | lowest to highest |")
    print("|---|---|---|---|---|")
    for n, name in enumerate(ways):
        speeds, ratios = sorted(one[n] for one in rounds), sorted(one[0] / one[n] for one in rounds)
        spread = [f"{values[0]:{f}} to {values[-1]:{f}}" for values, f in ((speeds, ",.0f"), (ratios, ".2f"))]
        middle = statistics.median(speeds), statistics.median(ratios)
        print(f"| {name} | **{middle[0]:,.0f}** | {spread[0]} | {middle[1]:.2f} | {spread[1]} |")


def main() -> None:
    """Measure in a folder that is gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder)))


if __name__ == "__main__":
    main()
