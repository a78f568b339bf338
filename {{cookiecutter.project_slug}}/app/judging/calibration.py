"""Calibration: how far a judge and people agree on the same answers, and whether that is enough for it to gate.

Every interval holds the true value for 95 of 100 such sets of labels. Knows nothing of how a verdict comes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.errors import InvalidInput
from app.evals.dataset import Case, Split, read_lines
from app.evals.statistics import Interval, Values, interval
from app.judging.judges import JUDGES, Judge, Verdict
from app.types import Answer, Passage, Usage

CALIBRATION = Path("evals/calibration.json")
LEAST_KAPPA = 0.4
"""Above it Landis and Koch (1977) call agreement moderate; the whole interval has to lie there."""
LEAST_OF_EACH = 20
"""Answers that people passed, and as many that they failed: 20 right of 20 leave a rate of 0.84 possible."""
RESAMPLES = 5_000
LOW, HIGH = 0.025, 0.975

Table = NDArray[Any]
"""How often each pair of ratings came: a row for each of the person's, a column for each of the judge's, fail first.

Functions of a table take many at once too: their last two axes count.
"""


class Shown(BaseModel):
    """A passage, as the judge is shown it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1)
    source: str = ""
    heading: str = ""
    page: int | None = None


class Label(BaseModel):
    """What a person says of an answer; `grade` says how good it is, where that is finer than the label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    label: Literal["pass", "fail"]
    passages: tuple[Shown, ...] = ()
    reference: str = ""
    grade: int | None = Field(None, ge=0, le=10)
    split: Split = "gate"

    def as_case(self) -> tuple[Case, Answer]:
        """What a judge gets of a run."""
        given = {"question": self.question, "answerable": bool(self.reference), "reference": self.reference}
        case = Case(id="label", split=self.split, **given)
        read = tuple(
            Passage(0, p.source, "", p.heading, 0, 0, p.text, 0, page=p.page, use="read") for p in self.passages
        )
        return case, Answer("", self.question, self.answer, False, "", "", "", Usage(), None, 0, passages=read)  # noqa: FBT003  # a blank


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer with the person's label and the judge's verdict."""

    label: Label
    verdict: Verdict

    @property
    def pair(self) -> tuple[bool, bool]:
        """Whether the person passed it, and the judge."""
        return self.label.label == "pass", self.verdict.passed


class Calibration(BaseModel):
    """What was found of a judge, as it is committed; `confusion` is a Table, and `unjudged` are no part of `n`."""

    model: str
    prompt_hash: str
    labels: str
    labels_hash: str
    n: int
    unjudged: int
    confusion: tuple[tuple[int, int], tuple[int, int]]
    kappa: Interval
    date: date


CALIBRATIONS = TypeAdapter(dict[str, Calibration])


def load_labels(path: Path, one: Judge, split: Split) -> list[Label]:
    """A split's labels, one a line; no answer to a question may be there twice.

    Raises:
        InvalidInput: names each faulty line and what is wrong with it.

    """
    labels = read_lines(
        path, partial(_label, one), lambda label: [f"this answer to {label.question!r}: {label.answer!r}"]
    )
    return [label for label in labels if label.split == split]


def _label(one: Judge, line: str) -> Label:
    label = Label.model_validate_json(line)
    if missing := [name for name in ("passages", "reference") if name in one.needs and not getattr(label, name)]:
        raise ValueError(f"the judge {one.name} is shown the {missing[0]}, and there is none")
    return label


def agreement(rated: Sequence[Rated]) -> dict[str, Interval]:
    """Every measure by its name.

    Against grades, the judge's pass stands at the upper end of their scale and its fail at the lower: weighted kappa
    counts a disagreement the less, the nearer the grade is to what the judge said.

    Raises:
        InvalidInput: there is no answer that people passed, or none that they failed.

    """
    pairs = [one.pair for one in rated]
    if {person for person, _ in pairs} != {True, False}:
        raise InvalidInput("there have to be labels of both kinds, pass and fail, that the judge gave a verdict on")
    found = {
        "Cohen's kappa": kappa_interval(tabulate(pairs)),
        "true positive rate": _share(judge for person, judge in pairs if person),
        "true negative rate": _share(not judge for person, judge in pairs if not person),
        "raw agreement": _share(person == judge for person, judge in pairs),
    }
    graded = [(grade, one.verdict.passed) for one in rated if (grade := one.label.grade) is not None]
    low, high = min(graded, default=(0,))[0], max(graded, default=(0,))[0]
    if low < high:
        table = tabulate(((grade - low, passed * (high - low)) for grade, passed in graded), high - low + 1)
        found["linearly weighted kappa"] = kappa_interval(table, 1)
        found["quadratically weighted kappa"] = kappa_interval(table, 2)
    return found


def _share(flags: Iterable[bool]) -> Interval:
    return interval({str(number): [float(flag)] for number, flag in enumerate(flags)})


def disagreements(rated: Iterable[Rated]) -> list[Rated]:
    """Where judge and person differ, worst first: what the judge let through, and first what was graded lowest."""
    differ = [(one.label.grade or 0, one) for one in rated if len(set(one.pair)) > 1]
    let_through = sorted((pair for pair in differ if pair[1].verdict.passed), key=lambda pair: pair[0])
    held_back = sorted((pair for pair in differ if not pair[1].verdict.passed), key=lambda pair: -pair[0])
    return [one for _, one in let_through + held_back]


