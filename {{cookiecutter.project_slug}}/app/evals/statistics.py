"""How sure a mean is, and whether one run is really worse than another: small functions over numpy.

A case is the unit: its attempts are not independent of each other, so it counts once, with the mean of its attempts,
and it is cases that are drawn anew. That is the cluster bootstrap (Davison and Hinkley, 1997, section 3.8). Every draw
is seeded: the same values give the same figures. Knows nothing of runs, files or thresholds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, comb, inf, log2, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = Mapping[str, Sequence[float]]
"""The values of one metric by case id, one for each attempt that was scored; none is empty."""
Numbers = NDArray[np.float64]

RESAMPLES = 2_000
BLOCK = 100  # resamples at once: they stay in the processor's cache, and memory small
DIGITS = 9  # what differs by less is the same number, computed on another machine
POWER = 0.8
NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where the true one lies in 95 of 100 such datasets."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Change:
    """A case that got worse: the mean of its attempts before and after."""

    case_id: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of two runs, over the cases that both measured.

    `effect` is `after - before`; the true one lies between `low` and `high` in 95 of 100 such datasets. `p` is how
    likely so bad an effect is if the truth is no worse than the margin. `detectable`: see there. `worse` are the cases
    that got worse, the worst first.
    """

    metric: str
    cases: int
    before: float
    after: float
    effect: float
    low: float
    high: float
    p: float
    detectable: float
    worse: tuple[Change, ...]


def interval(values: Values) -> Interval:
    """The mean with its 95 % interval.

    Wilson's (1927) where every case is 0 or 1, in all of its attempts, else the bootstrap's percentiles (Efron and
    Tibshirani, 1993, chapter 13). A single case that is neither has no spread: its interval is a point.

    Raises:
        ValueError: there are no values.

    """
    if not values:
        raise ValueError("there are no values to take a mean of")
    means = _means(values, values)
    mean = float(means.mean())
    if np.isin(means, (0, 1)).all():
        return Interval(mean, *_wilson(mean, len(means)))
    low, high = np.quantile(_resampled(means), [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def compare(
    metric: str,
    after: Values,
    before: Values,
    *,
    margin: float = 0.0,
    higher_is_better: bool = True,
    binary: bool = False,
    alpha: float = 0.05,
) -> Comparison:
    """Pair the cases of two runs, and ask whether the metric got worse by more than the margin (not negative).

    The test is one-sided: McNemar's where the metric is `binary`, each case was tried once and the margin is 0, else
    the bootstrap's. `alpha` is for `detectable` alone. Without a common case nothing is shown: p is 1.
    """
    common = sorted(after.keys() & before.keys())
    if not common:
        return Comparison(metric, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, inf, ())
    was, now = _means(before, common), _means(after, common)
    better = 1 if higher_is_better else -1
    gains = np.round(now - was, DIGITS) * better + 0.0  # no negative zeros
    paired = binary and all(len(run[case]) == 1 for case in common for run in (after, before))
    low, high, p = _binary(gains) if paired and not margin else _graded(gains, margin)
    low, high = sorted((low * better + 0.0, high * better + 0.0))
    worse = sorted(
        (Change(case, float(was[n]), float(now[n])) for n, case in enumerate(common) if gains[n] < 0),
        key=lambda change: (change.after - change.before) * better,
    )
    effect, least = float(gains.mean()) * better + 0.0, detectable(gains, alpha)
    return Comparison(
        metric, len(common), float(was.mean()), float(now.mean()), effect, low, high, p, least, tuple(worse)
    )


def _binary(gains: Numbers) -> tuple[float, float, float]:
    """The interval of Agresti and Min (2005): Wald's after half a case is added to each cell; and McNemar's p."""
    worse, better, cases = int((gains < 0).sum()), int((gains > 0).sum()), len(gains) + 2
    gain = (better - worse) / cases
    half = Z * sqrt((worse + better + 1) / cases - gain**2) / sqrt(cases)
    return max(-1.0, gain - half), min(1.0, gain + half), mcnemar(worse, better)


def _graded(gains: Numbers, margin: float) -> tuple[float, float, float]:
    """The basic bootstrap's interval, and the p of the test that it belongs to (Davison and Hinkley, 1997, 5.2).

    The resampled means are moved to where the null hypothesis puts them. Percentiles of the means as they are would
    call three cases of hundreds a loss. No n signs alone say more than 0.5 to the power of n.
    """
    gain = float(gains.mean())
    moved = _resampled(gains) - gain
    low, high = gain - np.quantile(moved, [0.975, 0.025])
    as_bad = int((moved <= gain + margin + 10**-DIGITS).sum())
    return float(low), float(high), max((as_bad + 1) / (RESAMPLES + 1), 0.5 ** len(gains))


def mcnemar(worse: int, better: int) -> float:
    """One-sided p of the exact test (McNemar, 1947): so many of the changed cases, or more, got worse by chance."""
    changed, total = worse + better, 0
    ways = comb(changed, worse)
    for heads in range(worse, changed + 1):
        total += ways
        ways = ways * (changed - heads) // (heads + 1)
    return total / (1 << changed)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """The p of each hypothesis after the correction for asking several questions (Holm, 1979)."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in ps}


def detectable(gains: Sequence[float] | Numbers, alpha: float = 0.05) -> float:
    """The smallest loss that cases which differ like these would show in 80 of 100 runs (Connor, 1987).

    It is at least what so few changed cases make up that their signs alone cannot tell: five at an alpha of 0.05. Where
    nothing changed, a change counts as 1. More than 1 for a share: so few cases cannot show any loss.
    """
    sizes = np.abs(gains)
    fewest = ceil(log2(1 / alpha)) * float(sizes.max() or 1.0) / len(sizes)
    spread = float(np.std(gains)) / sqrt(len(sizes))
    return max(fewest, (NORMAL.inv_cdf(1 - alpha) + NORMAL.inv_cdf(POWER)) * spread)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k attempts is right, from c right ones of n; unbiased (Chen et al., 2021)."""
    return 1 - pass_hat_k(n, n - c, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """The chance that all of k attempts are right, from c right ones of n; unbiased (Yao et al., 2024).

    Raises:
        ValueError: k is not in 1 to n, or c not in 0 to n.

    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"of {n} attempts with {c} right ones, {k} cannot be drawn")
    return comb(c, k) / comb(n, k)


def _means(values: Values, cases: Iterable[str]) -> Numbers:
    return np.array([sum(values[case]) / len(values[case]) for case in cases])


def _resampled(values: Numbers) -> Numbers:
    """The means of RESAMPLES samples of as many values, drawn with replacement."""
    draw, count = np.random.default_rng(0).integers, len(values)
    blocks = (values[draw(0, count, (BLOCK, count), dtype=np.int32)] for _ in range(RESAMPLES // BLOCK))
    return np.concatenate([block.mean(axis=1) for block in blocks])


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The score interval, within 0 and 1 whatever the share."""
    middle, width = share + Z**2 / (2 * count), Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)
