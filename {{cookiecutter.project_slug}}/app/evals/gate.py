"""The gate: thresholds and a baseline to a verdict and an exit code: 0 pass, 1 worse, 2 cannot judge.

A metric is held to its floor by its mean and, where it has a margin, to the baseline by a test over the cases. Knows
nothing of how scores are made or how a decision is shown.
"""

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

from app.errors import InvalidInput
from app.evals.evaluators import EVALUATORS
from app.evals.runs import Configuration, Run
from app.evals.statistics import Comparison, Values, compare, holm

REFRESH = "`app eval --save-baseline` writes a new one, to be reviewed"


class Verdict(IntEnum):
    """The gate's decision; the value is the exit code."""

    PASS = 0
    WORSE = 1
    CANNOT_JUDGE = 2


class Demand(BaseModel):
    """What is asked of a metric: the least or the most that its mean may be, and the loss that is no matter.

    A metric without a margin is not tested against the baseline.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    margin: Annotated[FiniteFloat, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.at_least is self.at_most is self.margin is None:
            raise ValueError("give at_least, at_most or margin")
        return self


class Thresholds(BaseModel):
    """`evals/thresholds.toml`: what is asked of each metric, and what a run needs to be judged at all.

    `alpha`: in how many of 1 comparisons without a true loss all the tests together may find one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_cases: int = Field(ge=1)
    max_error_rate: float = Field(ge=0, le=1)
    alpha: float = Field(0.05, gt=0, lt=1)
    metrics: dict[str, Demand] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a run is compared with: a configuration, and the scores it had by case and metric."""

    configuration: Configuration
    cases: Mapping[str, Mapping[str, Annotated[list[FiniteFloat], Field(min_length=1)]]]

    def values(self, metric: str) -> Values:
        """The metric by case; cases on which it was not measured are missing."""
        return {case: scores[metric] for case, scores in self.cases.items() if metric in scores}


BASELINE = TypeAdapter(Baseline)


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the reasons for it in sentences, and what it was made from.

    `comparisons` are of all demanded metrics that run and baseline share; `adjusted` is p after Holm's correction of
    those that are tested. `advisory` says of a metric why it decides nothing.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    adjusted: Mapping[str, float] = field(default_factory=dict)
    thresholds: Thresholds | None = None
    advisory: Mapping[str, str] = field(default_factory=dict)


def load_thresholds(path: Path) -> Thresholds:
    """Read the thresholds.

    Raises:
        InvalidInput: the file is missing or malformed, or asks of a metric what makes no sense for it.

    """
    try:
        thresholds = Thresholds.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # not UTF-8, not TOML, or not what the model wants
        raise InvalidInput(f"{path} holds no valid thresholds: {_first(error)}") from None
    for metric, demand in thresholds.metrics.items():
        if wrong := _misfit(metric, demand):
            raise InvalidInput(f"{path}: metrics.{metric}: {wrong}")
    return thresholds


def write_baseline(run: Run, thresholds: Thresholds, path: Path) -> None:
    """Write what later runs are compared with: in order and one case a line, so that a change of it can be reviewed.

    Raises:
        InvalidInput: the run could not be judged itself.

    """
    metrics = sorted(thresholds.metrics.keys() & set(run.metrics()))
    if doubts := list(_doubts(run, thresholds, metrics)):
        raise InvalidInput(f"this run can be no baseline. {' '.join(doubts)}")
    measured = {metric: run.values(metric) for metric in metrics}
    cases = {
        id_: {name: values[id_] for name, values in measured.items() if id_ in values} for id_ in sorted(_ids(run))
    }
    record = BASELINE.dump_python(Baseline(run.configuration, cases), mode="json")
    head = json.dumps(record["configuration"], indent=1, sort_keys=True, ensure_ascii=False)
    lines = ",\n".join(
        f"{json.dumps(id_, ensure_ascii=False)}: {json.dumps(of)}" for id_, of in record["cases"].items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = '{"configuration": ' + head + ',\n"cases": {\n' + lines + "\n} }\n"
    path.write_text(text, encoding="utf-8")


def read_baseline(path: Path) -> Baseline:
    """Read what `write_baseline` wrote.

    Raises:
        InvalidInput: it cannot be read, or is no baseline.

    """
    try:
        return BASELINE.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidInput(f"{path} holds no baseline: {_first(error)}; {REFRESH}") from None


def decide(
    run: Run,
    thresholds: Thresholds,
    baseline: Baseline | None = None,
    advisory: Mapping[str, str] = MappingProxyType({}),
) -> Decision:
    """Judge a run. What cannot be judged is never a pass; `advisory` are metrics that decide nothing, and why."""
    gated = {metric: demand for metric, demand in thresholds.metrics.items() if metric not in advisory}
    tested = {metric: demand.margin for metric, demand in gated.items() if demand.margin is not None}
    if doubts := (*_doubts(run, thresholds, gated), *_mismatches(run, baseline, tested)):
        return Decision(Verdict.CANNOT_JUDGE, doubts, thresholds=thresholds, advisory=advisory)
    each = thresholds.alpha / max(1, len(tested))
    comparisons = tuple(_comparisons(run, baseline, thresholds, each)) if baseline else ()
    adjusted = holm({one.metric: one.p for one in comparisons if one.metric in tested})
    lost = [one for one in comparisons if adjusted.get(one.metric, 1) <= thresholds.alpha]
    losses = (*_beyond(run, gated), *(_loss(one, tested[one.metric], adjusted[one.metric]) for one in lost))
    # Who always abstains cites nothing: what is lost is still the news.
    unmeasured = tuple(_unmeasured(run, gated, baseline))
    verdict = Verdict.WORSE if losses else Verdict.CANNOT_JUDGE if unmeasured else Verdict.PASS
    return Decision(verdict, (*losses, *unmeasured), comparisons, adjusted, thresholds, advisory)


def _doubts(run: Run, thresholds: Thresholds, gated: Collection[str]) -> Iterator[str]:
    """Why nothing can be said of the run."""
    if (cases := len(_ids(run))) < thresholds.min_cases:
        yield f"The run has {cases} cases and min_cases is {thresholds.min_cases}: add cases, or run a larger split."
    if not gated:
        yield "No metric may decide: demand one that is no judge, or calibrate the judge."
    errors = [f"case {one.case.id}: {one.error}" for one in run.errors]
    yield from _too_many("gave no answer", errors, len(run.results), thresholds)
    for metric in sorted(gated):
        failed = [f"case {one.case.id}: {one.failed[metric]}" for one in run.failures if metric in one.failed]
        tried = len(failed) + sum(metric in one.scores for one in run.results)
        yield from _too_many(f"could not be scored by {metric}", failed, tried, thresholds)


def _too_many(what: str, such: Sequence[str], tried: int, thresholds: Thresholds) -> Iterator[str]:
    if such and len(such) / tried > thresholds.max_error_rate:
        share = f"{len(such)} of {tried} attempts {what}"
        yield f"{share}, more than max_error_rate ({thresholds.max_error_rate:g}) allows. The first is {such[0]}."


def _unmeasured(run: Run, gated: Collection[str], baseline: Baseline | None) -> Iterator[str]:
    """What was hardly measured: a metric that most cases have lost says nothing of those."""
    for metric in sorted(gated):
        now, then = run.values(metric).keys(), baseline.values(metric).keys() if baseline else set()
        if not now:
            yield f"{metric} was measured on no case: add cases that it applies to, or demand it no more."
        elif 2 * len(now & then) < len(then):
            yield f"{metric} was measured on {len(now & then)} of the {len(then)} cases that the baseline measured."


def _mismatches(run: Run, baseline: Baseline | None, tested: Collection[str]) -> Iterator[str]:
    """Why the run cannot be compared with the baseline."""
    if baseline is None:
        if tested:
            yield f"There is no baseline to compare {', '.join(tested)} with: {REFRESH}."
    elif run.configuration.dataset != baseline.configuration.dataset:
        yield f"The baseline is of the dataset {baseline.configuration.dataset}: give --baseline this one's own FILE."
    elif run.configuration.split != baseline.configuration.split:
        yield f"The baseline is of the split {baseline.configuration.split}: run that, or {REFRESH}."
    elif run.configuration.dataset_hash != baseline.configuration.dataset_hash:
        yield f"The dataset {run.configuration.dataset} is not as it was for the baseline: {REFRESH}."
    elif others := _ids(run) ^ baseline.cases.keys():
        yield f"{len(others)} cases, such as {min(others)}, are not both in the run and in the baseline: {REFRESH}."
    else:
        for metric in tested:
            if (now := run.values(metric).keys()) and not now & baseline.values(metric).keys():
                yield f"The baseline measured {metric} on none of the cases that the run did: {REFRESH}."


def _comparisons(run: Run, baseline: Baseline, thresholds: Thresholds, alpha: float) -> Iterator[Comparison]:
    for metric, demand in thresholds.metrics.items():
        now, then, one = run.values(metric), baseline.values(metric), EVALUATORS.get(metric)
        higher, binary = (one.higher_is_better, one.binary) if one else (True, True)  # a judge lets pass, or not
        if now.keys() & then.keys():
            margin = demand.margin or 0.0
            yield compare(metric, now, then, margin=margin, higher_is_better=higher, binary=binary, alpha=alpha)


def _beyond(run: Run, gated: Mapping[str, Demand]) -> Iterator[str]:
    means = run.means()
    for metric, demand in gated.items():
        for bound, side, sign in ((demand.at_least, "below", 1), (demand.at_most, "above", -1)):
            if bound is not None and sign * ((value := means.get(metric, bound)) - bound) < 0:
                advice = "Read its worst cases; move the threshold only if that is meant."
                yield f"{metric} is {value:.4g}, {side} {bound:.4g}. {advice}"


def _loss(one: Comparison, margin: float, p: float) -> str:
    return (
        f"{one.metric} went from {one.before:.4g} to {one.after:.4g} over {one.cases} cases, by {one.effect:+.4g} "
        f"({one.low:+.4g} to {one.high:+.4g}; p {p:.2g} after Holm), and the margin is {margin:g}. "
        f"Look at the {len(one.worse)} cases that got worse; if that is meant, {REFRESH}."
    )


def _misfit(metric: str, demand: Demand) -> str:
    """What is wrong with asking this of this metric; empty where nothing is."""
    one = EVALUATORS.get(metric)
    if one is None and metric not in _judges(metric):
        return f"there is no such metric; there are {', '.join(EVALUATORS)} and judge:NAME"
    higher, share = (one.higher_is_better, one.unit == "share") if one else (True, True)
    if (demand.at_most if higher else demand.at_least) is not None:
        return "more of it is better: give at_least" if higher else "less of it is better: give at_most"
    if share and not all(0 <= number <= 1 for number in demand.model_dump(exclude_none=True).values()):
        return "it is a share: give numbers between 0 and 1"
    return ""


def _judges(metric: str) -> list[str]:
    if not metric.startswith("judge:"):
        return []
    from app.judging.judges import JUDGES  # noqa: PLC0415  # brings the gateway, which a gate without judges does without

    return [f"judge:{name}" for name in JUDGES]


def _ids(run: Run) -> set[str]:
    return {one.case.id for one in run.results}


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
