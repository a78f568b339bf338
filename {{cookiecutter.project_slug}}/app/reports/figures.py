"""What a report says, in tables of plain text: scores beside what is demanded, slices, cost, the cases worth reading.

Knows nothing of the terminal, of Markdown or of HTML, and nothing of how a run was made or judged.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np

from app.evals.evaluators import EVALUATORS, Unit
from app.evals.gate import Decision, Verdict
from app.evals.runs import CaseResult, Configuration, Run
from app.evals.statistics import Comparison, Interval, Values, compare, interval, pass_at_k, pass_hat_k

SAID = {Verdict.PASS: "pass", Verdict.WORSE: "worse than the gate allows", Verdict.CANNOT_JUDGE: "cannot judge"}
SPECS: dict[Unit, str] = {"share": ".3f", "ms": ",.0f", "tokens": ",.0f", "usd": ".6f"}
SMALL = 10  # cases; the mean of fewer says little
MOST = 50  # rows of a list that has no bound
HASH = re.compile(r"[0-9a-f]{64}")
LEAST_P = 0.001  # what is less is shown as that
SCORE_HEAD = ("metric", "gate", "mean", "95 % interval", "demanded", "cases")
CHANGE_HEAD = ("baseline", "change", "95 % of change", "p", "could show")


class Bad(str):
    """A cell with what should not be so."""

    __slots__ = ()


class Faint(str):
    """A cell that says little."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """What a row's chart shows on an axis from 0 to 1: a mean with its interval for each run, limits, the baseline."""

    intervals: Sequence[Interval]
    limits: Sequence[float] = ()
    before: float | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: the first cell of a row names it; `charts` are of each row, or none."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    charts: Sequence[Chart | None] = ()

    def only(self, *names: str) -> "Grid":
        """Just these columns."""
        kept = [self.head.index(name) for name in names]
        return Grid(self.caption, names, [[row[n] for n in kept] for row in self.rows])


def plain(text: str, length: int = 200) -> str:
    """One line that shows as it is: no control characters, none that turn its direction, and not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 2 * length]).split())
    return line if len(line) <= length else f"{line[:length]} ..."


def unit_of(metric: str) -> Unit:
    """What it counts; a judge gives shares."""
    return EVALUATORS[metric].unit if metric in EVALUATORS else "share"


def number(value: float, metric: str = "", sign: str = "") -> str:
    """A value of a metric; `sign` is "+" for a change."""
    return format(value, sign + SPECS[unit_of(metric)])


def span(over: Interval, metric: str = "") -> str:
    """From its lower end to its upper."""
    return f"{number(over.low, metric)} to {number(over.high, metric)}"


def score_grid(run: Run, decision: Decision) -> Grid:
    """Every share, and whatever else is demanded, beside what it was; `consumption` has the rest."""
    demanded = decision.thresholds.metrics if decision.thresholds else {}
    compared = {one.metric: one for one in decision.comparisons}
    rows, charts = [], []
    for metric in (metric for metric in run.metrics() if unit_of(metric) == "share" or metric in demanded):
        values, demand, change = run.values(metric), demanded.get(metric), compared.get(metric)
        over, bounds = interval(values), {">=": demand.at_least, "<=": demand.at_most} if demand else {}
        limits = {sign: limit for sign, limit in bounds.items() if limit is not None}
        row = [metric, _standing(metric, over.mean, decision), number(over.mean, metric), span(over, metric)]
        row += [" ".join(f"{sign} {number(limit, metric)}" for sign, limit in limits.items()), str(len(values))]
        rows.append(row + (_changed(change, decision.adjusted.get(metric)) if change else [""] * len(CHANGE_HEAD)))
        chart = Chart([over], list(limits.values()), change.before if change else None)
        charts.append(chart if unit_of(metric) == "share" else None)
    return Grid("Scores", SCORE_HEAD + CHANGE_HEAD, rows, charts)


def _changed(change: Comparison, p: float | None) -> list[str]:
    before, effect, ends = (
        number(change.before, change.metric),
        number(change.effect, change.metric, "+"),
        _ends(change),
    )
    return [before, effect, ends, _probability(p), number(change.detectable, change.metric)]


def _ends(change: Comparison) -> str:
    return f"{number(change.low, change.metric, '+')} to {number(change.high, change.metric, '+')}"


def _probability(p: float | None) -> str:
    return "" if p is None else f"<{LEAST_P}" if p < LEAST_P else f"{p:.3f}"


def _standing(metric: str, mean: float, decision: Decision) -> str:
    """What the gate makes of a metric, in a word or two."""
    demand = decision.thresholds.metrics.get(metric) if decision.thresholds else None
    if metric in decision.advisory:
        return "advisory"
    if decision.thresholds is None or demand is None:
        return ""
    if demand.at_least is not None and mean < demand.at_least:
        return Bad("too low")
    if demand.at_most is not None and mean > demand.at_most:
        return Bad("too high")
    return Bad("worse") if decision.adjusted.get(metric, 1) <= decision.thresholds.alpha else "ok"


def contrast_grid(runs: Sequence[Run]) -> Grid:
    """Metrics as rows, runs as columns; below a mean, how it differs from the first run's, with a star where surely."""
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.metrics()))
    values = {metric: [run.values(metric) for run in runs] for metric in metrics}
    rows = [[metric, *(_difference(metric, each, of[0]) for each in of)] for metric, of in values.items()]
    intervals = {metric: [interval(each) for each in of if each] for metric, of in values.items()}
    charts = [Chart(of) if unit_of(metric) == "share" else None for metric, of in intervals.items()]
    return Grid(
        "Mean, and difference to A (ring); a star where chance hardly explains it",
        ("metric", *names(runs)),
        rows,
        charts,
    )


