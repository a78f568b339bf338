"""Evaluators against values computed by hand; what applies, what does not, and what has failed."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.evals import evaluators
from app.evals.dataset import Case, Evidence
from app.evals.evaluators import EVALUATORS, Function, Scores, evaluate, evaluator
from app.evals.evaluators.answers import words
from app.evals.evaluators.retrieval import ranked_documents
from app.types import Answer, Citation, Passage, Usage
from tests.conftest import PROJECT

TEXTS = {"a.md": "Rivers run to the sea.", "b.md": "The sea is never full."}
CASE = Case(
    id="1",
    split="gate",
    question="Where do rivers run?",
    answerable=True,
    relevant={"a.md": 1, "b.md": 1},
    evidence=(Evidence(document="a.md", quote="to the sea"), Evidence(document="b.md", quote="never full")),
    reference="To the sea.",
)
WITHOUT_EVIDENCE = CASE.model_copy(update={"evidence": ()})
UNANSWERABLE = Case(id="2", split="gate", question="Why?", answerable=False)
ONLY_REFERENCE = Case(id="3", split="gate", question="Where?", answerable=True, reference="To the sea.")
ONLY_RELEVANT = Case(id="4", split="gate", question="Where?", answerable=True, relevant={"a.md": 1})
COSTS = {"latency_ms", "input_tokens", "output_tokens", "cost_usd"}
RANKING = {"recall@5", "recall@10", "precision@5", "mrr@10", "ndcg@10"}
DOCUMENTS = [f"{n}.md" for n in range(14)]
TEXT = st.text() | st.lists(st.sampled_from(["the", "sea", "Sea,", "river", "-"]), max_size=4).map(" ".join)
NEW_ONE = """
from app.evals.evaluators import evaluator

@evaluator("is_polite")
def is_polite(case, answer, texts):
    return 1.0
