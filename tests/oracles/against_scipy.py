"""`app/evals/statistics.py` against scipy and statsmodels, on values drawn at random."""

from collections.abc import Sequence

import numpy as np
import pytest
from app.evals.statistics import compare, detectable, holm, interval, mcnemar
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as two_sided_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

RANDOM = np.random.default_rng(1)
SIZES = [20, 60, 200, 500]


def once(scores: Sequence[float] | NDArray[np.float64]) -> dict[str, list[float]]:
    """Cases that were tried once."""
    return {f"{n:04}": [float(score)] for n, score in enumerate(scores)}


@pytest.mark.parametrize("cases", [1, 2, 7, 20, 133, 1_000])
def test_wilson_interval(cases: int) -> None:
    """Of every share there is, to 1e-12."""
    for right in {*range(0, cases + 1, max(1, cases // 25)), cases}:
        found = interval(once([1.0] * right + [0.0] * (cases - right)))
        assert (found.low, found.high) == pytest.approx(
            proportion_confint(right, cases, alpha=0.05, method="wilson"), abs=1e-12
        )


def test_mcnemar() -> None:
    """One-sided, as the binomial test has it, and the half of statsmodels' two-sided p where more got worse."""
    for worse in range(0, 60, 3):
        for better in range(0, 60, 7):
            if changed := worse + better:
                assert mcnemar(worse, better) == pytest.approx(
                    stats.binomtest(worse, changed, alternative="greater").pvalue, rel=1e-9
                )
            if worse > better:
                both = two_sided_mcnemar([[5, worse], [better, 9]], exact=True).pvalue
                assert mcnemar(worse, better) == pytest.approx(both / 2, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_holm(count: int) -> None:
    """To 1e-12, with ties."""
    for ps in (RANDOM.random(count), RANDOM.random(count) ** 4, RANDOM.integers(0, 4, count) / 40):
        expected = multipletests(ps, method="holm")[1]
        assert list(holm({f"{n}": p for n, p in enumerate(ps.tolist())}).values()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cases", SIZES)
def test_percentile_interval(cases: int) -> None:
    """Scipy's bootstrap of the mean, within what the draws let differ: a twelfth of its width."""
    for scores in (RANDOM.beta(5, 1, cases), RANDOM.exponential(1_000, cases), RANDOM.integers(0, 4, cases) / 3):
        theirs = stats.bootstrap(
            (scores,), np.mean, method="percentile", n_resamples=20_000, rng=RANDOM, vectorized=True
        ).confidence_interval
        ours = interval(once(scores))
        assert ours.mean == pytest.approx(scores.mean(), abs=1e-12)
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=(theirs.high - theirs.low) / 12)


@pytest.mark.parametrize("cases", SIZES)
def test_paired_interval(cases: int) -> None:
    """Scipy's basic bootstrap of the mean difference, and at most a sixth of its width off Student's interval."""
    before, change = RANDOM.beta(5, 1, cases), RANDOM.normal(-0.02, 0.1, cases)
    ours = compare("ndcg@10", once(before + change), once(before))
    theirs = stats.bootstrap((change,), np.mean, method="basic", n_resamples=20_000, rng=RANDOM).confidence_interval
    student = stats.ttest_rel(before + change, before).confidence_interval()
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=width / 12)
    assert (ours.low, ours.high) == pytest.approx(tuple(student), abs=width / 6)


@pytest.mark.parametrize("cases", SIZES)
@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_p_of_a_paired_difference(cases: int, margin: float) -> None:
    """Within 0.03 of Student's test and of the test that turns signs around at random."""
    for loss in (-0.03, 0.0, 0.02, 0.04):
        before = RANDOM.beta(5, 1, cases)
        change = RANDOM.normal(0, 0.15, cases) - loss
        ours = compare("ndcg@10", once(before + change), once(before), margin=margin).p
        student = stats.ttest_1samp(change + margin, 0, alternative="less").pvalue
        turned = stats.permutation_test(
            (change + margin,), np.mean, permutation_type="samples", alternative="less", n_resamples=20_000, rng=RANDOM
        ).pvalue
        assert ours == pytest.approx(student, abs=0.03)
        assert ours == pytest.approx(turned, abs=0.03)


@pytest.mark.parametrize("cases", [200, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_what_can_be_detected(cases: int, alpha: float) -> None:
    """The loss for which statsmodels gives a one-sided test of one sample a power of 80 %."""
    gains = RANDOM.normal(0, 0.2, cases)
    effect = detectable(gains, alpha) / gains.std()
    power = NormalIndPower(ddof=0).power(effect, cases, alpha, ratio=0, alternative="larger")
    assert power == pytest.approx(0.8, abs=1e-6)
