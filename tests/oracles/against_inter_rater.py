"""Cohen's kappa against statsmodels: the same values, weighted or not, and intervals that tell the same story."""

import numpy as np
import pytest
from app.judging.calibration import kappa, kappa_interval
from statsmodels.stats.inter_rater import cohens_kappa

WEIGHTS = {0: None, 1: "linear", 2: "quadratic"}
TABLES = 300


@pytest.mark.parametrize("power", WEIGHTS)
@pytest.mark.parametrize("ratings", [2, 3, 5, 11])
def test_kappa_is_that_of_statsmodels(ratings: int, power: int) -> None:
    """To 1e-9, on sparse tables and on full ones, one by one and all at once."""
    rng = np.random.default_rng(ratings)
    tables = rng.poisson(rng.choice([0.5, 3, 40], (TABLES, 1, 1)), (TABLES, ratings, ratings))
    tables[:, 0, 1] += 1  # a table with one rating only has no kappa
    theirs = [cohens_kappa(table, wt=WEIGHTS[power], return_results=False) for table in tables]
    assert np.allclose(kappa(tables, power), theirs, rtol=0, atol=1e-9)
    assert np.allclose([float(kappa(table, power)) for table in tables], theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("power", WEIGHTS)
def test_intervals_are_near_those_of_statsmodels(power: int) -> None:
    """Theirs are asymptotic and ours bootstrapped: with 400 ratings both end within 0.02 of each other."""
    rng = np.random.default_rng(7)
    for table in rng.multinomial(400, np.array([30, 8, 2, 8, 20, 6, 2, 6, 18]) / 100, 20).reshape(-1, 3, 3):
        theirs = cohens_kappa(table, wt=WEIGHTS[power])
        ours = kappa_interval(table, power)
        assert (ours.low, ours.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.02)
