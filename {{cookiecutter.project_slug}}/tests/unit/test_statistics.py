"""The statistics against values worked by hand, and laws that hold for any scores."""

import math
import subprocess
import sys
import time
from dataclasses import astuple
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.evals import statistics
from app.evals.statistics import (
    Change,
    Comparison,
    Interval,
    compare,
    detectable,
    holm,
    interval,
    mcnemar,
    pass_at_k,
    pass_hat_k,
)
from tests.conftest import PROJECT

SCORES = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
VALUES = st.dictionaries(st.text(max_size=3), st.lists(SCORES, min_size=1, max_size=3), min_size=1, max_size=12)
PS = st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8)


def once(*scores: float) -> dict[str, list[float]]:
    """Cases that were tried once."""
    return {f"{n:03}": [score] for n, score in enumerate(scores)}


def binary(worse: int, better: int, same: int) -> Comparison:
    """So many cases went from 1 to 0, from 0 to 1, and stayed."""
    after = once(*[0.0] * worse, *[1.0] * (better + same))
    before = once(*[1.0] * worse, *[0.0] * better, *[1.0] * same)
    return compare("answered", after, before, binary=True)


@pytest.mark.parametrize(
    ("right", "wrong", "low", "high"),
    [(7, 3, 0.3968, 0.8922), (0, 10, 0, 0.2775), (10, 0, 0.7225, 1), (1, 0, 0.2065, 1), (0, 1, 0, 0.7935)],
)
def test_a_share_has_wilsons_interval(right: int, wrong: int, low: float, high: float) -> None:
    """By hand; none and all leave room on one side, and a single case says little."""
    found = interval(once(*[1.0] * right, *[0.0] * wrong))
    assert astuple(found) == pytest.approx((right / (right + wrong), low, high), abs=1e-4)


def test_a_graded_mean_has_the_width_of_its_standard_error() -> None:
    """For many cases the percentiles are at 1.96 standard errors on either side."""
    values = np.random.default_rng(3).normal(5, 2, 400)
    found, half = interval(once(*values.tolist())), 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.02)


def test_attempts_at_a_case_are_no_cases() -> None:
    """Ten attempts at each of four cases that always come out the same say as much as one: the width stays."""
    single, repeated = once(0.0, 0.0, 1.0, 0.5), {f"{n}": [score] * 10 for n, score in enumerate((0.0, 0.0, 1.0, 0.5))}
    assert interval(repeated) == interval(single)
    unequal = interval({"often": [0.0] * 9, "once": [1.0]})
    assert unequal.mean == 0.5, "a case counts once, however often it was tried"
    assert interval({"a": [0.0, 1.0], "b": [1.0, 0.0]}) == Interval(0.5, 0.5, 0.5), "not Wilson's: it was tried twice"


@settings(max_examples=30)
@given(VALUES)
def test_an_interval_lies_around_the_mean_and_within_the_scores(values: dict[str, list[float]]) -> None:
    """Whatever the scores are; the same scores give the same interval."""
    found = interval(values)
    least, most = (of(sum(case) / len(case) for case in values.values()) for of in (min, max))
    assert found.low <= found.mean + 1e-6
    assert found.mean <= found.high + 1e-6
    if not set().union(*values.values()) <= {0, 1}:
        assert least - 1e-6 <= found.low
        assert found.high <= most + 1e-6
    assert interval(values) == found


def test_nothing_has_no_mean() -> None:
    """An unmeasured metric is not 0."""
    with pytest.raises(ValueError, match="no values"):
        interval({})


def test_cases_are_paired_by_their_id() -> None:
    """What only one run measured does not count, and the order in which the cases come does not matter."""
    before = {"a": [1.0], "b": [0.5], "old": [0.0]}
    after = {"new": [1.0], "b": [1.0], "a": [0.25]}
    found = compare("ndcg@10", after, before)
    assert (found.metric, found.cases, found.before, found.after) == ("ndcg@10", 2, 0.75, 0.625)
    assert found.effect == pytest.approx(-0.125)
    assert found.worse == (Change("a", 1.0, 0.25),)


