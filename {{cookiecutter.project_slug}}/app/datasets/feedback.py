"""Feedback to cases: a correction, or an answer that was found good, becomes a question of the evaluation.

A person accepts each of them first. Knows nothing of where feedback or cases are kept.
"""

import re
from collections.abc import Iterable

from app.db.feedback import Feedback, Rated
from app.evals.dataset import Case, DrawSplit, question_id
from app.rag.citations import FLAG
from app.types import Answer

MARKS = re.compile(rf"\s*(?:\[\d+\]|{re.escape(FLAG.strip())})")


def cases_of(rated: Iterable[Rated], split: DrawSplit) -> list[Case]:
    """A case of each question: of what was said about one, the first correction counts, else the first rating."""
    made: dict[str, Case] = {}
    for said, answer in sorted(rated, key=lambda one: not one[0].correction):
        case = _case(said, answer, split)
        made.setdefault(case.id, case)
    return list(made.values())


def _case(said: Feedback, answer: Answer, split: DrawSplit) -> Case:
    """A refusal that was found good is a question without an answer; quotes are kept where the answer was good."""
    question = " ".join((answer.standalone or answer.question).split())
    refused = answer.abstained and not said.correction
    sources = list(dict.fromkeys(citation.source for citation in answer.citations))
    good = said.rating == "up" and not said.correction
    return Case.model_validate(
        {
            "id": f"feedback-{question_id(question)}",
            "split": split(sources[0] if sources else question),
            "question": question,
            "answerable": not refused,
            "relevant": sources,
            "evidence": [{"document": one.source, "quote": one.quote} for one in answer.citations if good],
            "reference": "" if refused else said.correction or MARKS.sub("", answer.text),
            "tags": ["feedback"],
            "source": "feedback",
        }
    )
