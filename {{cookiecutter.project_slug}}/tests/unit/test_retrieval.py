"""Fusing two lists of scores: what may change the order and what may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rag.retrieval import fuse

SCORES = st.dictionaries(st.integers(min_value=1, max_value=20), st.integers(min_value=-50, max_value=50), max_size=12)
WEIGHTS = st.sampled_from([0.0, 0.25, 0.4, 0.5, 1.0])


@given(keyword=SCORES, dense=SCORES, weight=WEIGHTS)
def test_every_found_chunk_has_a_score_between_0_and_1(
    keyword: dict[int, float], dense: dict[int, float], weight: float
) -> None:
    """What either side found is kept, and nothing else comes in."""
    fused = fuse(keyword, dense, weight)
    assert fused.keys() == keyword.keys() | dense.keys()
    assert all(0 <= score <= 1 for score in fused.values())


@given(keyword=SCORES, dense=SCORES)
def test_with_the_whole_weight_one_side_decides(keyword: dict[int, float], dense: dict[int, float]) -> None:
    """A weight of 0 keeps the order of the keyword side, a weight of 1 that of the dense side."""
    for side, weight in ((keyword, 0.0), (dense, 1.0)):
        fused = fuse(keyword, dense, weight)
        for a in side:
            for b in side:
                assert (side[a] < side[b]) == (fused[a] < fused[b])


@given(keyword=SCORES, dense=SCORES, weight=WEIGHTS, factor=st.integers(1, 9), shift=st.integers(-99, 99))
def test_the_scale_of_a_side_does_not_matter(
    keyword: dict[int, float], dense: dict[int, float], weight: float, factor: int, shift: int
) -> None:
    """BM25 has no upper bound and cosines have one: only where a score lies within its list counts."""
    moved = {chunk: factor * score + shift for chunk, score in keyword.items()}
    assert fuse(moved, dense, weight) == pytest.approx(fuse(keyword, dense, weight))


@given(keyword=SCORES, dense=SCORES, weight=WEIGHTS)
def test_sides_are_interchangeable(keyword: dict[int, float], dense: dict[int, float], weight: float) -> None:
    """The weight belongs to a side and not to a position."""
    assert fuse(keyword, dense, weight) == pytest.approx(fuse(dense, keyword, 1 - weight))


def test_scores_are_the_weighted_sum_of_normalised_ones() -> None:
    """Computed by hand: 7 lies half-way between 4 and 10, and 3 found only by words keeps its share."""
    fused = fuse({1: 10.0, 2: 7.0, 3: 4.0}, {1: 0.2, 2: 0.6}, 0.4)
    assert fused == pytest.approx({1: 0.6, 2: 0.6 * 0.5 + 0.4, 3: 0.0})


def test_a_single_hit_is_the_best_of_its_side() -> None:
    """Without a spread there is nothing to normalise by; equal scores are all best."""
    assert fuse({1: 0.3}, {}, 0.4) == {1: 0.6}
    assert fuse({}, {1: 0.3, 2: 0.3}, 0.4) == {1: 0.4, 2: 0.4}
    assert fuse({}, {}, 0.4) == {}