def test_the_cases_that_got_worse_come_with_the_worst_first() -> None:
    """By the mean of their attempts, and in the metric's own direction."""
    before = {"a": [0.5, 0.5], "b": [1.0, 1.0], "c": [0.0, 0.0]}
    after = {"a": [0.5, 0.0], "b": [0.0, 0.0], "c": [1.0, 1.0]}
    assert compare("m", after, before).worse == (Change("b", 1.0, 0.0), Change("a", 0.5, 0.25))
    assert compare("m", after, before, higher_is_better=False).worse == (Change("c", 0.0, 1.0),)
    up = compare("m", before, after, higher_is_better=False)
    assert up.worse == (Change("b", 0.0, 1.0), Change("a", 0.25, 0.5))


def test_less_may_be_better() -> None:
    """The effect keeps its sign; p and the cases that got worse turn around."""
    slow, fast = once(*range(200, 260)), once(*range(100, 160))
    up, down = (compare("latency_ms", *pair, higher_is_better=False) for pair in ((slow, fast), (fast, slow)))
    assert (up.effect, down.effect) == (100, -100)
    assert up.p < 0.001
    assert down.p == 1
    assert (len(up.worse), len(down.worse)) == (60, 0)
    mixed = once(*np.random.default_rng(0).exponential(50, 60) + 150)
    found, mirrored = (compare("m", mixed, fast, higher_is_better=higher) for higher in (False, True))
    assert found.low < found.effect < found.high
    assert (found.low, found.high) == pytest.approx((mirrored.low, mirrored.high))
    assert found.p == pytest.approx(1 - mirrored.p, abs=0.01)


@pytest.mark.parametrize(
    ("worse", "better", "p"), [(0, 0, 1), (1, 0, 1 / 2), (5, 0, 1 / 32), (0, 5, 1), (3, 1, 5 / 16), (15, 5, 0.020695)]
)
def test_mcnemar_counts_what_chance_could_do(worse: int, better: int, p: float) -> None:
    """Each changed case is a coin; p is the chance of so many tails or more. What stayed the same says nothing."""
    assert mcnemar(worse, better) == pytest.approx(p, abs=1e-6)
    assert binary(worse, better, 30).p == mcnemar(worse, better)


def test_mcnemar_takes_thousands() -> None:
    """No number is too large on the way."""
    assert 0 < mcnemar(5_100, 4_900) < 0.05
    assert mcnemar(3_000, 0) == 0


def test_the_interval_of_a_binary_difference_is_honest_about_few_changes() -> None:
    """Agresti and Min by hand for 20 and 8 of 100; without any change there still is a width."""
    assert (binary(20, 8, 72).low, binary(20, 8, 72).high) == pytest.approx((-0.2186, -0.0167), abs=1e-4)
    unchanged = binary(0, 0, 100)
    assert (unchanged.effect, unchanged.p) == (0, 1)
    assert unchanged.high == -unchanged.low == pytest.approx(0.0192, abs=1e-4)
    assert (binary(3, 0, 0).low, binary(0, 3, 0).high) == (-1, 1), "no share can lose more than all"
    assert (binary(3, 0, 0).low, binary(0, 3, 0).high) == (-1, 1), "no share can lose more than all"


def test_which_test_is_made() -> None:
    """McNemar's only for a metric that is 0 or 1, on single attempts, without a margin."""
    after, before = once(*[0.0] * 5, *[1.0] * 20), once(*[1.0] * 25)
    twice = {case: scores * 2 for case, scores in after.items()}
    exact = mcnemar(5, 0)
    assert compare("m", after, before, binary=True).p == exact
    for others in (
        compare("m", after, before),
        compare("m", twice, before, binary=True),
        compare("m", before | after, {case: scores * 2 for case, scores in before.items()}, binary=True),
        compare("m", after, before, binary=True, margin=1e-12),
    ):
        assert others.p != exact
        assert others.p == pytest.approx(exact, abs=0.03)


