"""The ranking evaluators against ir-measures, and trec_eval through it: the same values on the same runs, to 1e-9.

Ours take the order of the list; trec_eval takes scores, as 32-bit floats, and puts equal ones in descending order of
the documents' names, whatever rank the run gives them. Both then agree on any order that scores can tell apart.
"""

import random

import ir_measures
import pytest
from app.evals.dataset import Case
from app.evals.evaluators import EVALUATORS
from app.types import Answer, Passage, Usage
from ir_measures import RR, P, R, nDCG

OURS = {"recall@5": R @ 5, "recall@10": R @ 10, "precision@5": P @ 5, "mrr@10": RR, "ndcg@10": nDCG @ 10}
DOCUMENTS = [f"d{n}" for n in range(30)]
QUERIES = 1_000

Ranking = list[tuple[str, float]]
"""Documents with their scores, best first; a document may come more than once."""
Values = dict[tuple[str, str], float]
"""By query and by the measure's name here."""


def qrels_of(grades: dict[str, int], *queries: str) -> dict[str, dict[str, int]]:
    """The same judgements for each of these queries."""
    return dict.fromkeys(queries, grades)


def ours(relevant: dict[str, int], ranking: Ranking) -> dict[str, float | None]:
    """What the project's evaluators say of one query."""
    case = Case(id="1", split="gate", question="?", answerable=True, relevant=relevant, reference="!")
    passages = tuple(Passage(n, source, "", "", 0, 0, "", score) for n, (source, score) in enumerate(ranking))
    answer = Answer("1", "?", "", False, "", "", "", Usage(), 0, 0, passages=passages)  # noqa: FBT003  # a blank
    return {name: EVALUATORS[name].function(case, answer, {}) for name in OURS}


def theirs(qrels: dict[str, dict[str, int]], runs: dict[str, Ranking]) -> Values:
    """What trec_eval says; a document's score is that of its best place. Its RR has no cut-off, so the run gets one."""
    values: Values = {}
    for name, measure in OURS.items():
        scores = {query: dict(reversed(ranking)) for query, ranking in runs.items() if ranking}
        if measure is RR:
            scores = {query: {d: found[d] for d in _first_ten(runs[query])} for query, found in scores.items()}
        values |= {(one.query_id, name): one.value for one in ir_measures.iter_calc([measure], qrels, scores)}
    return values


def _first_ten(ranking: Ranking) -> list[str]:
    return list(dict(ranking))[:10]


def judged(rng: random.Random) -> dict[str, int]:
    """Between one and all documents with a grade, 0 for some: judged, and not relevant."""
    chosen = rng.sample(DOCUMENTS, rng.randint(1, len(DOCUMENTS)))
    return {document: rng.randint(0, 3) for document in chosen} | {chosen[0]: rng.randint(1, 3)}


def compare(qrels: dict[str, dict[str, int]], runs: dict[str, Ranking]) -> None:
    """Every measure of every query."""
    expected = theirs(qrels, runs)
    assert len(expected) == len(OURS) * len(qrels)
    for query, grades in qrels.items():
        relevant = {document: grade for document, grade in grades.items() if grade}
        for name, value in ours(relevant, runs[query]).items():
            assert value == pytest.approx(expected[query, name], abs=1e-9), (query, name, grades, runs[query])


def test_random_runs_with_graded_relevance() -> None:
    """Runs of 0 to 25 places in which documents come up again, over up to 30 judged documents of grades 0 to 3."""
    rng = random.Random(5)  # noqa: S311  # nothing is secret
    qrels = {str(n): judged(rng) for n in range(QUERIES)}
    runs = {
        query: [(document, 1 - rank / 64) for rank, document in enumerate(rng.choices(DOCUMENTS, k=rng.randint(0, 25)))]
        for query in qrels
    }
    compare(qrels, runs)


def test_queries_without_results() -> None:
    """They are 0 in every measure, and not left out."""
    qrels = qrels_of({"d1": 2}, "found", "nothing")
    runs: dict[str, Ranking] = {"found": [("d1", 1.0)], "nothing": []}
    compare(qrels, runs)
    assert set(ours(qrels["nothing"], []).values()) == {0.0}


def test_equal_scores_in_the_order_of_trec_eval() -> None:
    """With few different scores, and the list in the order in which trec_eval looks at it."""
    rng = random.Random(6)  # noqa: S311  # nothing is secret
    qrels = {str(n): judged(rng) for n in range(QUERIES)}
    runs = {}
    for query in qrels:
        scored = {document: rng.randint(1, 4) / 4 for document in rng.sample(DOCUMENTS, rng.randint(1, 25))}
        ordered = sorted(((score, document) for document, score in scored.items()), reverse=True)
        runs[query] = [(document, score) for score, document in ordered]
    compare(qrels, runs)


def test_equal_scores_keep_the_order_of_the_list_here() -> None:
    """The model reads the list in its order, so that is the ranking; trec_eval puts the later name first."""
    tied: Ranking = [("a", 0.5), ("b", 0.5)]
    assert ours({"a": 1}, tied)["ndcg@10"] == 1.0
    assert theirs(qrels_of({"a": 1}, "1"), {"1": tied})["1", "ndcg@10"] == pytest.approx(0.63093, abs=1e-5)


def test_scores_that_differ_by_less_than_a_32_bit_float_can_hold_are_equal_to_trec_eval() -> None:
    """Another reason why the comparison gives scores that are far enough apart."""
    close: Ranking = [("a", 0.5 + 1e-9), ("b", 0.5)]
    assert ours({"a": 1}, close)["ndcg@10"] == 1.0
    assert theirs(qrels_of({"a": 1}, "1"), {"1": close})["1", "ndcg@10"] < 1


def test_nothing_relevant_is_unmeasured_here() -> None:
    """It is 0 to trec_eval, which would make a question without an answer look like a failure of the search."""
    assert set(ours({}, [("d1", 1.0)]).values()) == {None}
    assert set(theirs(qrels_of({"d1": 0}, "1"), {"1": [("d1", 1.0)]}).values()) == {0.0}
