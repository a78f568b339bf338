"""Deterministic metrics of one answer, each a small function of a Case, an Answer and the stored texts.

A metric that does not apply gives None: unmeasured, and kept out of every mean. Knows nothing of how answers come.
"""

from collections.abc import Callable, Mapping, Sequence
from math import log2

from app.evals.dataset import Case
from app.rag.quotes import locate
from app.types import Answer

Texts = Mapping[str, str]
"""Source to stored text."""
Metric = Callable[[Case, Answer, Texts], float | None]


def recall_at_5(case: Case, answer: Answer, _: Texts) -> float | None:
    """Share of the relevant documents among the first five documents that were retrieved."""
    if not case.relevant:
        return None
    return len(set(case.relevant) & set(ranked_documents(answer)[:5])) / len(case.relevant)


def ndcg_at_10(case: Case, answer: Answer, _: Texts) -> float | None:
    """Normalised discounted cumulative gain with binary relevance (Jarvelin and Kekalainen, 2002)."""
    if not case.relevant:
        return None
    hits = [document in case.relevant for document in ranked_documents(answer)[:10]]
    return _dcg(hits) / _dcg([True] * min(10, len(case.relevant)))


def evidence_recall(case: Case, answer: Answer, _: Texts) -> float | None:
    """Share of the evidence that stood in the passages the model read."""
    if not case.evidence:
        return None
    read = [passage for passage in answer.passages if passage.use != "found"]
    found = [any(locate(e.quote, p.text) for p in read) for e in case.evidence]
    return sum(found) / len(found)


def citation_validity(_: Case, answer: Answer, texts: Texts) -> float | None:
    """Share of the shown citations whose words stand in the stored document just where the citation says."""
    if not answer.citations:
        return None
    valid = [texts.get(c.source, "")[c.start : c.end] == c.quote != "" for c in answer.citations]
    return sum(valid) / len(valid)


def cites_relevant(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether an answer cites a document that answers the question."""
    if not case.answerable or answer.abstained:
        return None
    return float(any(c.source in case.relevant for c in answer.citations))


def answered(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether a question that has an answer was given one."""
    return float(not answer.abstained) if case.answerable else None


def abstained(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether a question that has no answer was told so."""
    return None if case.answerable else float(answer.abstained)


METRICS: dict[str, Metric] = {
    "recall@5": recall_at_5,
    "ndcg@10": ndcg_at_10,
    "evidence_recall": evidence_recall,
    "citation_validity": citation_validity,
    "cites_relevant": cites_relevant,
    "answered": answered,
    "abstained": abstained,
}


def score(case: Case, answer: Answer, texts: Texts) -> dict[str, float]:
    """Every metric that applies, by name."""
    values = {name: metric(case, answer, texts) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if value is not None}


def ranked_documents(answer: Answer) -> list[str]:
    """The sources of the passages in order of rank, each once."""
    return list(dict.fromkeys(passage.source for passage in answer.passages))


def _dcg(hits: Sequence[bool]) -> float:
    return sum(hit / log2(rank + 1) for rank, hit in enumerate(hits, 1))
