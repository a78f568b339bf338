"""Fusing two lists of scores, and near-duplicates: what may change the order and what may not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.search import Span
from app.rag.duplicates import are_alike, runs
from app.rag.fusion import best_first, complete, normalise, reciprocal_ranks, weighted
from app.rag.neighbours import _merge
from app.rag.retrieval import Candidate, Score, without_duplicates
from app.types import Passage

SCORES = st.dictionaries(st.integers(min_value=1, max_value=20), st.integers(min_value=-50, max_value=50), max_size=12)
WORDS = st.dictionaries(st.integers(min_value=1, max_value=20), st.integers(min_value=1, max_value=50), max_size=12)
WEIGHTS = st.sampled_from([0.0, 0.25, 0.4, 0.5, 1.0])


@given(keyword=WORDS, dense=SCORES, weight=WEIGHTS)
def test_every_candidate_has_a_score_between_0_and_1(
    keyword: dict[int, float], dense: dict[int, float], weight: float
) -> None:
    """What either side proposed is kept, and nothing else comes in."""
    fused = weighted(keyword, dense, weight)
    assert fused.keys() == keyword.keys() | dense.keys()
    assert all(0 <= score <= 1 for score in fused.values())


@given(keyword=WORDS, dense=SCORES)
def test_with_the_whole_weight_one_side_decides(keyword: dict[int, float], dense: dict[int, float]) -> None:
    """A weight of 0 keeps the order of the keyword side, a weight of 1 that of the dense side."""
    for side, weight in ((keyword, 0.0), (dense, 1.0)):
        fused = weighted(keyword, dense, weight)
        for a in side:
            for b in side:
                assert (side[a] < side[b]) == (fused[a] < fused[b])


@given(keyword=WORDS, dense=SCORES, weight=WEIGHTS, factor=st.integers(1, 9))
def test_the_scale_of_a_side_does_not_matter(
    keyword: dict[int, float], dense: dict[int, float], weight: float, factor: int
) -> None:
    """BM25 has no upper bound and cosines have one: only where a score lies among the others counts."""
    louder = {chunk: factor * score for chunk, score in keyword.items()}
    assert weighted(louder, dense, weight) == pytest.approx(weighted(keyword, dense, weight))


@given(keyword=WORDS, dense=SCORES, shift=st.integers(-99, 99))
def test_a_model_whose_cosines_are_all_high_changes_no_order(
    keyword: dict[int, float], dense: dict[int, float], shift: int
) -> None:
    """Some models give every two texts a likeness of 0.7 and more; their differences count all the same."""
    moved = {chunk: score + shift for chunk, score in dense.items()}
    assert best_first(weighted(keyword, moved, 0.5)) == best_first(weighted(keyword, dense, 0.5))


def test_scores_are_the_weighted_sum_of_normalised_ones() -> None:
    """Computed by hand: chunk 3 holds no word and gets 0 for it, chunk 2 lies half-way on both sides."""
    fused = weighted({1: 10.0, 2: 5.0}, {1: 0.2, 2: 0.4, 3: 0.6}, 0.4)
    assert fused == pytest.approx({1: 0.6, 2: 0.6 * 0.5 + 0.4 * 0.5, 3: 0.4})


def test_where_one_side_finds_nothing_the_other_decides() -> None:
    """Only stop words in the question, or no vector with any likeness: the order of the other side."""
    assert weighted({}, {1: 0.3, 2: 0.5}, 0.4) == pytest.approx({1: 0.0, 2: 0.4})
    assert weighted({1: 2.0, 2: 1.0}, {1: 0.0, 2: 0.0}, 0.4) == pytest.approx({1: 0.6, 2: 0.0})
    assert weighted({}, {}, 0.4) == {}


def test_scores_that_are_all_equal_say_all_or_nothing() -> None:
    """A single candidate is the best there is, unless its score says that nothing was found."""
    assert normalise({1: 0.3}) == {1: 1.0}
    assert normalise({1: 0.3, 2: 0.3}) == {1: 1.0, 2: 1.0}
    assert normalise({1: 0.0, 2: 0.0}) == {1: 0.0, 2: 0.0}
    assert normalise({1: -1.0, 2: 0.0, 3: 1.0}) == {1: 0.0, 2: 0.5, 3: 1.0}


def test_a_chunk_without_a_vector_gets_the_lowest_likeness() -> None:
    """It may have been stored a moment ago; it is not thrown out."""
    assert complete({1: 2.0, 2: 1.0}, {1: 0.4, 3: 0.1}) == ({1: 2.0, 2: 1.0, 3: 0.0}, {1: 0.4, 2: 0.1, 3: 0.1})
    assert complete({1: 2.0}, {}) == ({1: 2.0}, {1: 0.0})


def test_reciprocal_ranks_as_published() -> None:
    """Computed by hand; what stands beyond the limit of a side counts nothing there."""
    fused = reciprocal_ranks({1: 9.0, 2: 8.0, 3: 7.0}, {3: 0.9, 1: 0.8, 4: 0.7}, limit=2)
    assert fused == pytest.approx({1: 1 / 61 + 1 / 62, 2: 1 / 62, 3: 1 / 61, 4: 0.0})


@given(scores=SCORES)
def test_equal_scores_are_ordered_by_age(scores: dict[int, float]) -> None:
    """The order of equal scores never depends on the order in which they came."""
    turned = dict(reversed(scores.items()))
    assert best_first(scores) == best_first(turned) == sorted(scores, key=lambda chunk: (-scores[chunk], chunk))


TWENTY = " ".join(f"word{n}" for n in range(20))


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (TWENTY, TWENTY, True),
        (TWENTY, TWENTY.upper().replace(" ", ",\n"), True),
        (TWENTY, f"{TWENTY} more", True),  # 16 of 17 runs
        (TWENTY, f"{TWENTY} two more", False),  # 16 of 18
        (TWENTY, TWENTY.replace("word10", "other"), False),
        (TWENTY, TWENTY[: len(TWENTY) // 2], False),
        ("short text", "Short text!", True),
        ("short text", "other text", False),
        ("", "", False),
        ("...", "---", False),
    ],
)
def test_near_duplicates_share_nearly_all_runs_of_words(a: str, b: str, *, alike: bool) -> None:
    """Case, marks and line breaks make no difference; a changed word does."""
    assert are_alike(runs(a), runs(b)) is are_alike(runs(b), runs(a)) is alike


def candidates(*texts: str) -> list[Candidate]:
    """One candidate for each text, best first, with chunk ids from 1."""
    score = Score(1.0, "question", 1.0, 1.0, 1.0, 1.0)
    return [Candidate(Passage(n, "a.md", "A", "A", 0, 1, body, 1.0), score) for n, body in enumerate(texts, 1)]


def test_the_better_of_two_duplicates_stays() -> None:
    """The other is left out, says of which it is a duplicate, and takes nobody's place."""
    pool = candidates("one two", "three four", "One, two.", "five", "six")
    distinct, rest = without_duplicates(pool, 3)
    assert distinct == [pool[0], pool[1], pool[3]]
    assert rest == [replace(pool[2], fate="duplicate", of=1), pool[4]]


def span(first: int, last: int, document: int = 1) -> Span:
    """Chunks of ten characters each."""
    return Span(document, first, last, 10 * first, 10 * last + 9)


def test_spans_that_touch_are_merged_into_the_best() -> None:
    """Neither a gap of one chunk nor another document is touched."""
    spans = {1: span(4, 6), 2: span(7, 9), 3: span(1, 2), 4: span(7, 9, document=2), 5: span(5, 5)}
    merged, into = _merge(spans)
    assert merged == {1: span(4, 9), 3: span(1, 2), 4: span(7, 9, document=2)}
    assert into == {2: 1, 5: 1}


def test_a_span_between_two_joins_them() -> None:
    """What had gone into the second is in the first now."""
    merged, into = _merge({1: span(0, 1), 2: span(4, 5), 3: span(6, 6), 4: span(2, 3)})
    assert merged == {1: span(0, 6)}
    assert into == {2: 1, 3: 1, 4: 1}
