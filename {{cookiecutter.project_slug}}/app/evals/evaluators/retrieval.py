"""What retrieval found: ranking measures over documents, and the evidence in what the model read.

The ranking is the order of the passages; a document counts once, at its best passage, and scores are not looked at.
Relevance has grades, 1 where a dataset gives none. Without a relevant document there is nothing to measure. Knows
nothing of what was answered.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import log2

from app.evals.dataset import Case, Evidence
from app.evals.evaluators import Texts, evaluator
from app.rag.quotes import Normal
from app.types import Answer, Passage


@evaluator("recall@5")
def recall_at_5(case: Case, answer: Answer, _: Texts) -> float | None:
    """Share of the relevant documents that are among the first five (Manning, Raghavan and Schütze, 2008, ch. 8)."""
    return _hits(case, answer, 5) / len(case.relevant) if case.relevant else None


@evaluator("recall@10")
def recall_at_10(case: Case, answer: Answer, _: Texts) -> float | None:
    """Share of the relevant documents that are among the first ten."""
    return _hits(case, answer, 10) / len(case.relevant) if case.relevant else None


@evaluator("precision@5")
def precision_at_5(case: Case, answer: Answer, _: Texts) -> float | None:
    """Relevant documents among the first five, divided by five however few there are, as trec_eval does."""
    return _hits(case, answer, 5) / 5 if case.relevant else None


@evaluator("mrr@10")
def mrr_at_10(case: Case, answer: Answer, _: Texts) -> float | None:
    """1 / rank of the first relevant document, 0 if it is not among the first ten (Voorhees, TREC-8, 1999)."""
    if not case.relevant:
        return None
    return next((1 / rank for rank, grade in enumerate(_grades(case, answer, 10), 1) if grade), 0.0)


@evaluator("ndcg@10")
def ndcg_at_10(case: Case, answer: Answer, _: Texts) -> float | None:
    """Normalised discounted cumulative gain, the gain being the grade (Järvelin and Kekäläinen, 2002)."""
    if not case.relevant:
        return None
    return _dcg(_grades(case, answer, 10)) / _dcg(sorted(case.relevant.values(), reverse=True)[:10])


@evaluator("evidence_recall")
def evidence_recall(case: Case, answer: Answer, _: Texts) -> float | None:
    """Share of the evidence that stood in the passages the model read."""
    if not case.evidence:
        return None
    return sum(bool(holding(one, answer)) for one in case.evidence) / len(case.evidence)


def ranked_documents(answer: Answer) -> list[str]:
    """The sources of the passages in order of rank, each once."""
    return list(dict.fromkeys(passage.source for passage in answer.passages))


def holding(evidence: Evidence, answer: Answer) -> list[Passage]:
    """The passages that the model read and that hold these words, whatever their typography, in any document."""
    quote = _normal(evidence.quote)
    return [passage for passage in answer.passages if passage.use != "found" and _normal(passage.text).find(quote)]


# Three evaluators look into the same passages, and many questions find the same ones.
_normal = lru_cache(maxsize=256)(Normal)


def _hits(case: Case, answer: Answer, depth: int) -> int:
    return sum(grade > 0 for grade in _grades(case, answer, depth))


def _grades(case: Case, answer: Answer, depth: int) -> list[int]:
    """Of the first documents, 0 where one is not relevant."""
    return [case.relevant.get(document, 0) for document in ranked_documents(answer)[:depth]]


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, 1))