def _difference(metric: str, values: Values, first: Values) -> str:
    mean = number(fmean(map(fmean, values.values())), metric) if values else ""
    if values is first or not values.keys() & first.keys():
        return mean
    one = EVALUATORS.get(metric)
    higher, binary = (one.higher_is_better, one.binary) if one else (True, True)  # a judge lets pass, or not
    change = compare(metric, values, first, higher_is_better=higher, binary=binary)
    # Runs are not at the same time, so what else the machine did is a part of every time.
    star = "" if change.low <= 0 <= change.high or unit_of(metric) == "ms" else " *"
    return f"{mean}\n{number(change.effect, metric, '+')}{star}\n{_ends(change)}"


def names(runs: Sequence[Run]) -> list[str]:
    """The runs as a reader tells them apart: A, B, C, with the name that was given."""
    given = [plain(run.configuration.name or run.configuration.chat_model, 40) for run in runs]
    return [f"{chr(ord('A') + n)} {name}" for n, name in enumerate(given)]


def slices(run: Run, metrics: Sequence[str]) -> Grid:
    """Each tag's mean of each metric, with interval and number of cases; a small slice is faint."""
    rows = []
    for tag in sorted({tag for result in run.results for tag in result.case.tags}):
        cases = {result.case.id for result in run.results if tag in result.case.tags}
        every = [{id_: of for id_, of in run.values(metric).items() if id_ in cases} for metric in metrics]
        rows.append([plain(tag), str(len(cases)), *map(_slice, every)])
    return Grid(f"Mean, 95 % interval, cases; faint below {SMALL} cases", ("tag", "cases", *metrics), rows)


def _slice(values: Values) -> str:
    text = f"{number((over := interval(values)).mean)}\n{span(over)}, n {len(values)}" if values else ""
    return Faint(text) if len(values) < SMALL else text


def consumption(run: Run) -> Grid:
    """What the answers took: time, tokens and money. Where the price of one is unknown, so is the sum."""
    answers = [result.answer for result in run.results if result.answer]
    costs = [answer.cost_nanousd for answer in answers]
    taken: dict[str, tuple[str, Sequence[float]]] = {
        "latency, ms": (",.0f", [answer.latency_ms for answer in answers]),
        "input tokens": (",.0f", [answer.usage.input_tokens for answer in answers]),
        "output tokens": (",.0f", [answer.usage.output_tokens for answer in answers]),
        "cost, USD": (".6f", [cost / 1e9 for cost in costs if cost is not None]),
    }
    rows = [[name, *(format(float(x), spec) for x in _spread(of))] for name, (spec, of) in taken.items() if of]
    if unknown := costs.count(None):
        rows = [*rows[:3], ["cost, USD", f"price unknown for {unknown} of {len(costs)} answers", "", "", ""]]
    return Grid("What the answers took", ("", "p50", "p95", "per answer", "sum"), rows)


def _spread(of: Sequence[float]) -> list[float]:
    return [*np.quantile(of, [0.5, 0.95]), fmean(of), sum(of)]


def repeats(run: Run) -> Grid:
    """How steady the answers are: is any of k attempts right, is every one, and how far do a case's scores differ.

    pass@k and pass^k are of metrics that are 0 or 1; the spread is a case's highest score less its lowest.
    """
    k, rows = run.configuration.repeats, []
    for metric in (metric for metric in run.metrics() if unit_of(metric) == "share"):
        if not (full := {case: of for case, of in run.values(metric).items() if len(of) >= k}):
            continue
        binary = {value for of in full.values() for value in of} <= {0, 1}
        tally = [(len(of), round(sum(of))) for of in full.values()]
        passes = [number(fmean(of(n, c, k) for n, c in tally)) if binary else "" for of in (pass_at_k, pass_hat_k)]
        spreads = {case: max(of) - min(of) for case, of in full.items() if len(set(of)) > 1}
        widest = sorted(spreads, key=lambda case: -spreads[case])[:3]
        most = ", ".join(f"{plain(case, 40)} {number(spreads[case])}" for case in widest)
        mean = number(sum(spreads.values()) / len(full))
        rows.append([metric, *passes, mean, f"{len(spreads)} of {len(full)}", most])
    head = ("metric", f"pass@{k}", f"pass^{k}", "mean spread", "cases that vary", "most of all")
    return Grid(f"{k} attempts at each case; spread: a case's highest score less its lowest", head, rows)


