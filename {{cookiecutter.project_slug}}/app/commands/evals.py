"""`app eval` and `app compare`: how good the answers are, and which settings make them better.

What evaluates is imported when it is used: half a second.
"""

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.db.engine import open_database
from app.errors import InvalidInput
from app.session import err, opened, out, progress, start
from app.settings import Settings

if TYPE_CHECKING:
    from app.evals.dataset import Dataset as Cases
    from app.evals.gate import Baseline, Decision
    from app.evals.runs import Run
    from app.judging.judges import Judge, Preferences

cli = typer.Typer()
FIELD_GUIDE = Path("evals/datasets/field-guide.jsonl")
DOCUMENTS = [Path("corpus"), Path("docs")]
TWO = 2  # runs, to prefer one of
A_HALF = 0.5  # what neither wins more than
REPORTS = Path("evals/reports")
Dataset = Annotated[Path, typer.Option(help="JSONL, one case a line.")]
Documents = Annotated[list[Path] | None, typer.Option(help="What the cases ask about; default corpus and docs.")]
Split = Annotated[str, typer.Option(help="tune, gate or all.")]
Repeat = Annotated[int, typer.Option(min=1, help="Ask each question so often: a model may answer differently.")]
Judges = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Let JUDGE_MODEL rate each answer; may be repeated.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE[,...]", help="Other settings than those in .env; may be repeated."),
]
Concurrency = Annotated[
    int | None, typer.Option(min=1, help="Questions at a time; default 16, or with offline models two a core.")
]
PerMinute = Annotated[
    int | None, typer.Option(min=1, help="Questions and judges' calls a minute, evenly spaced; default no pace.")
]
Reports = Annotated[Path, typer.Option(help="Where reports, runs and unfinished runs go.")]


@dataclass(frozen=True)
class Plan:
    """What is asked, how often, how fast and by whom it is rated."""

    cases: "Cases"
    documents: list[Path]
    repeats: int
    judges: "list[Judge]"
    concurrency: int | None
    per_minute: int | None
    reports: Path


@cli.command("eval", rich_help_panel="Evaluation")
def evaluate(
    *,
    dataset: Dataset = FIELD_GUIDE,
    documents: Documents = None,
    split: Split = "gate",
    repeat: Repeat = 1,
    judge: Judges = None,
    set_: Sets = None,
    concurrency: Concurrency = None,
    per_minute: PerMinute = None,
    thresholds: Annotated[Path, typer.Option(help="What the gate demands.")] = Path("evals/thresholds.toml"),
    baseline: Annotated[Path, typer.Option(help="The scores to compare with.")] = Path("evals/baseline.json"),
    save_baseline: Annotated[bool, typer.Option(help="Write the scores to the baseline instead.")] = False,
    reports: Reports = REPORTS,
) -> None:
    """Run the evaluation, and judge it by the thresholds and the baseline.

    Exits with 0 pass, 1 worse than allowed, 2 cannot judge. An interrupted run goes on where it was: run it again.

    Each question is asked of the documents in a tenant of its own. The last report is in evals/reports/latest.html,
    every run in evals/reports/runs.

    `app eval --set CHAT_MODEL=openai/gpt-5-mini --repeat 3 --judge groundedness`
    """
    from app.evals import gate  # noqa: PLC0415  # slow, and only here
    from app.judging.calibration import CALIBRATION, read_calibrations  # noqa: PLC0415  # as above

    demanded = gate.load_thresholds(thresholds)
    read_calibrations(CALIBRATION)  # what is broken is found before anything is asked
    before = None
    with suppress(InvalidInput) if save_baseline else nullcontext():  # what is to be replaced may be broken
        before = gate.read_baseline(baseline) if baseline.exists() else None
    plan = _plan(
        dataset=dataset,
        documents=documents or DOCUMENTS,
        split=split,
        repeats=repeat,
        judges=judge or [],
        concurrency=concurrency,
        per_minute=per_minute,
        reports=reports,
    )
    if save_baseline and before and before.configuration.dataset != plan.cases.name:
        raise InvalidInput(f"{baseline} is of the dataset {before.configuration.dataset}: give --baseline another FILE")
    run = asyncio.run(_evaluate(plan, set_ or []))
    if save_baseline:
        try:
            gate.write_baseline(run, demanded, baseline)
        except InvalidInput:
            _show(run, gate.decide(run, demanded, None, _advisory(run)), None, reports)
            raise
        before = gate.read_baseline(baseline)
        out.print(f"written to {baseline}: review the change, and commit it", soft_wrap=True)
    decision = gate.decide(run, demanded, before, _advisory(run))
    raise typer.Exit(_show(run, decision, before, reports))


