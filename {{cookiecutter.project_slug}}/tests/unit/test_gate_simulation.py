"""What the gate is worth with a model that is never the same twice: its false alarms, and the losses that it finds.

Every comparison goes through `decide`, with the alpha and the tested metrics of `evals/thresholds.toml`. The floors
are left out: what is found here, the tests find. The fake model has chances of its own for each case, and its metrics
have nothing to do with each other, which is hardest for Holm's correction. Samples are drawn 300 times
instead of 2,000, for speed: p gets coarser, and not smaller. Over twelve seeds 3.6 % of the comparisons were false
alarms, 4.6 % at most, and of the drops in one metric 87 % were caught, 84 % at least.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from math import comb
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.evals import statistics
from app.evals.dataset import Case
from app.evals.evaluators import EVALUATORS
from app.evals.gate import Baseline, Demand, Thresholds, Verdict, decide, load_thresholds
from app.evals.runs import CaseResult, Configuration, Run
from tests.conftest import PROJECT

CASES = [Case(id=f"{n:03}", split="gate", question="?", answerable=False) for n in range(200)]
MADE_WITH = Configuration("", "fake", "hash", "gate", "", "fake/noisy", "", "", {}, {}, "")
GRADES = np.array([0, 0.3, 0.5, 0.63, 1])  # of a document at a worse and worse rank, the best last

Scores = NDArray[np.float64]
"""Cases by attempts."""
Pair = tuple[Scores, Scores]
"""Before and after."""
Draw = Callable[[np.random.Generator], Pair]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 300)


@pytest.fixture(scope="module")
def shipped() -> Thresholds:
    """The tests of the shipped gate, without its floors."""
    shipped = load_thresholds(PROJECT / Path("evals/thresholds.toml"))
    tested = {metric: Demand(margin=one.margin) for metric, one in shipped.metrics.items() if one.margin is not None}
    assert {EVALUATORS[metric].binary for metric in tested} == {True, False}
    return Thresholds(min_cases=100, max_error_rate=0, alpha=shipped.alpha, metrics=tested)


def noise(metric: str, attempts: int = 1) -> Draw:
    """The same model twice: about a fifth of the cases come out another way."""

    def draw(random: np.random.Generator) -> Pair:
        chances = random.beta(4, 1, (len(CASES), 1))
        size = (len(CASES), attempts)
        if EVALUATORS[metric].binary:
            before, after = ((random.random(size) < chances).astype(float) for _ in range(2))
        else:
            before, after = (GRADES[random.binomial(len(GRADES) - 1, chances, size)] for _ in range(2))
        return before, after

    return draw


def drop(random: np.random.Generator) -> Pair:
    """Ten points are lost: 15 of 100 cases get worse and 5 better."""
    change = random.choice([-1.0, 1.0, 0.0], (len(CASES), 1), p=[0.15, 0.05, 0.80])
    same = (random.random(change.shape) < 0.8).astype(float)
    return np.where(change, change < 0, same), np.where(change, change > 0, same)


def compared(count: int, thresholds: Thresholds, draws: dict[str, Draw], seed: int = 2) -> Iterator[set[str]]:
    """The metrics that the gate calls worse, one set for each comparison."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        pairs = {metric: draw(random) for metric, draw in draws.items()}
        run, baseline = _run(pairs), _baseline(pairs)
        decision = decide(run, thresholds, baseline)
        lost = {metric for metric, p in decision.adjusted.items() if p <= thresholds.alpha}
        assert decision.verdict == (Verdict.WORSE if lost else Verdict.PASS)
        yield lost


def _run(pairs: dict[str, Pair]) -> Run:
    after = {metric: pair[1].tolist() for metric, pair in pairs.items()}
    attempts = range(len(next(iter(after.values()))[0]))
    results = (
        CaseResult(case, attempt, scores={metric: scores[n][attempt] for metric, scores in after.items()})
        for n, case in enumerate(CASES)
        for attempt in attempts
    )
    return Run("", "", MADE_WITH, tuple(results))


def _baseline(pairs: dict[str, Pair]) -> Baseline:
    before = {metric: pair[0].tolist() for metric, pair in pairs.items()}
    return Baseline(
        MADE_WITH, {case.id: {metric: scores[n] for metric, scores in before.items()} for n, case in enumerate(CASES)}
    )


def _shows(changed: int, alpha: float, worse: int) -> bool:
    return statistics.mcnemar(worse, changed - worse) <= alpha


@pytest.mark.parametrize("seed", [0, 17, 99])
def test_chance_alone_seldom_turns_the_gate_red(shipped: Thresholds, seed: int) -> None:
    """The same model twice, 500 times: at most 5 % of the comparisons raise a false alarm."""
    alarms = list(compared(500, shipped, {metric: noise(metric) for metric in shipped.metrics}, seed))
    assert sum(map(bool, alarms)) <= 25


@pytest.mark.parametrize(("metric", "attempts"), [("answered", 2), ("ndcg@10", 1)])
def test_each_test_keeps_its_level(shipped: Thresholds, metric: str, attempts: int) -> None:
    """A bootstrapped metric alone, without the slack of several: 5 % of 150, give or take three standard errors."""
    alone = shipped.model_copy(update={"metrics": {metric: Demand(margin=0)}})
    alarms = list(compared(150, alone, {metric: noise(metric, attempts)}))
    assert 1 <= sum(map(bool, alarms)) <= 15


def test_a_drop_of_ten_points_in_one_metric_is_caught(shipped: Thresholds) -> None:
    """200 paired cases of which a fifth differ, the other metrics being noise: at least 80 % are caught, by name."""
    draws = {metric: noise(metric) for metric in shipped.metrics} | {"answered": drop}
    found = list(compared(300, shipped, draws))
    assert sum("answered" in lost for lost in found) >= 240


@pytest.mark.parametrize(("tested", "power"), [(1, 0.912), (2, 0.855), (7, 0.718)])
def test_the_power_for_such_a_drop_is_no_luck_of_the_seed(tested: int, power: float) -> None:
    """It is the sum over all ways in which 200 cases can come out, and falls with each metric more that is tested."""
    total = 0.0
    for changed in range(201):
        shown = takewhile(partial(_shows, changed, 0.04 / tested), range(changed, -1, -1))
        this_many = comb(200, changed) * 0.2**changed * 0.8 ** (200 - changed)
        total += this_many * sum(comb(changed, k) * 0.75**k * 0.25 ** (changed - k) for k in shown)
    assert total == pytest.approx(power, abs=0.001)
