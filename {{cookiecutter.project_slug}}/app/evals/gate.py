"""Thresholds to a verdict and an exit code: 0 pass, 1 worse than allowed, 2 cannot judge.

Knows nothing of how the scores were made.
"""

import tomllib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidInput
from app.evals.evaluators import METRICS
from app.evals.runner import Run


class Verdict(IntEnum):
    """The gate's decision; the value is the exit code."""

    PASS = 0
    WORSE = 1
    CANNOT_JUDGE = 2


class Thresholds(BaseModel):
    """`evals/thresholds.toml`: the least mean per metric, and what a run needs to be judged at all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_cases: int = Field(ge=1)
    max_error_rate: float = Field(ge=0, le=1)
    metrics: dict[str, Annotated[float, Field(ge=0, le=1)]]


@dataclass(frozen=True)
class Decision:
    """A verdict and the reasons for it, one line each."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def load_thresholds(path: Path) -> Thresholds:
    """Read the thresholds.

    Raises:
        InvalidInput: the file is missing, malformed or names a metric that does not exist.

    """
    try:
        thresholds = Thresholds.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # not UTF-8, not TOML, or not what the model wants
        raise InvalidInput(f"{path} holds no valid thresholds: {error}") from None
    if unknown := thresholds.metrics.keys() - METRICS.keys():
        raise InvalidInput(f"{path} names unknown metrics: {', '.join(sorted(unknown))}")
    return thresholds


def decide(run: Run, thresholds: Thresholds) -> Decision:
    """Judge a run. What cannot be judged is never a pass."""
    if doubts := tuple(_doubts(run, thresholds)):
        return Decision(Verdict.CANNOT_JUDGE, doubts)
    means = run.means()
    worse = tuple(
        f"{metric} is {means[metric]:.3f}, below {least:.3f}"
        for metric, least in thresholds.metrics.items()
        if means[metric] < least
    )
    return Decision(Verdict.WORSE, worse) if worse else Decision(Verdict.PASS)


def _doubts(run: Run, thresholds: Thresholds) -> list[str]:
    cases, errors = len(run.results), len(run.errors)
    doubts = []
    if cases < thresholds.min_cases:
        doubts.append(f"{cases} cases; {thresholds.min_cases} are needed")
    if cases and errors / cases > thresholds.max_error_rate:
        first = run.errors[0]
        doubts.append(f"{errors} of {cases} cases ended in an error, the first ({first.case.id}) in: {first.error}")
    unmeasured = thresholds.metrics.keys() - run.means().keys()
    doubts += [f"{metric} was measured on no case" for metric in sorted(unmeasured)]
    return doubts
