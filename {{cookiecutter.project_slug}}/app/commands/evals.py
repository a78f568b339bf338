"""`app eval` and `app tune`: how good the answers are. What evaluates is imported when it is used: half a second."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.errors import InvalidInput
from app.session import opened, out, progress

if TYPE_CHECKING:
    from app.evals.tune import Point
    from app.evals.weights import Choice

cli = typer.Typer()
Dataset = Annotated[Path, typer.Option(help="JSONL, one case a line.")]
Documents = Annotated[list[Path] | None, typer.Option(help="What the cases ask about; default corpus and docs.")]
FIELD_GUIDE = Path("evals/datasets/field-guide.jsonl")
DOCUMENTS = [Path("corpus"), Path("docs")]


@cli.command("eval", rich_help_panel="Evaluation")
def evaluate(
    dataset: Dataset = FIELD_GUIDE,
    documents: Documents = None,
    split: Annotated[str, typer.Option(help="tune, gate or all.")] = "gate",
    thresholds: Annotated[Path, typer.Option(help="What the gate demands.")] = Path("evals/thresholds.toml"),
    reports: Annotated[Path, typer.Option(help="Where latest.json and latest.md go.")] = Path("evals/reports"),
) -> None:
    """Run the evaluation. Exits with 0 pass, 1 worse than the thresholds allow, 2 cannot judge."""
    raise typer.Exit(asyncio.run(_evaluate(dataset, documents or DOCUMENTS, split, thresholds, reports)))


@cli.command(rich_help_panel="Evaluation")
def tune(
    dataset: Dataset = FIELD_GUIDE,
    documents: Documents = None,
    what: Annotated[str, typer.Option(help="weights, abstain or both.")] = "both",
) -> None:
    """Show what each DENSE_WEIGHT would find, and each ABSTAIN_BELOW answer, on the dataset's tune split."""
    if what not in {"weights", "abstain", "both"}:
        raise InvalidInput(f"--what is {what!r}; it can be weights, abstain or both")
    asyncio.run(_tune(dataset, documents or DOCUMENTS, what))


async def _evaluate(dataset: Path, documents: list[Path], split: str, thresholds: Path, reports: Path) -> int:
    from app.evals import gate, report, runner  # noqa: PLC0415  # slow, and only here
    from app.evals.dataset import load_dataset  # noqa: PLC0415  # as above

    if split not in {"tune", "gate", "all"}:
        raise InvalidInput(f"--split is {split!r}; it can be tune, gate or all")
    cases = load_dataset(dataset, None if split == "all" else split)  # type: ignore[arg-type]  # just checked
    demanded = gate.load_thresholds(thresholds)
    async with opened() as parts:
        with progress("asking", len(cases.cases)) as advance:
            run = await runner.run(cases, documents, *parts, on_case=advance)
    decision = gate.decide(run, demanded)
    out.print(report.table(run, demanded))
    for reason in decision.reasons:
        out.print(f"[red]{escape(reason)}[/red]")
    report.write(run, demanded, decision, reports)
    out.print(f"{report.VERDICTS[decision.verdict]}; every case is in {reports / 'latest.json'}")
    return int(decision.verdict)


async def _tune(dataset: Path, documents: list[Path], what: str) -> None:
    from app.evals import tune, weights  # noqa: PLC0415  # slow, and only here
    from app.evals.dataset import load_dataset  # noqa: PLC0415  # as above

    cases = load_dataset(dataset, "tune")
    async with opened() as parts:
        if what != "abstain":
            _show_weights(cases.name, *await weights.compare(cases, documents, *parts))
        if what != "weights":
            _show_thresholds(cases.name, await tune.sweep(cases, documents, *parts), parts[2].abstain_below)


def _show_weights(name: str, choices: "list[Choice]", now: "Choice") -> None:
    """A row for each way to fuse, and in a sentence what to set."""
    best = max(choices, key=lambda choice: choice.means["ndcg@10"])
    table = Table("", *best.means, "ndcg@10 against now", title=f"{name}, tune split")
    for choice in choices:
        gain = f"{choice.gain:+.3f} [{choice.low:+.3f}, {choice.high:+.3f}]"
        row = (choice.name, *(f"{mean:.3f}" for mean in choice.means.values()), escape(gain))
        table.add_row(*row, style="bold green" if choice is best else None)
    out.print(table)
    out.print("In brackets, where the true difference lies in 95 of 100 such datasets; with 0 in it, it may be chance.")
    if best.is_better:
        out.print(f"best here: {best.name}, really better than {now.name}, which is set now: set it")
    else:
        out.print(f"best here: {best.name}; not really better than {now.name}, which is set now: keep that")


def _show_thresholds(name: str, points: "list[Point]", now: float) -> None:
    table = Table("ABSTAIN_BELOW", "answered", "abstained", "balanced", title=f"{name}, tune split")
    best = max(points, key=lambda point: point.balanced)
    for point in points:
        row = (f"{point.threshold:.3f}", *(f"{v:.2f}" for v in (point.answered, point.abstained, point.balanced)))
        table.add_row(*row, style="bold green" if point is best else None)
    out.print(table)
    out.print(f"best here: {best.threshold:.3f}; set now: {now:.3f}")
