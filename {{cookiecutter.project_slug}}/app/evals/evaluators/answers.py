"""What an answer says: whether it answers at all, what the reference says, and nothing that it must not say.

Words are compared with the reference only where there was an answer to give and one was given. Knows nothing of the
passages.
"""

import re
import unicodedata
from collections import Counter

from app.evals.dataset import Case
from app.evals.evaluators import Texts, evaluator
from app.rag.quotes import locate
from app.types import Answer

ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@evaluator("answered", binary=True)
def answered(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether a question that has an answer was given one."""
    return float(not answer.abstained) if case.answerable else None


@evaluator("abstained", binary=True)
def abstained(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether a question that has no answer was told so."""
    return None if case.answerable else float(answer.abstained)


@evaluator("exact_match", binary=True)
def exact_match(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether the answer is the reference, but for case, punctuation and articles (Rajpurkar et al., SQuAD, 2016)."""
    return float(words(said(answer)) == words(case.reference)) if _is_comparable(case, answer) else None


@evaluator("token_f1")
def token_f1(case: Case, answer: Answer, _: Texts) -> float | None:
    """Harmonic mean of the shares of the answer's and of the reference's words that they have in common (SQuAD)."""
    if not _is_comparable(case, answer):
        return None
    given, wanted = words(said(answer)), words(case.reference)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if given or wanted else 1.0


@evaluator("no_forbidden", binary=True)
def no_forbidden(case: Case, answer: Answer, _: Texts) -> float | None:
    """Whether the answer keeps clear of what it must not say: parts of words count too, in any case and spacing."""
    text = said(answer).casefold()
    return float(not any(locate(one.casefold(), text) for one in case.forbidden)) if case.forbidden else None


def said(answer: Answer) -> str:
    """The answer without the numbers of its citations."""
    text = answer.text
    for citation in answer.citations:
        text = text.replace(f" [{citation.marker}]", "")
    return text


def words(text: str) -> list[str]:
    """What SQuAD compares: lower case, without punctuation and articles; here also of other scripts than ASCII."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return ARTICLES.sub(" ", "".join(c for c in plain if unicodedata.category(c)[0] not in "PS")).split()


def _is_comparable(case: Case, answer: Answer) -> bool:
    return case.answerable and bool(case.reference) and not answer.abstained
