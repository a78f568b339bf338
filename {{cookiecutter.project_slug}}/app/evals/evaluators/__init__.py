"""Evaluators: what is measured of one answer, by name. Each is a small function in a module of this package.

A new one is one function below `@evaluator`; it is found by being there. It gives a number, or None where it does not
apply: unmeasured. One that raises, or gives what is no number, has failed. Knows nothing of how answers come.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

from app.evals.dataset import Case
from app.types import Answer

Texts = Mapping[str, str]
"""Source to stored text."""
Function = Callable[[Case, Answer, Texts], float | None]
Unit = Literal["share", "ms", "tokens", "usd"]


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A measure: whether more of it is better, whether it is only ever 0 or 1, and what it counts."""

    name: str
    function: Function
    higher_is_better: bool = True
    binary: bool = False
    unit: Unit = "share"


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured of one answer; an evaluator that is in neither did not apply."""

    scored: dict[str, float]
    failed: dict[str, str]


EVALUATORS: dict[str, Evaluator] = {}


def evaluator(
    name: str, *, higher_is_better: bool = True, binary: bool = False, unit: Unit = "share"
) -> Callable[[Function], Function]:
    """Enter the function below into EVALUATORS.

    Raises:
        ValueError: the name is taken.

    """

    def enter(function: Function) -> Function:
        if name in EVALUATORS:
            raise ValueError(f"two evaluators are named {name}")
        EVALUATORS[name] = Evaluator(name, function, higher_is_better, binary, unit)
        return function

    return enter


def evaluate(case: Case, answer: Answer, texts: Texts) -> Scores:
    """Every evaluator that applies."""
    scores = Scores({}, {})
    for name, one in EVALUATORS.items():
        try:
            value = one.function(case, answer, texts)
            if value is not None:
                scores.scored[name] = _checked(value, one)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one evaluator, the others count
            scores.failed[name] = f"{type(error).__name__}: {error}"
    return scores


def _checked(value: float, one: Evaluator) -> float:
    if not math.isfinite(value) or (one.binary and value not in {0, 1}):
        raise ValueError(f"{value} is no score")
    return float(value)


for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")
