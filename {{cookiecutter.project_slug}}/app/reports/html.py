"""One HTML page of a run or of several: charts in SVG, its style within, no script; it can be mailed, printed, kept.

Whatever a dataset, a document or a model wrote is escaped by `tag`. Knows nothing of how a figure came about.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from math import log
from pathlib import Path

import numpy as np

from app.evals.gate import Baseline, Decision, Verdict
from app.evals.runs import CaseResult, Run
from app.reports import figures
from app.reports.figures import Chart, Grid
from app.types import Answer, Passage

STYLE = Path(__file__).with_name("report.css")
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
"""
LEGEND = """Dot: mean. Whisker: 95 % interval. Bar: what is demanded. Ring: the baseline. p: after Holm's correction.
Could show: the smallest loss that so many cases would show in 80 of 100 runs."""
IN_FULL = 20  # cases of a kind
PASSAGES = 12  # of a case
LONG, SHORT = 4_000, 400  # characters of an answer, and of a passage
BINS = 40
NUMERIC = re.compile(r"[-+<>= ]*\d[\d.,]*(\s.*)?", re.DOTALL)
MARKER = re.compile(r"(\[\d+\])")


class Html(str):
    """Finished markup; any other text is escaped where it is put in."""

    __slots__ = ()


def tag(name: str, *content: str, **attributes: str) -> Html:
    """An element; `class_` is the attribute class, and an underscore within a name is a hyphen."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_safe(of)}"' for key, of in attributes.items() if of)
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Html:
    """One after the other."""
    return Html("".join(part if isinstance(part, Html) else _safe(part) for part in content))


def _safe(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode())  # half of a surrogate pair cannot be written


def page(runs: Sequence[Run], decision: Decision | None = None, baseline: Baseline | None = None) -> str:
    """One run in full, beside what decided on it and its baseline; or how several compare with the first."""
    first = runs[0].configuration
    title = f"{first.dataset}: {first.chat_model if len(runs) == 1 else f'{len(runs)} runs'}"
    parts = _several(runs) if len(runs) > 1 else _single(runs[0], decision, baseline)
    shown = [(f"part-{n}", heading, content) for n, (heading, content) in enumerate(parts) if content]
    head = [
        tag("h1", title),
        tag("p", ", ".join(run.started_at for run in runs)),
        *(_verdict(decision) if decision else ()),
    ]
    links = tag("nav", *(tag("a", heading, href=f"#{id_}") for id_, heading, _ in shown), aria_label="Parts")
    main = tag("main", *(tag("section", tag("h2", heading, id=id_), *content) for id_, heading, content in shown))
    style = tag("style", Html(STYLE.read_text(encoding="utf-8")))
    return join([Html(HEAD), tag("title", title), style, Html("</head><body>"), tag("header", *head, links), main])


def _verdict(decision: Decision) -> tuple[Html, ...]:
    verdict = tag("p", figures.SAID[decision.verdict], class_=f"verdict {decision.verdict.name.lower()}")
    return verdict, tag("ul", *(tag("li", figures.plain(reason, 500)) for reason in decision.reasons))


def _single(run: Run, decision: Decision | None, baseline: Baseline | None) -> list[tuple[str, list[Html]]]:
    decision = decision or Decision(Verdict.CANNOT_JUDGE)
    metrics = figures.telling([run], decision)
    worse, worst = figures.changes(decision), figures.worst(run, metrics)
    results = {result.case.id: result for result in [*run.results, *worst]}
    others = [(one, ", ".join(f"{m} {one.scores[m]:.3g}" for m in figures.faults(one, metrics))) for one in worst]
    configurations = {"this run": run.configuration} | ({"baseline": baseline.configuration} if baseline else {})
    advisory = [tag("p", f"{metric} advises and does not gate: {why}") for metric, why in decision.advisory.items()]
    return [
        ("Scores", [table(figures.score_grid(run, decision), LEGEND), *advisory]),
        ("Worse than the baseline", _listed([(results[id_], said) for id_, said in worse.items() if id_ in results])),
        ("Worst of the other cases", _listed([(one, said) for one, said in others if one.case.id not in worse])),
        ("By tag", [table(figures.slices(run, metrics))]),
        ("Time, tokens and cost", [table(figures.consumption(run)), *_histogram(run)]),
        ("Repeats", [table(figures.repeats(run))] if run.configuration.repeats > 1 else []),
        ("Errors", [table(figures.troubles(run))]),
        ("Made with", [table(figures.made_with(configurations))]),
    ]


def _several(runs: Sequence[Run]) -> list[tuple[str, list[Html]]]:
    names, apart = figures.names(runs), figures.differing(runs)
    cases = [
        _opened(
            row[0], "", tag("div", *(tag("div", tag("h3", n), _case(one)) for n, one in zip(names, row, strict=True)))
        )
        for row in apart[:IN_FULL]
    ]
    configurations = dict(zip(names, (run.configuration for run in runs), strict=True))
    return [
        ("Scores", [table(figures.contrast_grid(runs))]),
        ("Cases that differ most", [_count(len(apart)), *cases]),
        ("Time, tokens and cost", [table(figures.consumption(r), name) for name, r in zip(names, runs, strict=True)]),
        ("Made with", [table(figures.made_with(configurations))]),
    ]


def table(grid: Grid, caption: str = "") -> Html:
    """A table that scrolls by itself where it is too wide, a chart after the name of its row."""
    caption = caption or grid.caption
    kinds = [
        "n" if all(NUMERIC.fullmatch(cell) or not cell for cell in column) else ""
        for column in zip(*grid.rows, strict=True)
    ]
    head = [tag("th", name, scope="col", class_=kind) for name, kind in zip(grid.head, kinds or grid.head, strict=True)]
    axis = (
        [tag("th", *(tag("span", at) for at in ("0", "0.5", "1")), class_="axis", scope="col")] if grid.charts else []
    )
    rows = []
    for n, (name, *cells) in enumerate(grid.rows):
        chart = [tag("td", *_chart(grid.charts[n]))] if grid.charts else []
        texts = [_cell(cell, kind) for cell, kind in zip(cells, kinds[1:], strict=True)]
        rows.append(tag("tr", tag("th", name, scope="row"), *chart, *texts))
    body = [tag("thead", tag("tr", *head[:1], *axis, *head[1:])), tag("tbody", *rows)] if rows else []
    whole = tag("table", tag("caption", caption if rows else f"{caption}: none"), *body)
    return tag("div", whole, class_="wide", role="region", aria_label=caption, tabindex="0")


def _cell(text: str, kind: str) -> Html:
    """The first line, the others smaller below it; marked as the text is."""
    first, *more = text.split("\n")
    mark = type(text).__name__.lower() if type(text) is not str else ""
    return tag("td", first, *(tag("small", line) for line in more), class_=f"{kind} {mark}".strip())


def _chart(chart: Chart | None) -> list[Html]:
    """The table beside it says the same, so a screen reader passes over it."""
    if not chart:
        return []
    marks = [_line("limit", x, x, 0, 1) for x in chart.limits]
    marks += [_dot("before", chart.before, 0.5)] if chart.before is not None else []
    for n, over in enumerate(chart.intervals, 1):
        y = n / (len(chart.intervals) + 1)
        marks += [_line("whisker", over.low, over.high, y, y), _dot(f"dot run-{n}", over.mean, y)]
    return [tag("svg", *marks, class_="chart", aria_hidden="true", height=str(8 + 12 * len(chart.intervals)))]


def _line(kind: str, *ends: float) -> Html:
    return tag("line", class_=kind, **dict(zip(("x1", "x2", "y1", "y2"), map(_percent, ends), strict=True)))


def _dot(kind: str, x: float, y: float) -> Html:
    return tag("circle", class_=kind, cx=_percent(x), cy=_percent(y), r="4")


def _percent(share: float) -> str:
    return f"{100 * min(1, max(0, share)):.2f}%"


def _histogram(run: Run) -> list[Html]:
    """How many answers took how long, on a logarithmic axis."""
    times = [max(1, result.answer.latency_ms) for result in run.results if result.answer]
    if not times:
        return []
    low, high = min(times), max(*times, min(times) + 1)
    counts, _ = np.histogram(np.log(times), BINS, (log(low), log(high)))
    bars = [
        tag("rect", x=_percent(n / BINS), width=_percent(0.9 / BINS), y=_percent(1 - size), height=_percent(size))
        for n, size in enumerate(counts / counts.max())
    ]
    marks = {f"p{q}": float(np.percentile(times, q)) for q in (50, 95)}
    lines = [_line("limit", *[log(at / low) / log(high / low)] * 2, 0, 1) for at in marks.values()]
    ends = {"least": low} | marks | {"most": max(times)}
    said = f"Latency, logarithmic: {', '.join(f'{name} {at:,.0f} ms' for name, at in ends.items())}"
    chart = tag("svg", *bars, *lines, class_="histogram", role="img", aria_label=said)
    return [tag("figure", chart, tag("figcaption", said))]


def _listed(cases: Sequence[tuple[CaseResult, str]]) -> list[Html]:
    """The first of the cases, each to be opened."""
    return [_count(len(cases)), *(_opened(one, said, _case(one)) for one, said in cases[:IN_FULL])] if cases else []


def _count(cases: int) -> Html:
    return tag("p", f"{min(cases, IN_FULL)} of {cases} cases are shown; the run's file has them all.")


def _opened(result: CaseResult, said: str, content: Html) -> Html:
    named = tag("code", figures.plain(result.case.id, 60)), tag("span", figures.plain(result.case.question), dir="auto")
    return tag("details", tag("summary", *named, tag("small", said or figures.plain(result.error))), content)


def _case(result: CaseResult) -> Html:
    """Everything there is to read of an attempt."""
    answer, case = result.answer, result.case
    scores = ", ".join(f"{metric} {figures.number(value, metric)}" for metric, value in result.scores.items())
    parts = {
        "Question": [_text(case.question)],
        "Reference": [_text(case.reference)],
        "Relevant": [_text(", ".join(case.relevant))],
        "Error": [_text(result.error)],
        "Answer": _answer(answer) if answer else [],
        "Scores": [_text(scores)],
        "Failed": [_text(f"{metric}: {why}") for metric, why in result.failed.items()],
        "Judges": [_text(f"{metric}: {why}") for metric, why in result.reasons.items()],
        "Passages": _passages(answer.passages) if answer else [],
    }
    told = {name: join(content) for name, content in parts.items()}
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", content)) for name, content in told.items() if content))


def _text(text: str, length: int = LONG, marked: Collection[str] = ()) -> Html:
    """As it was written, in its own direction, shortened, with these citations marked; nothing where there is none."""
    pieces = (tag("mark", piece) if piece in marked else piece for piece in MARKER.split(text[:length]))
    more = f" ... ({len(text):,} characters)" if len(text) > length else ""
    return tag("p", *pieces, more, class_="text", dir="auto") if text else Html("")


def _answer(answer: Answer) -> list[Html]:
    """What it says, what its citations quote, and those that the check refused."""
    markers = [f"[{one.marker}]" for one in answer.citations]
    quotes = [f"[{one.marker}] {one.source}: {one.quote}" for one in answer.citations]
    quotes += [f"[{one.marker}] refused as {one.fault}: {one.quote}" for one in answer.rejected]
    abstained = [_text(f"It abstained: {answer.reason}")] if answer.abstained else []
    return [
        *abstained,
        _text(answer.text, LONG, markers),
        *(tag("blockquote", _text(quote, SHORT)) for quote in quotes[:PASSAGES]),
    ]


def _passages(passages: Sequence[Passage]) -> list[Html]:
    """Each as far as it was used: cited, read or only found."""
    shown = [
        tag(
            "li",
            tag("b", one.use),
            " ",
            figures.plain(f"{one.source}, {one.heading}"),
            _text(figures.plain(one.text, SHORT)),
        )
        for one in passages[:PASSAGES]
    ]
    more = [tag("p", f"{len(passages) - PASSAGES} more were found")] if len(passages) > PASSAGES else []
    return [tag("ol", *shown), *more] if passages else []