@cli.command(rich_help_panel="Evaluation")
def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Runs to compare, of evals/reports/runs.")] = None,
    *,
    prefer: Annotated[bool, typer.Option("--prefer", help="Let JUDGE_MODEL choose between two runs' answers.")] = False,
    set_: Sets = None,
    dataset: Dataset = FIELD_GUIDE,
    documents: Documents = None,
    split: Split = "gate",
    repeat: Repeat = 1,
    judge: Judges = None,
    concurrency: Concurrency = None,
    per_minute: PerMinute = None,
    reports: Reports = REPORTS,
) -> None:
    """Compare configurations over the same cases: each --set makes one beside the settings as they are.

    Every difference is to the first, with the interval in which the true one lies. Stored runs are compared without
    asking anything again; with --prefer the judge is asked, in both orders, which of two answers is better.

    `app compare --set FUSION=rrf --set RERANK=llm,PASSAGES=8`

    `app compare evals/reports/runs/A.json evals/reports/runs/B.json --prefer`
    """
    from app.reports import html, report  # noqa: PLC0415  # slow, and only here

    if bool(runs) == bool(set_):
        raise InvalidInput("give either the files of runs, or settings: --set NAME=VALUE")
    if prefer and len(runs or []) != TWO:
        raise InvalidInput("--prefer is about two stored runs: app compare A.json B.json --prefer")
    preferences = None
    if runs:
        found = _read(runs)
        preferences = asyncio.run(_prefer(found, reports, per_minute)) if prefer else None
    else:
        plan = _plan(
            dataset=dataset,
            documents=documents or DOCUMENTS,
            split=split,
            repeats=repeat,
            judges=judge or [],
            concurrency=concurrency,
            per_minute=per_minute,
            reports=reports,
        )
        found = asyncio.run(_matrix(plan, set_ or []))
    out.print(report.comparison_table(found))
    if preferences:
        _show_preferences(preferences)
    page = reports / "comparison.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html.page(found), encoding="utf-8")
    out.print(f"written to {page}", soft_wrap=True)


def _plan(
    *,
    dataset: Path,
    documents: list[Path],
    split: str,
    repeats: int,
    judges: list[str],
    concurrency: int | None,
    per_minute: int | None,
    reports: Path,
) -> Plan:
    from app.evals.dataset import load_dataset  # noqa: PLC0415  # slow, and only here
    from app.judging.judges import JUDGES  # noqa: PLC0415  # as above

    if split not in {"tune", "gate", "all"}:
        raise InvalidInput(f"--split is {split!r}; it can be tune, gate or all")
    if unknown := set(judges) - JUDGES.keys():
        raise InvalidInput(f"--judge {unknown.pop()}: there is no such judge; there are {', '.join(JUDGES)}")
    cases = load_dataset(dataset, None if split == "all" else split)  # type: ignore[arg-type]  # just checked
    if not cases.cases:
        raise InvalidInput(f"{dataset} has no case in the split {split}")
    asked = [JUDGES[name] for name in dict.fromkeys(judges)]
    return Plan(cases, documents, repeats, asked, concurrency, per_minute, reports)