"""


def passage(source: str, text: str = "", start: int = 0) -> Passage:
    """A passage that the model read."""
    return Passage(1, source, "", "", start, start + len(text), text, score=1.0, use="read")


def citation(source: str, quote: str, start: int = 0, marker: int = 1) -> Citation:
    """A citation as an answer shows it."""
    return Citation(marker, 1, source, "", "", quote, start, start + len(quote))


def answer(*passages: Passage, citations: tuple[Citation, ...] = (), text: str = "To the sea. [1]") -> Answer:
    """What the pipeline gave."""
    return Answer(
        id="1",
        question="?",
        text=text,
        abstained=False,
        model="offline/extractive",
        notice="",
        prompt_hash="p",
        usage=Usage(input_tokens=30, output_tokens=4),
        cost_nanousd=2_500_000,
        latency_ms=7,
        citations=citations,
        passages=passages,
    )


SILENT = replace(answer(), abstained=True, text="The documents do not answer this question.")


def measured(name: str, case: Case, given: Answer) -> float | None:
    """One measure over the stored texts."""
    return EVALUATORS[name].function(case, given, TEXTS)


def graded(**grades: int) -> Case:
    """A case of which only the relevant documents matter."""
    relevant = {f"{name}.md": grade for name, grade in grades.items()}
    return WITHOUT_EVIDENCE.model_copy(update={"relevant": relevant})


def found(*names: str) -> Answer:
    """An answer with a passage of each of these documents."""
    return answer(*(passage(f"{name}.md") for name in names))


def referring(reference: str) -> Case:
    """A case with this reference."""
    return CASE.model_copy(update={"reference": reference})


def test_recall_counts_documents_and_not_passages() -> None:
    """Several passages of one document are one; the sixth and the eleventh document are too late."""
    assert ranked_documents(found(*"aaaaab")) == ["a.md", "b.md"]
    assert measured("recall@5", CASE, found(*"aaaaab")) == 1.0
    assert measured("recall@5", CASE, found(*"12a34b")) == 0.5
    assert measured("recall@5", CASE, found(*"12a3b")) == measured("recall@10", CASE, found(*"12a34b")) == 1.0
    assert measured("recall@10", CASE, found(*"12a3456789b")) == 0.5
    assert measured("recall@5", CASE, answer()) == measured("recall@10", CASE, answer()) == 0.0


def test_precision_divides_by_the_depth() -> None:
    """As trec_eval does: a place that holds nothing is no better than one that holds something wrong."""
    assert measured("precision@5", CASE, found("a", "b")) == 0.4
    assert measured("precision@5", CASE, found(*"x1a34b")) == 0.2
    assert measured("precision@5", CASE, answer()) == 0.0


def test_the_reciprocal_rank_is_of_the_first_relevant_document() -> None:
    """Later ones add nothing, and the eleventh rank counts nothing."""
    assert measured("mrr@10", CASE, found(*"aaab")) == 1.0
    assert measured("mrr@10", CASE, found(*"xyyba")) == 1 / 3
    assert measured("mrr@10", CASE, found(*"123456789a")) == 0.1
    assert measured("mrr@10", CASE, found(*"1234567890a")) == 0.0


def test_ndcg_discounts_by_rank() -> None:
    """Two relevant documents at ranks 1 and 3: (1 + 1/2) of (1 + 1/log2(3)); the eleventh rank counts nothing."""
    assert measured("ndcg@10", CASE, found(*"bxa")) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert measured("ndcg@10", CASE, found(*"ab")) == 1.0
    assert measured("ndcg@10", CASE, found(*"1234567890a")) == 0.0


def test_ndcg_gains_by_grade() -> None:
    """The gain is the grade itself; the other measures take any grade for relevant."""
    case = graded(a=3, b=1)
    assert measured("ndcg@10", case, found(*"ba")) == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))
    assert measured("ndcg@10", case, found(*"ab")) == 1.0
    assert {measured(name, case, found(*"ba")) for name in ("recall@5", "mrr@10")} == {1.0}


def test_the_best_possible_ranking_has_no_more_than_ten_places() -> None:
    """Of fourteen relevant documents no ranking could show more than ten."""
    case = CASE.model_copy(update={"evidence": (), "relevant": dict.fromkeys(DOCUMENTS, 2)})
    assert measured("ndcg@10", case, answer(*map(passage, DOCUMENTS))) == 1.0
    assert measured("recall@10", case, answer(*map(passage, DOCUMENTS))) == 10 / 14


@given(
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(1, 3), min_size=1),
    st.lists(st.sampled_from(DOCUMENTS), max_size=20),
)
def test_ranking_measures_stay_within_0_and_1(relevant: dict[str, int], ranking: list[str]) -> None:
    """Whatever is relevant and whatever was found; with nothing relevant on top, all of them are 0."""
    case = CASE.model_copy(update={"evidence": (), "relevant": relevant})
    scores = {name: measured(name, case, answer(*map(passage, ranking))) for name in RANKING}
    assert all(0 <= (score or 0.0) <= 1 for score in scores.values())
    hit = relevant.keys() & list(dict.fromkeys(ranking))[:10]
    assert all((scores[name] or 0.0) > 0 for name in RANKING - {"recall@5", "precision@5"}) == bool(hit)


def test_evidence_recall_looks_into_every_passage_that_was_read() -> None:
    """The words count wherever the model could read them, whatever their typography, and nowhere else."""
    left_out = replace(passage("a.md", "Rivers run to the sea."), use="found")
    assert measured("evidence_recall", CASE, answer(left_out)) == 0.0
    assert measured("evidence_recall", CASE, answer(passage("a.md", "Rivers run *to the* sea."))) == 0.5
    both = answer(passage("x.md", "never full"), passage("x.md", "to\nthe sea"))
    assert measured("evidence_recall", CASE, both) == 1.0
    cited = replace(both, passages=tuple(replace(one, use="cited") for one in both.passages))
    assert measured("evidence_recall", CASE, cited) == 1.0
    assert measured("evidence_recall", CASE, answer()) == 0.0


@pytest.mark.parametrize(
    ("source", "quote", "start", "valid"),
    [
        ("a.md", "run to", 7, 1.0),
        ("a.md", "run to", 6, 0.0),
        ("b.md", "run to", 7, 0.0),
        ("missing.md", "run to", 7, 0.0),
        ("a.md", "", 0, 0.0),
        ("a.md", "", 99, 0.0),
    ],
)
def test_a_citation_is_valid_only_at_its_place(source: str, quote: str, start: int, valid: float) -> None:
    """The stored text is compared letter by letter; an empty quote proves nothing."""
    assert measured("citation_validity", CASE, answer(citations=(citation(source, quote, start),))) == valid


READ = (
    passage("a.md", "Rivers run to the sea.", 100),
    passage("a.md", "They are old.", 200),
    passage("b.md", "The sea is never full.", 100),
    passage("x.md", "All run to the sea.", 100),
)


@pytest.mark.parametrize(
    ("citations", "precision", "recall"),
    [
        ((), None, 0.0),
        ((citation("a.md", "Rivers", 100),), 1.0, 0.5),
        ((citation("a.md", "Rivers", 100), citation("a.md", "They", 200)), 0.5, 0.5),
        ((citation("a.md", "Rivers", 100), citation("b.md", "full", 117)), 1.0, 1.0),
        ((citation("x.md", "All", 100),), 1.0, 0.5),
        ((citation("x.md", "All", 0),), 0.0, 0.0),
        ((citation("a.md", "Old rivers", 90),), 0.0, 0.0),
        ((citation("a.md", "Old rivers", 91),), 1.0, 0.5),
        ((citation("a.md", "The next", 122),), 0.0, 0.0),
        ((citation("a.md", ".", 121),), 1.0, 0.5),
    ],
)
def test_citations_are_held_against_the_evidence(
    citations: tuple[Citation, ...], precision: float | None, recall: float
) -> None:
    """A part in a passage that holds evidence is right, in any document; one that only touches its border is not.

    An answer that cites nothing has no precision; that it supports nothing is its recall.
    """
    given = answer(*READ, citations=citations)
    assert measured("citation_precision", CASE, given) == precision
    assert measured("citation_recall", CASE, given) == recall


def test_evidence_in_several_passages_is_one_piece_of_evidence() -> None:
    """Any of the passages that hold it is enough, and all of them add nothing."""
    once = answer(*READ, citations=(citation("x.md", "All", 100),))
    twice = answer(*READ, citations=(citation("x.md", "All", 100), citation("a.md", "Rivers", 100)))
    assert measured("citation_recall", CASE, once) == measured("citation_recall", CASE, twice) == 0.5


def test_passages_that_the_model_did_not_read_support_no_citation() -> None:
    """What was found and left out cannot have led to the answer."""
    left_out = tuple(replace(one, use="found") for one in READ)
    given = answer(*left_out, citations=(citation("a.md", "Rivers", 100),))
    assert measured("citation_precision", CASE, given) == measured("citation_recall", CASE, given) == 0.0


def test_without_evidence_citations_are_held_against_the_relevant_documents() -> None:
    """Of a relevant document without evidence any place is right; recall then counts documents."""
    cited = answer(*READ, citations=(citation("a.md", "old", 209), citation("x.md", "All", 100)))
    assert measured("citation_precision", WITHOUT_EVIDENCE, cited) == 0.5
    assert measured("citation_recall", WITHOUT_EVIDENCE, cited) == 0.5
    half = CASE.model_copy(update={"evidence": CASE.evidence[1:]})
    assert measured("citation_precision", half, cited) == 0.5
    assert measured("citation_recall", half, cited) == 0.0


def test_one_relevant_document_is_enough_to_cite() -> None:
    """Whatever else is cited; nothing cited is none."""
    both = (citation("x.md", "All", 100), citation("b.md", "sea", 104))
    assert measured("cites_relevant", CASE, answer(citations=both)) == 1.0
    assert measured("cites_relevant", CASE, answer(citations=both[:1])) == 0.0
    assert measured("cites_relevant", CASE, answer()) == 0.0


@pytest.mark.parametrize(
    ("text", "reference", "exact", "f1"),
    [
        ("To the sea. [1]", "to  SEA", 1.0, 1.0),
        ("To the sea. [1]", "the sea", 0.0, 2 / 3),
        ("sea sea sea", "sea", 0.0, 0.5),
        ("sea sea lake", "sea sea river", 0.0, 2 / 3),
        ("a lake", "the sea", 0.0, 0.0),
        ("item [2] of 3", "item 2 of 3", 1.0, 1.0),
        ("\u201cstate\u2013of\u201d the art", "state-of art", 1.0, 1.0),
        ("5 km\u00b2", "5 KM2", 1.0, 1.0),
        ("$5 + tax", "5 tax", 1.0, 1.0),
        ("a theory of an anthem", "theory of anthem", 1.0, 1.0),
        ("The", "an", 1.0, 1.0),
        ("The sea", "an", 0.0, 0.0),
        ("The", "sea", 0.0, 0.0),
    ],
)
def test_an_answer_is_compared_with_its_reference_word_by_word(
    text: str, reference: str, exact: float, f1: float
) -> None:
    """Case, punctuation, articles and citations' numbers count nothing; a word counts as often as both have it."""
    given = answer(citations=(citation("a.md", "Rivers"),), text=text)
    assert measured("exact_match", referring(reference), given) == exact
    assert measured("token_f1", referring(reference), given) == pytest.approx(f1)