def troubles(run: Run) -> Grid:
    """The attempts without an answer, and the measurements that failed."""
    rows = [(r.case.id, str(r.attempt + 1), "no answer", r.error) for r in run.errors]
    rows += [(r.case.id, str(r.attempt + 1), *failure) for r in run.failures for failure in r.failed.items()]
    caption = f"Errors and failed measurements, {min(MOST, len(rows))} of {len(rows)} shown"
    return Grid(caption, ("case", "attempt", "what", "why"), [list(map(plain, row)) for row in rows[:MOST]])


def telling(runs: Sequence[Run], decision: Decision | None = None) -> list[str]:
    """The metrics by which cases are put in order: the demanded and the judges', or else every share."""
    shares = dict.fromkeys(metric for run in runs for metric in run.metrics() if unit_of(metric) == "share")
    demanded = decision.thresholds.metrics if decision and decision.thresholds else shares
    return [metric for metric in shares if metric in demanded or metric.startswith("judge:")]


def faults(result: CaseResult, metrics: Sequence[str]) -> dict[str, float]:
    """How far each share is from what it should be, where it is not that."""
    lows = {name for name, one in EVALUATORS.items() if not one.higher_is_better}
    shares = {metric: result.scores[metric] for metric in metrics if metric in result.scores}
    return {metric: far for metric, share in shares.items() if (far := share if metric in lows else 1 - share)}


def badness(result: CaseResult, metrics: Sequence[str]) -> float:
    """How far an attempt is on average from what it should be; 1 where it gave no answer."""
    measured = len(result.scores.keys() & set(metrics))
    return 1.0 if result.error else sum(faults(result, metrics).values()) / max(1, measured)


def worst(run: Run, metrics: Sequence[str]) -> list[CaseResult]:
    """Each case's worst attempt, if it has a fault, the worst first."""
    cases: dict[str, CaseResult] = {}
    for result in sorted(run.results, key=lambda result: -badness(result, metrics)):
        cases.setdefault(result.case.id, result)
    return [result for result in cases.values() if badness(result, metrics)]


def differing(runs: Sequence[Run]) -> list[list[CaseResult]]:
    """The cases that all runs have, first attempts, those first in which the runs differ most; none that are alike."""
    metrics = telling(runs)
    first = [{result.case.id: result for result in reversed(run.results)} for run in runs]
    rows = [[cases[case] for cases in first] for case in reversed(first[0]) if all(case in cases for cases in first)]
    spreads = [float(np.ptp([badness(result, metrics) for result in row])) for row in rows]
    return [rows[n] for n in sorted(range(len(rows)), key=lambda n: -spreads[n]) if spreads[n]]


def changes(decision: Decision) -> dict[str, str]:
    """What got worse, by case, the case with the most that got worse first."""
    found: dict[str, list[str]] = {}
    for one in decision.comparisons:
        for change in one.worse:
            found.setdefault(change.case_id, []).append(f"{one.metric} {change.before:.3g} to {change.after:.3g}")
    return {case: ", ".join(found[case]) for case in sorted(found, key=lambda case: -len(found[case]))}


def made_with(configurations: Mapping[str, Configuration]) -> Grid:
    """What the runs were made with; what is not the same everywhere is marked."""
    columns = [_facts(configuration) for configuration in configurations.values()]
    facts = dict.fromkeys(fact for column in columns for fact in column)
    rows = [[column.get(fact, "") for column in columns] for fact in facts]
    marked = [[fact, *(map(Bad, row) if len(set(row)) > 1 else row)] for fact, row in zip(facts, rows, strict=True)]
    return Grid("What differs is marked", ("", *configurations), marked)


def _facts(one: Configuration) -> dict[str, str]:
    own = {
        name.replace("_", " "): plain(str(value))
        for name, value in asdict(one).items()
        if name not in {"settings", "prompts"}
    }
    prompts = {f"prompt {name}": value for name, value in one.prompts.items()}
    return {
        name: value[:12] if HASH.fullmatch(value) else value
        for name, value in (own | dict(one.settings) | prompts).items()
    }