def test_a_margin_is_a_loss_that_is_no_matter() -> None:
    """A loss of 10 with a standard error of 1: surely more than 5, perhaps more than 10, and surely less than 15."""
    drawn = np.random.default_rng(5).normal(0, 1, 400)
    after = once(*((drawn - drawn.mean()) / drawn.std() * 20 - 10).tolist())
    within, even, beyond = (compare("m", after, once(*[0.0] * 400), margin=margin).p for margin in (5, 10, 15))
    assert within < 0.001
    assert even == pytest.approx(0.5, abs=0.03)
    assert beyond > 0.999


def test_the_p_of_the_bootstrap_is_that_of_the_normal_law_for_many_cases() -> None:
    """For differences with a mean 1.645 standard errors below 0 it is 5 %."""
    drawn = np.random.default_rng(7).normal(0, 1, 1_000)
    drawn = (drawn - drawn.mean()) / drawn.std()
    after = once(*(drawn - 1.645 / math.sqrt(1_000)).tolist())
    found = compare("m", after, once(*[0.0] * 1_000))
    assert found.p == pytest.approx(0.05, abs=0.01)
    assert found.high == pytest.approx((1.96 - 1.645) / math.sqrt(1_000), abs=0.004)


def test_a_few_changes_among_many_cases_are_no_proof() -> None:
    """Three of 200 that got worse could be chance (1 in 8), though no percentile of the resampled means is above 0."""
    found = compare("m", once(*[0.0] * 3, *[1.0] * 197), once(*[1.0] * 200))
    assert 0.05 < found.p < 0.15
    assert found.low < 0 < found.high


@pytest.mark.parametrize(("cases", "p"), [(1, 0.5), (2, 0.25), (4, 0.0625)])
def test_a_handful_of_cases_proves_nothing(cases: int, p: float) -> None:
    """However sure it looks: each could have gone the other way."""
    assert compare("m", once(*[0.1] * cases), once(*[0.9] * cases)).p == p


@pytest.mark.parametrize("scores", [[0.3], [0.3] * 50, [0.1, 0.9, 0.5]])
def test_the_same_scores_show_nothing(scores: list[float]) -> None:
    """No loss, and no case that got worse; the last digits of another machine are no difference."""
    before, after = once(*scores), once(*(score + 1e-13 for score in scores))
    for higher in (True, False):
        found = compare("m", after, before, higher_is_better=higher)
        assert (found.effect, found.low, found.high, found.p, found.worse) == (0, 0, 0, 1, ())


def test_no_common_case_shows_nothing() -> None:
    """There is no difference to be seen, and none would have been."""
    found = compare("m", {"a": [0.0]}, {"b": [1.0]})
    assert (found.cases, found.p, found.detectable, found.worse) == (0, 1, math.inf, ())


@settings(max_examples=30)
@given(VALUES, st.booleans())
def test_a_comparison_is_finite_and_consistent(values: dict[str, list[float]], higher: bool) -> None:  # noqa: FBT001  # drawn
    """Whatever the scores are: p is a chance, the effect is the difference and lies between its bounds."""
    after = {case: [-score for score in reversed(scores)] for case, scores in values.items()}
    found = compare("m", after, values, higher_is_better=higher)
    numbers = (found.before, found.after, found.effect, found.low, found.high, found.p, found.detectable)
    assert all(map(math.isfinite, numbers))
    assert 0 < found.p <= 1
    assert found.effect == pytest.approx(found.after - found.before, abs=1e-6)
    assert found.low - 1e-6 <= found.effect <= found.high + 1e-6
    better = compare("m", values, after, higher_is_better=not higher)
    assert len(found.worse) == len(better.worse)


def test_holm_by_hand() -> None:
    """The smallest of three counts three times, the next twice; none gets smaller than the one before, or above 1."""
    assert holm({"c": 0.9, "a": 0.01, "b": 0.04}) == pytest.approx({"c": 0.9, "a": 0.03, "b": 0.08})
    assert holm({"a": 0.02, "b": 0.025, "c": 0.021}) == pytest.approx(dict.fromkeys("abc", 0.06))
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1, "b": 1}
    assert holm({}) == {}
    assert list(holm({"z": 0.5, "a": 0.1})) == ["z", "a"]