@given(TEXT, TEXT)
def test_f1_is_the_same_both_ways_and_1_where_all_words_are_the_same(one: str, other: str) -> None:
    """For any two texts; `exact_match` asks for their order too."""
    scores = [
        measured("token_f1", referring(reference), answer(text=text))
        for text, reference in ((one, other), (other, one))
        if reference
    ]
    assert len(set(scores)) <= 1
    for score in scores:
        assert score is not None
        assert 0 <= score <= 1
        assert (score == 1) == (sorted(words(one)) == sorted(words(other)))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("We promise nothing.", 1.0),
        ("It is GUARANTEED\n  return.", 0.0),
        ("It is guaranteed [1] return.", 0.0),
        ("It is guar\u00adan**teed** return.", 0.0),
        ("Guaranteed returns", 0.0),
        ("It is guaranteed, and may return.", 1.0),
        ("Call it STRASSE.", 0.0),
    ],
)
def test_forbidden_words_are_found_however_they_are_written(text: str, kept: float) -> None:
    """Case, spacing, emphasis and what is invisible hide nothing; other words between them make them others."""
    case = CASE.model_copy(update={"forbidden": ("Guaranteed return", "Straße")})
    assert measured("no_forbidden", case, answer(text=text, citations=(citation("a.md", "Rivers"),))) == kept


