"""Two lists of scores to one: a weighted sum of normalised scores, or reciprocal ranks.

Both sides score every candidate, whichever of them proposed it: what stands low on one list is not the same as what
does not stand on it. Larger is better everywhere. Knows nothing of where the scores come from.
"""

from collections.abc import Mapping

RRF_K = 60

Scores = Mapping[int, float]
"""Score by chunk id."""


def complete(keyword: Scores, dense: Scores) -> tuple[dict[int, float], dict[int, float]]:
    """Both sides' scores for the same chunks: without a word of the question it is 0, without a vector the lowest."""
    chunks = sorted(keyword.keys() | dense.keys())
    lowest = min(dense.values(), default=0.0)
    return {c: keyword.get(c, 0.0) for c in chunks}, {c: dense.get(c, lowest) for c in chunks}


def normalise(scores: Scores) -> dict[int, float]:
    """Each score's place between the lowest, 0, and the highest, 1; where all are equal 1, or 0 if they say nothing."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    if high == low:
        return dict.fromkeys(scores, float(high > 0))
    return {chunk: (score - low) / (high - low) for chunk, score in scores.items()}


def weighted(keyword: Scores, dense: Scores, dense_weight: float) -> dict[int, float]:
    """Min-max normalised scores, added with `dense_weight` for the vectors and the rest for the words; 0 to 1."""
    keyword, dense = map(normalise, complete(keyword, dense))
    return {chunk: (1 - dense_weight) * keyword[chunk] + dense_weight * dense[chunk] for chunk in keyword}


def reciprocal_ranks(keyword: Scores, dense: Scores, limit: int) -> dict[int, float]:
    """The sum of 1 / (60 + rank) over the `limit` best of both lists; at most 2 / 61.

    As in Cormack, Clarke and Buettcher, "Reciprocal rank fusion", SIGIR 2009.
    """
    fused = dict.fromkeys(keyword.keys() | dense.keys(), 0.0)
    for side in (keyword, dense):
        for rank, chunk in enumerate(best_first(side)[:limit], 1):
            fused[chunk] += 1 / (RRF_K + rank)
    return fused


def best_first(scores: Scores) -> list[int]:
    """Chunk ids by score; of equal ones the older chunk first."""
    return sorted(scores, key=lambda chunk: (-scores[chunk], chunk))
