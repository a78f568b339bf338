"""`app calibrate`: how far a judge agrees with people. What evaluates is imported when it is used: half a second."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.errors import InvalidInput, ProviderError
from app.session import opened, out, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.evals.statistics import Interval
    from app.judging.calibration import Calibration, Label, Rated
    from app.judging.judges import Judge

cli = typer.Typer()
MOST_SHOWN = 10  # disagreements
A_COIN = "the judge may tell no more than a coin"
SOURCES = (
    "kappa: Cohen (1960; weighted: 1968), its interval by bootstrap over the answers (Efron and Tibshirani, 1993), the "
    "bar for it after Landis and Koch (1977); intervals of rates: Wilson (1927); corrected: Rogan and Gladen (1978)"
)


@cli.command(rich_help_panel="Evaluation")
def calibrate(
    labels: Annotated[Path, typer.Argument(help="JSONL, one answer with a person's label a line.")],
    judge: Annotated[str, typer.Option(help="Which judge.")],
    split: Annotated[str, typer.Option(help="gate, or tune: that is shown and not kept.")] = "gate",
    run: Annotated[Path | None, typer.Option(help="A stored run, to correct what the judge passed there.")] = None,
    reports: Annotated[Path, typer.Option(help="Where verdicts and disagreements go.")] = Path("evals/reports"),
) -> None:
    """Compare a judge with people, and keep what is found. Exits with 0 if it may gate, and 1 if it may only advise."""
    from app.judging.judges import JUDGES  # noqa: PLC0415  # slow, and only here

    if judge not in JUDGES:
        raise InvalidInput(f"--judge is {judge!r}; it can be {', '.join(JUDGES)}")
    if split not in {"tune", "gate"}:
        raise InvalidInput(f"--split is {split!r}; it can be tune or gate")
    raise typer.Exit(_calibrate(JUDGES[judge], labels, split, run, reports))


def _calibrate(one: "Judge", path: Path, split: str, run: Path | None, reports: Path) -> int:
    from app.judging import calibration  # noqa: PLC0415  # slow, and only here

    labels = calibration.load_labels(path, one, split)  # type: ignore[arg-type]  # just checked
    model, rated, failed = asyncio.run(_rate(one, labels, reports / "verdicts.jsonl"))
    if failed and not rated:
        raise failed[0]
    measures = calibration.agreement(rated)
    found = _found(one, path, model, rated, unjudged=len(failed), kappa=measures["Cohen's kappa"])
    _show_disagreements(calibration.disagreements(rated), reports / f"disagreements-{one.name}.jsonl")
    _show(one.name, found, measures, failed)
    if run:
        _show_corrected(one, found, run)
    if split == "gate":
        calibration.write_calibration(one.name, found, calibration.CALIBRATION)
    doubt = calibration.doubt(one.name, {one.name: found}, model)
    kept = f"kept in {calibration.CALIBRATION}: commit it" if split == "gate" else "not kept: it is the tune split"
    may = f"[yellow]may advise, and not gate[/yellow]: {escape(doubt)}" if doubt else "[green]may gate[/green]"
    out.print(f"the judge {one.name} {may} ({kept})", soft_wrap=True)
    return int(bool(doubt))


def _found(
    one: "Judge", path: Path, model: str, rated: "Sequence[Rated]", *, unjudged: int, kappa: "Interval"
) -> "Calibration":
    from app.judging import calibration  # noqa: PLC0415  # slow, and only here

    return calibration.Calibration(
        model=model,
        prompt_hash=one.prompt_hash,
        labels=path.name,
        labels_hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        n=len(rated),
        unjudged=unjudged,
        confusion=calibration.tabulate(one.pair for one in rated).tolist(),
        kappa=kappa,
        date=datetime.now(UTC).date(),
    )


async def _rate(one: "Judge", labels: "Sequence[Label]", path: Path) -> "tuple[str, list[Rated], list[ProviderError]]":
    """The judge's model, its verdicts, and the errors of those that failed."""
    from app.judging import judges  # noqa: PLC0415  # slow, and only here
    from app.judging.calibration import Rated  # noqa: PLC0415  # as above

    async with opened() as (_, gateway, _):
        model, cache = judges.judge_model(gateway), judges.VerdictCache(path)
        with progress("judging", len(labels)) as advance:

            async def rate(label: "Label") -> Rated:
                try:
                    verdict = await judges.judge(one, *label.as_case(), gateway=gateway, cache=cache)
                finally:
                    advance()
                assert verdict  # noqa: S101  # the labels hold all that the judge needs
                return Rated(label, verdict)

            said = await judges.each([partial(rate, label) for label in labels])
    failed = [error for error in said if isinstance(error, ProviderError)]
    return model, [rated for rated in said if not isinstance(rated, ProviderError)], failed


