"""What an answer cites: whether it stands there, and whether that is what answers the question.

Precision and recall are those of ALCE (Gao, Yen, Yu and Chen, 2023), with the dataset's evidence in the place of a
model that says what supports what. An abstention is not blamed for citing nothing. Knows nothing of what is said.
"""

from collections.abc import Iterable

from app.evals.dataset import Case
from app.evals.evaluators import Texts, evaluator
from app.evals.evaluators.retrieval import holding
from app.types import Answer, Citation, Passage


@evaluator("citation_validity")
def citation_validity(_: Case, answer: Answer, texts: Texts) -> float | None:
    """Share of the shown citations whose words stand in the stored document just where the citation says."""
    if not answer.citations:
        return None
    valid = [texts.get(c.source, "")[c.start : c.end] == c.quote != "" for c in answer.citations]
    return sum(valid) / len(valid)


@evaluator("citation_precision")
def citation_precision(case: Case, answer: Answer, _: Texts) -> float | None:
    """Share of the citations that are right.

    One is right in a passage that holds evidence, and anywhere in a relevant document of which no evidence is given.
    """
    if not (case.relevant and answer.citations):
        return None
    anywhere = case.relevant.keys() - {one.document for one in case.evidence}
    passages = [passage for one in case.evidence for passage in holding(one, answer)]
    right = [c.source in anywhere or _is_in(c, passages) for c in answer.citations]
    return sum(right) / len(right)


@evaluator("citation_recall")
def citation_recall(case: Case, answer: Answer, _: Texts) -> float | None:
    """Share of the evidence that is cited, in any passage that holds it; without evidence, of the relevant documents.

    An answer that cites nothing has 0.
    """
    if answer.abstained or not case.relevant:
        return None
    if not case.evidence:
        return len(case.relevant.keys() & {c.source for c in answer.citations}) / len(case.relevant)
    cited = [any(_is_in(c, holding(one, answer)) for c in answer.citations) for one in case.evidence]
    return sum(cited) / len(cited)


@evaluator("cites_relevant", binary=True)
def cites_relevant(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether an answer cites a document that answers the question."""
    if answer.abstained or not case.relevant:
        return None
    return float(any(c.source in case.relevant for c in answer.citations))


def _is_in(citation: Citation, passages: Iterable[Passage]) -> bool:
    """Whether it is a part of one of them, or has a part in it."""
    return any(p.source == citation.source and p.start < citation.end and citation.start < p.end for p in passages)