@given(PS)
def test_holm_lies_between_no_correction_and_bonferroni(ps: dict[str, float]) -> None:
    """And it keeps the order."""
    adjusted = holm(ps)
    assert all(ps[name] <= adjusted[name] <= min(1, len(ps) * ps[name]) for name in ps)
    assert sorted(adjusted.values()) == [adjusted[name] for name in sorted(ps, key=ps.__getitem__)]


def test_what_can_be_detected() -> None:
    """By hand: (1.645 + 0.842) standard errors, 200 cases of which 20 % change by 1; and twice that of a quarter."""
    gains = [1.0] * 20 + [-1.0] * 20 + [0.0] * 160
    assert detectable(gains) == pytest.approx(2.4865 * math.sqrt(0.2 / 200), abs=1e-4)
    assert detectable(gains[::4]) == pytest.approx(2 * detectable(gains), abs=1e-9)
    assert detectable(gains, alpha=0.05 / 3) == pytest.approx((2.128 + 0.8416) * math.sqrt(0.2 / 200), abs=1e-4)


def test_what_a_few_changes_can_show_has_a_limit() -> None:
    """Five coins are the fewest that can be below 5 %, and six below 2 %: so many cases have to change at least."""
    assert detectable([0.0] * 100) == 5 / 100
    assert detectable([0.0] * 100, alpha=0.02) == 6 / 100
    assert detectable([-1.0] + [0.0] * 99) == 5 / 100
    assert detectable([-30.0] + [0.0] * 99) == pytest.approx(5 * 30 / 100)
    assert detectable([0.0]) == 5, "more than a share can lose"
    for changed in (4, 5):
        assert (binary(changed, 0, 100 - changed).p <= 0.05) == (changed / 100 >= detectable([0.0] * 100))


def test_comparing_says_what_it_could_have_shown() -> None:
    """From the differences between the runs, and for the level that is asked for."""
    found = compare("m", once(0.0, 1.0, 1.0, 0.5), once(1.0, 0.0, 1.0, 0.5), alpha=0.01)
    assert found.detectable == detectable([-1.0, 1.0, 0.0, 0.0], alpha=0.01)


@pytest.mark.parametrize(("n", "c"), [(5, 0), (5, 2), (5, 5), (1, 1)])
def test_pass_at_k_and_pass_hat_k_count_the_draws(n: int, c: int) -> None:
    """Of all ways to draw k of n attempts: those with a right one, and those with none but right ones."""
    attempts = [1] * c + [0] * (n - c)
    for k in range(1, n + 1):
        draws = [[attempts[i] for i in range(n) if bits >> i & 1] for bits in range(2**n) if bits.bit_count() == k]
        assert len(draws) == comb(n, k)
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
        assert pass_hat_k(n, c, k) == pytest.approx(sum(map(all, draws)) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_more_than_there_is_cannot_be_drawn(n: int, c: int, k: int) -> None:
    """No estimate is made up."""
    for of in (pass_at_k, pass_hat_k):
        with pytest.raises(ValueError, match="cannot be drawn"):
            of(n, c, k)


def test_nothing_heavy_is_imported_on_the_way_to_the_gate() -> None:
    """Numpy and pydantic, and neither the statistics libraries nor what runs an evaluation."""
    script = "import sys, app.evals.gate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert {"numpy", "pydantic"} <= loaded
    assert not loaded & {
        "scipy",
        "pandas",
        "statsmodels",
        "pydantic_evals",
        "litellm",
        "sqlalchemy",
        "fastapi",
        "httpx",
    }


def test_a_comparison_of_thousands_of_cases_is_quick() -> None:
    """5,000 cases in 2 seconds, with a wide margin: the samples are drawn in blocks."""
    random = np.random.default_rng(0)
    before, after = (once(*random.random(5_000).tolist()) for _ in range(2))
    began = time.process_time()
    compare("m", after, before)
    assert time.process_time() - began < 2
    assert statistics.RESAMPLES % statistics.BLOCK == 0