def test_costs_are_what_the_answer_says() -> None:
    """Milliseconds, tokens and dollars; of these less is better, and a price that is unknown is not 0."""
    assert {name: measured(name, CASE, answer()) for name in COSTS} == {
        "latency_ms": 7,
        "input_tokens": 30,
        "output_tokens": 4,
        "cost_usd": 0.0025,
    }
    assert measured("cost_usd", CASE, replace(answer(), cost_nanousd=0)) == 0.0
    assert measured("cost_usd", CASE, replace(answer(), cost_nanousd=None)) is None
    assert {one.name for one in EVALUATORS.values() if not one.higher_is_better} == COSTS


def test_answering_and_abstaining_are_scored_on_their_own_cases() -> None:
    """What does not apply is unmeasured, and not zero; an abstention is not blamed for what it does not say."""
    cited = answer(*READ, citations=(citation("b.md", "The sea", 0),))
    asked = RANKING | {"evidence_recall", "answered"}
    said = {"citation_validity", "citation_precision", "citation_recall", "cites_relevant", "exact_match", "token_f1"}
    cases = (CASE, UNANSWERABLE, ONLY_REFERENCE, ONLY_RELEVANT)
    assert not any(evaluate(case, given, TEXTS).failed for case in cases for given in (cited, SILENT))
    scores = {case.id: evaluate(case, cited, TEXTS).scored for case in cases}
    assert scores["1"].keys() == asked | said | COSTS
    assert scores["2"].keys() == {"abstained", "citation_validity"} | COSTS
    assert scores["3"].keys() == {"answered", "citation_validity", "exact_match", "token_f1"} | COSTS
    assert scores["4"].keys() == (asked | said | COSTS) - {"evidence_recall", "exact_match", "token_f1"}
    assert (scores["1"]["answered"], scores["2"]["abstained"]) == (1.0, 0.0)
    silent = {case.id: evaluate(case, SILENT, TEXTS).scored for case in (CASE, UNANSWERABLE)}
    assert silent["1"].keys() == asked | COSTS
    assert silent["2"].keys() == {"abstained"} | COSTS
    assert (silent["1"]["answered"], silent["2"]["abstained"]) == (0.0, 1.0)