async def _evaluate(plan: Plan, changes: list[str]) -> "Run":
    from app.tuning import matrix  # noqa: PLC0415  # slow, and only here

    start()
    [run] = await _ask(plan, {",".join(changes): matrix.changed(changes)})
    return run


async def _matrix(plan: Plan, changes: list[str]) -> "list[Run]":
    from app.tuning import matrix  # noqa: PLC0415  # slow, and only here

    start()
    return await _ask(plan, matrix.configurations(changes))


async def _ask(plan: Plan, configurations: Mapping[str, Settings]) -> "list[Run]":
    """Every run is stored when all are there: what an interruption leaves is then the journals of all of them."""
    from app.evals import runner  # noqa: PLC0415  # slow, and only here
    from app.judging.pace import Pace  # noqa: PLC0415  # as above
    from app.tuning import matrix  # noqa: PLC0415  # as above

    first = next(iter(configurations.values()))
    total = len(plan.cases.cases) * plan.repeats * len(configurations)
    async with open_database(first) as database:
        with progress("asking", total) as advance:
            runs = await matrix.run_all(
                plan.cases,
                plan.documents,
                database,
                configurations,
                repeats=plan.repeats,
                judges=plan.judges,
                journal=plan.reports / runner.UNFINISHED,
                concurrency=plan.concurrency,
                pace=Pace(plan.per_minute),
                on_case=advance,
                on_resume=_resumed,
            )
    for run in runs:
        runner.keep(run, plan.reports)
    return runs


def _resumed(answers: int) -> None:
    if answers:
        err.print(f"{answers} answers are taken from a run that did not finish, or in which something failed")


def _read(paths: list[Path]) -> "list[Run]":
    from app.evals.runs import read_run  # noqa: PLC0415  # slow, and only here

    if len(paths) == 1:
        raise InvalidInput("one run has nothing to be compared with: give two or more")
    runs = [read_run(path) for path in paths]
    if len({run.configuration.dataset_hash for run in runs}) > 1:
        err.print("[yellow]these runs are of different datasets: only cases with the same id are compared[/yellow]")
    return runs


async def _prefer(runs: "list[Run]", reports: Path, per_minute: int | None) -> "Preferences":
    from app.judging import judges  # noqa: PLC0415  # slow, and only here
    from app.judging.pace import Pace  # noqa: PLC0415  # as above

    async with opened() as (_, gateway, _):
        judges.judge_model(gateway)  # also where no two answers differ
        cache = judges.VerdictCache(reports / "verdicts.jsonl", Pace(per_minute))
        with err.status("asking which answers are better"):
            return await judges.prefer_runs(*runs, gateway=gateway, cache=cache)


def _show_preferences(found: "Preferences") -> None:
    second = found.second
    if second.low <= A_HALF <= second.high:
        told = "no difference shown"
    else:
        told = f"the {'second' if second.mean > A_HALF else 'first'} run's answers are preferred"
    out.print(
        f"{told}: of {found.pairs} pairs the second run won {second.mean:.1%}, {second.low:.1%} to {second.high:.1%}, "
        f"a tie being half a win; in {found.flips:.1%} the order made a difference, which is a tie; "
        f"{found.failed} pairs were not compared",
        soft_wrap=True,
    )


def _advisory(run: "Run") -> dict[str, str]:
    from app.judging.calibration import advisory  # noqa: PLC0415  # slow, and only here

    return advisory(run.metrics(), run.configuration.judge_model)


def _show(run: "Run", decision: "Decision", baseline: "Baseline | None", reports: Path) -> int:
    from app.reports import report  # noqa: PLC0415  # slow, and only here

    out.print(report.table(run, decision))
    report.write(run, decision, reports, baseline)
    out.print(f"every case is in {reports / 'latest.html'}", soft_wrap=True)
    return int(decision.verdict)
