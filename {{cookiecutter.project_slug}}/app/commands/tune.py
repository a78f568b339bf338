"""`app tune`: what other settings of the search would find, and of the extractive model answer.

What evaluates is imported when it is used: half a second.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.commands.evals import DOCUMENTS, FIELD_GUIDE, Dataset, Documents
from app.errors import InvalidInput
from app.session import opened, out

if TYPE_CHECKING:
    from app.tuning.abstention import Point
    from app.tuning.weights import Choice

cli = typer.Typer()


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


async def _tune(dataset: Path, documents: list[Path], what: str) -> None:
    from app.evals.dataset import load_dataset  # noqa: PLC0415  # slow, and only here
    from app.tuning import abstention, weights  # noqa: PLC0415  # as above

    cases = load_dataset(dataset, "tune")
    if not cases.cases:
        raise InvalidInput(f"{dataset} has no case in the split tune")
    async with opened() as parts:
        if what != "abstain":
            _show_weights(cases.name, *await weights.compare(cases, documents, *parts))
        if what != "weights":
            _show_thresholds(cases.name, await abstention.sweep(cases, documents, *parts), parts[2].abstain_below)


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
    best = max(points, key=lambda point: (point.balanced, -abs(point.threshold - now)))
    for point in points:
        row = (f"{point.threshold:.3f}", *(f"{v:.2f}" for v in (point.answered, point.abstained, point.balanced)))
        table.add_row(*row, style="bold green" if point is best else None)
    out.print(table)
    out.print(f"best here: {best.threshold:.3f}; set now: {now:.3f}")