def test_forbidden_words_apply_wherever_there_are_some() -> None:
    """Also to a question without an answer, and an abstention keeps clear of them; nothing is asked without them."""
    case = UNANSWERABLE.model_copy(update={"forbidden": ("sea",)})
    assert measured("no_forbidden", case, answer()) == 0.0
    assert measured("no_forbidden", case, SILENT) == 1.0
    assert measured("no_forbidden", UNANSWERABLE, answer()) is None


def test_a_reference_of_a_question_without_an_answer_is_not_compared() -> None:
    """It may say why there is none; whoever answered all the same is blamed for that alone."""
    case = UNANSWERABLE.model_copy(update={"reference": "Nobody knows."})
    assert measured("token_f1", case, answer()) is measured("exact_match", case, answer()) is None


@pytest.fixture
def _no_evaluators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without one, and forget afterwards what the test entered."""
    monkeypatch.setattr(evaluators, "EVALUATORS", {})


def fails(*_: object) -> float:
    """An evaluator with a mistake in it."""
    raise ZeroDivisionError("no words")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda *_: 0.5, Scores({"new": 0.5}, {})),
        (lambda *_: True, Scores({"new": 1.0}, {})),
        (lambda *_: None, Scores({}, {})),
        (fails, Scores({}, {"new": "ZeroDivisionError: no words"})),
        (lambda *_: math.nan, Scores({}, {"new": "ValueError: nan is no score"})),
        (lambda *_: -math.inf, Scores({}, {"new": "ValueError: -inf is no score"})),
        (lambda *_: "good", Scores({}, {"new": "TypeError: must be real number, not str"})),
    ],
)
@pytest.mark.usefixtures("_no_evaluators")
def test_scored_failed_and_unmeasured_are_three_things(function: Function, expected: Scores) -> None:
    """A number is a score, None says that it does not apply, and all else is a failure with its reason."""
    evaluator("new")(function)
    scores = evaluate(CASE, answer(), TEXTS)
    assert scores == expected
    assert {type(score) for score in scores.scored.values()} <= {float}


@pytest.mark.usefixtures("_no_evaluators")
def test_one_that_fails_leaves_the_others_their_scores() -> None:
    """Those before it and those after it."""
    for name, function in {"first": lambda *_: 1.0, "broken": fails, "last": lambda *_: 0.0}.items():
        evaluator(name)(function)
    scores = evaluate(CASE, answer(), TEXTS)
    assert scores.scored == {"first": 1.0, "last": 0.0}
    assert list(scores.failed) == ["broken"]


@pytest.mark.usefixtures("_no_evaluators")
def test_what_is_said_to_be_binary_gives_nothing_between() -> None:
    """The gate's test for such a measure would be wrong with anything else."""
    evaluator("whole", binary=True)(lambda *_: 1.0)
    evaluator("half", binary=True)(lambda *_: 0.5)
    assert evaluate(CASE, answer(), TEXTS) == Scores({"whole": 1.0}, {"half": "ValueError: 0.5 is no score"})


def test_two_evaluators_cannot_have_one_name() -> None:
    """The second would take the place of the first without a word."""
    with pytest.raises(ValueError, match=r"two evaluators are named recall@5"):
        evaluator("recall@5")(fails)


def test_a_new_evaluator_is_one_function_in_a_new_file(tmp_path: Path) -> None:
    """Nobody has to name the file, and those that came with the project are still there."""
    copytree(PROJECT / "app" / "evals" / "evaluators", tmp_path / "evaluators")
    (tmp_path / "evaluators" / "manners.py").write_text(NEW_ONE, "utf-8")
    ours = f"import app.evals; app.evals.__path__.insert(0, {str(tmp_path)!r}); "
    names = ours + "from app.evals.evaluators import EVALUATORS; print(*EVALUATORS)"
    done = subprocess.run([sys.executable, "-c", names], cwd=PROJECT, check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {"is_polite", *EVALUATORS}
