"""A run as a person reads it: a table in the terminal, Markdown for a pull request, JSON for machines.

Knows nothing of how the run was made.
"""

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from app.evals.gate import Decision, Thresholds, Verdict
from app.evals.runner import Run, as_record

VERDICTS = {
    Verdict.PASS: "pass",
    Verdict.WORSE: "worse than the thresholds allow",
    Verdict.CANNOT_JUDGE: "cannot judge",
}


def rows(run: Run, thresholds: Thresholds) -> list[tuple[str, str, str, str]]:
    """Metric, mean, threshold and number of cases, as text."""
    return [
        (metric, f"{mean:.3f}", _number(thresholds.metrics.get(metric)), str(len(run.scores(metric))))
        for metric, mean in run.means().items()
    ]


def table(run: Run, thresholds: Thresholds) -> Table:
    """The scores for a terminal."""
    out = Table("metric", "mean", "at least", "cases", title=_title(run))
    means = run.means()
    for metric, mean, least, cases in rows(run, thresholds):
        failed = means[metric] < thresholds.metrics.get(metric, 0)
        out.add_row(metric, f"[red]{mean}[/red]" if failed else mean, least, cases)
    return out


def markdown(run: Run, thresholds: Thresholds, decision: Decision) -> str:
    """The scores for a pull request."""
    lines = [
        f"### {_title(run)}: {VERDICTS[decision.verdict]}",
        "",
        "| metric | mean | at least | cases |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows(run, thresholds)]
    return "\n".join([*lines, "", *(f"- {reason}" for reason in decision.reasons), ""])


def write(run: Run, thresholds: Thresholds, decision: Decision, folder: Path) -> Path:
    """Write `latest.json` with every case and `latest.md`; return the Markdown's path."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "verdict": decision.verdict.name.lower(),
        "reasons": decision.reasons,
        "means": run.means(),
        "thresholds": thresholds.metrics,
        **{name: value for name, value in asdict(run).items() if name != "results"},
        "cases": [as_record(result) for result in run.results],
    }
    (folder / "latest.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    summary = folder / "latest.md"
    summary.write_text(markdown(run, thresholds, decision), encoding="utf-8")
    return summary


def _title(run: Run) -> str:
    return f"{run.dataset}, {run.chat_model} with {run.embedding_model}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
