"""A run as a person reads it: in the terminal, as Markdown for a pull request, and as files.

Whatever a dataset, a document or a model wrote is text, and never markup. Knows nothing of how a run was made.
"""

import json
import re
from collections.abc import Sequence
from itertools import accumulate, takewhile
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from app.evals.gate import Baseline, Decision
from app.evals.runs import RUN, Run
from app.reports import figures, html
from app.reports.figures import Bad, Faint, Grid

COLUMNS = ("metric", "gate", "mean", "95 % interval", "demanded", "change", "p", "cases")
SUMMARY = (*COLUMNS[:5], "baseline", *COLUMNS[5:7], "could show", "cases")
MOST_BYTES = 60_000  # a comment at GitHub has 65,536 characters
STYLES: dict[type[str], str] = {Bad: "red", Faint: "dim"}
IN_TERMINAL = 10  # cases that got worse


def table(run: Run, decision: Decision) -> Group:
    """The scores, the reasons and the cases that got worse, for a terminal of 80 columns."""
    worse = figures.changes(decision)
    lines = [f"{case}: {notes}" for case, notes in list(worse.items())[:IN_TERMINAL]]
    more = [f"and {len(worse) - IN_TERMINAL} more cases got worse"] if len(worse) > IN_TERMINAL else []
    least = [f"{one.metric} {one.detectable:.3f}" for one in decision.comparisons if one.metric in decision.adjusted]
    could = [f"the smallest loss that these cases could show: {', '.join(least)}"] if least else []
    said = [*decision.reasons, *_failed(run), *lines, *more, *could, _taken(run)]
    shown = figures.score_grid(run, decision).only(*COLUMNS)
    return Group(_table(shown, _title(run, decision)), *(Text(figures.plain(line, 400)) for line in said))


def comparison_table(runs: Sequence[Run]) -> Table:
    """Metrics as rows and runs as columns, with the difference to the first; a star where it is hardly chance."""
    grid = figures.contrast_grid(runs)
    return _table(grid, f"{runs[0].configuration.dataset}: {grid.caption}")


def markdown(run: Run, decision: Decision) -> str:
    """The scores for a pull request, the verdict first; as many cases that got worse as a comment has room for."""
    grid = figures.score_grid(run, decision).only(*SUMMARY)
    lines = [
        f"### {_literal(_title(run, decision))}",
        "",
        *(f"- {_literal(reason, 500)}" for reason in (*decision.reasons, *_failed(run))),
        "",
    ]
    lines += [_row(grid.head), "|---" + "|--:" * (len(grid.head) - 1) + "|", *map(_row, grid.rows), ""]
    lines += [_literal(_taken(run)), ""]
    questions = {result.case.id: result.case.question for result in run.results}
    worse = figures.changes(decision)
    items = [
        f"- {_literal(case)}: {_literal(notes)}. {_literal(questions.get(case, ''))}" for case, notes in worse.items()
    ]
    room = MOST_BYTES - sum(len(line.encode()) + 1 for line in lines)
    sizes = accumulate(len(item.encode()) + 1 for item in items)
    shown = items[: len(list(takewhile(lambda size: size < room, sizes)))]
    if not items:
        return "\n".join(lines)
    left = f", {len(shown)} shown" if len(shown) < len(items) else ""
    summary = f"<details><summary>{len(items)} cases got worse{left}</summary>"
    return "\n".join([*lines, summary, "", *shown, "", "</details>", ""])


def write(run: Run, decision: Decision, folder: Path, baseline: Baseline | None = None) -> list[Path]:
    """Write `latest.json` for machines, `latest.md` and `latest.html`; each is whole or as it was."""
    record = {"verdict": decision.verdict.name.lower(), "reasons": decision.reasons, "means": run.means()}
    texts = {
        "latest.json": json.dumps(record | RUN.dump_python(run, mode="json")) + "\n",
        "latest.md": markdown(run, decision),
        "latest.html": html.page([run], decision, baseline),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        unfinished = folder / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)
    return [folder / name for name in texts]


def _table(grid: Grid, title: str) -> Table:
    shown = Table(title=Text(title), box=SIMPLE_HEAD, padding=0, title_justify="left")
    for n, name in enumerate(grid.head):
        shown.add_column(Text(name), justify="right" if n else "left", no_wrap=not n)
    for row in grid.rows:
        shown.add_row(*(Text(cell, style=STYLES.get(type(cell), "")) for cell in row))
    return shown


def _failed(run: Run) -> list[str]:
    """How many errors and failed measurements there are, with the first of them."""
    rows, count = figures.troubles(run).rows, len(run.errors) + sum(len(one.failed) for one in run.failures)
    return (
        [f"{count} errors and failed measurements, the first in {rows[0][0]}: {rows[0][2]}: {rows[0][3]}"]
        if rows
        else []
    )


def _taken(run: Run) -> str:
    """Time, tokens and money in a line."""
    return "; ".join(
        f"{name} {p50} (p95 {p95}, sum {total})" for name, p50, p95, _, total in figures.consumption(run).rows
    )


def _title(run: Run, decision: Decision) -> str:
    made = run.configuration
    verdict = figures.SAID[decision.verdict]
    return figures.plain(f"{verdict}: {made.dataset}, {made.chat_model} with {made.embedding_model}")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_literal, cells))} |"


def _literal(text: str, length: int = 200) -> str:
    """Text that Markdown takes as it is: an entity is never markup, and a space without width ends a mention."""
    unnamed = re.sub(r"(?<!\w)@", "@\u200b", figures.plain(text, length))
    return re.sub(r"""[^\w ,.?'"+%=;/()-]|_""", lambda found: f"&#{ord(found[0])};", unnamed)