def _show_disagreements(differ: "Sequence[Rated]", path: Path) -> None:
    """The worst of them; all go into the file, with the passages."""
    for rated in differ[:MOST_SHOWN]:
        label = rated.label
        grade = "" if label.grade is None else f", with grade {label.grade}"
        judged = "passed" if rated.verdict.passed else "failed"
        out.print(
            f"[bold]the judge {judged} it, and the person's label is {label.label}{grade}[/bold]", highlight=False
        )
        for name, text in (("question", label.question), ("answer", label.answer), ("judge", rated.verdict.reason)):
            out.print(f"  [dim]{name}[/dim] {escape(text)}", soft_wrap=True, highlight=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"judge": r.verdict.model_dump()} | r.label.model_dump(), ensure_ascii=False) for r in differ)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    out.print(f"{len(differ)} disagreements, worst first, are in {escape(str(path))}", soft_wrap=True)


def _show(name: str, found: "Calibration", measures: "dict[str, Interval]", failed: "Sequence[ProviderError]") -> None:
    """The measures and the confusion."""
    (right_fails, wrong_passes), (wrong_fails, right_passes) = found.confusion
    table = Table("", "", "95 % interval", title=f"{name} by {escape(found.model)}, {found.n} answers")
    for measure, value in measures.items():
        table.add_row(measure, f"{value.mean:.2f}", f"{value.low:.2f} to {value.high:.2f}")
    out.print(table)
    confusion = Table("", "judge: pass", "judge: fail")
    confusion.add_row("people: pass", str(right_passes), str(wrong_fails))
    confusion.add_row("people: fail", str(wrong_passes), str(right_fails))
    out.print(confusion)
    if failed:
        out.print(
            f"{len(failed)} answers got no verdict and are in no figure: {escape(str(failed[0]))}", soft_wrap=True
        )
    out.print(f"[dim]{SOURCES}[/dim]", soft_wrap=True)


def _show_corrected(one: "Judge", found: "Calibration", path: Path) -> None:
    """What people would have passed in that run."""
    from app.evals.runs import read_run  # noqa: PLC0415  # as above
    from app.evals.statistics import interval  # noqa: PLC0415  # as above
    from app.judging.calibration import corrected  # noqa: PLC0415  # slow, and only here

    run = read_run(path)
    made = run.configuration
    if not (values := run.values(f"judge:{one.name}")):
        raise InvalidInput(f"{path} holds no verdicts: run `app eval --judge {one.name}`")
    if (made.judge_model, made.prompts.get(one.prompt)) != (found.model, found.prompt_hash):
        raise InvalidInput(f"{path} was judged by another model or prompt: run `app eval --judge {one.name}` again")
    told = interval(values)
    true = corrected(values, found.confusion)
    people = f"about {true.mean:.1%}, {true.low:.1%} to {true.high:.1%}" if true else f"unknown: {A_COIN}"
    out.print(f"passed in {escape(path.name)}: {told.mean:.1%} by the judge; by people {people}", soft_wrap=True)