def tabulate(pairs: Iterable[tuple[int, int]], ratings: int = 2) -> Table:
    """Count pairs of ratings, which are numbers from 0 on."""
    table = np.zeros((ratings, ratings), dtype=int)
    for person, judge in pairs:
        table[int(person), int(judge)] += 1
    return table


def kappa(table: Table, power: int = 0) -> NDArray[np.float64]:
    """Agreement beyond chance: 1 is all, 0 what chance gives; NaN where everything got one and the same rating.

    Cohen (1960). With power 1 or 2, ratings that are k apart disagree k or k squared times as much (Cohen, 1968).
    """
    rating = np.arange(table.shape[-1], dtype=float)
    apart = np.abs(rating[:, None] - rating)
    weights = np.where(apart, apart**power, 0)
    rows, columns = table.sum(-1), table.sum(-2)
    by_chance = rows[..., :, None] * columns[..., None, :] / rows.sum(-1)[..., None, None]
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN
        return np.asarray(1 - (weights * table).sum((-2, -1)) / (weights * by_chance).sum((-2, -1)))


def kappa_interval(table: Table, power: int = 0) -> Interval:
    """Kappa with its percentile bootstrap interval (Efron and Tibshirani, 1993), the rated answers drawn anew."""
    low, high = np.nanquantile(kappa(_resampled(table), power), [LOW, HIGH])
    return Interval(float(kappa(table, power)), float(low), float(high))


def corrected(values: Values, confusion: Sequence[Sequence[int]]) -> Interval | None:
    """What share people would pass, from what the judge passed and how it errs (Rogan and Gladen, 1978).

    The cases and the labels are drawn anew. None where the judge may be no better than a coin: then it tells nothing.
    """
    table = np.array(confusion)
    passed = np.array([fmean(values[case_id]) for case_id in sorted(values)])
    drawn = np.random.default_rng(1).integers(0, len(passed), (RESAMPLES, len(passed)))
    estimates, informed = _rogan_gladen(passed[drawn].mean(1), _resampled(table))
    if not np.nanquantile(informed, LOW) > 0:
        return None
    low, high = np.quantile(estimates[informed > 0], [LOW, HIGH])
    return Interval(float(_rogan_gladen(passed.mean(), table)[0]), float(low), float(high))


def _rogan_gladen(rate: Any, table: Table) -> tuple[Table, Table]:  # noqa: ANN401  # one rate, or one for each table
    """The corrected rate, and how far the judge is from a coin: Youden's J, at most 1."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw may hold no pass, or no fail
        right = np.diagonal(table, axis1=-2, axis2=-1) / table.sum(-1)
        informed = right.sum(-1) - 1
        return np.clip((rate + right[..., 0] - 1) / informed, 0, 1), informed


def _resampled(table: Table) -> Table:
    """RESAMPLES tables as other sets of labels would give them: drawing answers anew is drawing cells."""
    drawn = np.random.default_rng(0).multinomial(int(table.sum()), (table / table.sum()).ravel(), RESAMPLES)
    return drawn.reshape(-1, *table.shape)


def advisory(metrics: Iterable[str], judge_model: str, path: Path = CALIBRATION) -> dict[str, str]:
    """Which metrics of judges may not gate, and why.

    Raises:
        InvalidInput: the file does not hold calibrations.

    """
    known = read_calibrations(path)
    names = {metric: metric.removeprefix("judge:") for metric in metrics if metric.startswith("judge:")}
    return {metric: why for metric, name in names.items() if (why := doubt(name, known, judge_model))}


def doubt(name: str, known: Mapping[str, Calibration], model: str) -> str:
    """Why this judge may not gate; empty where it may."""
    if name not in known or name not in JUDGES:
        return f"it was never calibrated: run `app calibrate LABELS --judge {name}`"
    found = known[name]
    if found.model != model:
        return f"it was calibrated with {found.model}, and is {model or 'none'} now: calibrate it anew"
    if found.prompt_hash != JUDGES[name].prompt_hash:
        return "it was calibrated with another prompt: calibrate it anew"
    fails, passes = map(sum, found.confusion)
    if min(fails, passes) < LEAST_OF_EACH:
        return f"it was calibrated on {passes} passes and {fails} fails: label at least {LEAST_OF_EACH} of each"
    if found.kappa.low <= LEAST_KAPPA:
        measured = f"kappa is {found.kappa.mean:.2f}, from {found.kappa.low:.2f} to {found.kappa.high:.2f}"
        return f"{measured}, and all of that has to be above {LEAST_KAPPA}: improve its prompt, or label more"
    return ""


def read_calibrations(path: Path) -> dict[str, Calibration]:
    """What was found so far, by judge; nothing where there is no file.

    Raises:
        InvalidInput: the file holds something else.

    """
    try:
        return CALIBRATIONS.validate_json(path.read_bytes()) if path.exists() else {}
    except ValidationError:
        raise InvalidInput(f"{path} does not hold what `app calibrate` writes") from None


def write_calibration(name: str, found: Calibration, path: Path) -> None:
    """Put it in the place of the judge's last one."""
    known = dict(sorted((read_calibrations(path) | {name: found}).items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CALIBRATIONS.dump_json(known, indent=2) + b"\n")
