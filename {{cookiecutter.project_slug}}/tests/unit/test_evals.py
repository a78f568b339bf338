"""Metrics against values computed by hand; datasets, thresholds and reports that say what is wrong with them."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from app.errors import InvalidInput
from app.evals import report
from app.evals.dataset import Case, Evidence, load_dataset
from app.evals.evaluators import METRICS, ranked_documents, score
from app.evals.gate import Decision, Thresholds, Verdict, decide, load_thresholds
from app.evals.runner import CaseResult, Run
from app.types import Answer, Citation, Passage, Usage

TEXTS = {"a.md": "Rivers run to the sea.", "b.md": "The sea is never full."}
ANSWERABLE = Case(
    id="1",
    split="gate",
    question="Where do rivers run?",
    answerable=True,
    relevant=("a.md", "b.md"),
    evidence=(Evidence(document="a.md", quote="to the sea"), Evidence(document="b.md", quote="never full")),
    reference="To the sea.",
)
UNANSWERABLE = Case(id="2", split="gate", question="Why?", answerable=False)
LINE = ANSWERABLE.model_dump_json()
DEMANDED = Thresholds(min_cases=2, max_error_rate=0.5, metrics={"answered": 0.5})


def passage(source: str, text: str = "") -> Passage:
    """A passage that retrieval found."""
    return Passage(1, source, "", "", 0, len(text), text, score=1.0, use="read")


def citation(source: str, quote: str, start: int) -> Citation:
    """A citation as an answer shows it."""
    return Citation(1, 1, source, "", "", quote, start, start + len(quote))


def answer(*passages: Passage, citations: tuple[Citation, ...] = (), abstained: bool = False) -> Answer:
    """What the pipeline gave."""
    return Answer(
        id="1",
        question="?",
        text="To the sea. [1]",
        abstained=abstained,
        model="offline/extractive",
        notice="",
        prompt_hash="p",
        usage=Usage(),
        cost_nanousd=0,
        latency_ms=1,
        citations=citations,
        passages=passages,
    )


def measured(name: str, case: Case, given: Answer) -> float | None:
    """One metric over the stored texts."""
    return METRICS[name](case, given, TEXTS)


def run_of(*results: CaseResult) -> Run:
    """A run with these results."""
    return Run("guide", "d", "offline/extractive", "offline/static", "p", results)


def result(case: Case, **scores: float) -> CaseResult:
    """A case that was answered."""
    return CaseResult(case, scores, answer(passage("a.md"), citations=(citation("a.md", "Rivers", 0),)))


def test_recall_counts_documents_among_the_first_five() -> None:
    """Several passages of one document are one; the sixth document is too late."""
    early = answer(*map(passage, ["a.md", "a.md", "a.md", "a.md", "a.md", "b.md"]))
    late = answer(*map(passage, ["1.md", "2.md", "a.md", "3.md", "4.md", "b.md"]))
    assert ranked_documents(early) == ["a.md", "b.md"]
    assert measured("recall@5", ANSWERABLE, early) == 1.0
    assert measured("recall@5", ANSWERABLE, late) == 0.5
    assert measured("recall@5", ANSWERABLE, answer()) == 0.0


def test_ndcg_discounts_by_rank() -> None:
    """Two relevant documents at ranks 1 and 3: (1 + 1/2) of (1 + 1/log2(3)); the eleventh rank counts nothing."""
    given = answer(*map(passage, ["b.md", "x.md", "a.md"]))
    assert measured("ndcg@10", ANSWERABLE, given) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert measured("ndcg@10", ANSWERABLE, answer(*map(passage, ["a.md", "b.md"]))) == 1.0
    behind = answer(*(passage(f"{n}.md") for n in range(10)), passage("a.md"))
    assert measured("ndcg@10", ANSWERABLE, behind) == 0.0


def test_evidence_recall_looks_into_every_passage_that_was_read() -> None:
    """The words count wherever the model could read them, whatever their typography, and nowhere else."""
    left_out = replace(passage("a.md", "Rivers run to the sea."), use="found")
    assert measured("evidence_recall", ANSWERABLE, answer(left_out)) == 0.0
    assert measured("evidence_recall", ANSWERABLE, answer(passage("a.md", "Rivers run *to the* sea."))) == 0.5
    both = answer(passage("x.md", "never full"), passage("x.md", "to\nthe sea"))
    assert measured("evidence_recall", ANSWERABLE, both) == 1.0
    assert measured("evidence_recall", ANSWERABLE, answer()) == 0.0


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
    assert measured("citation_validity", ANSWERABLE, answer(citations=(citation(source, quote, start),))) == valid


def test_answering_and_abstaining_are_scored_on_their_own_cases() -> None:
    """What does not apply is unmeasured, and not zero."""
    cited = answer(passage("a.md"), citations=(citation("b.md", "The sea", 0),))
    silent = answer(abstained=True)
    expected = {"recall@5": 0.5, "citation_validity": 1.0, "cites_relevant": 1.0, "answered": 1.0}
    assert expected.items() <= score(ANSWERABLE, cited, TEXTS).items()
    assert score(ANSWERABLE, silent, TEXTS).keys() == {"recall@5", "ndcg@10", "evidence_recall", "answered"}
    assert score(UNANSWERABLE, silent, TEXTS) == {"abstained": 1.0}
    assert score(UNANSWERABLE, cited, TEXTS) == {"abstained": 0.0, "citation_validity": 1.0}
    elsewhere = answer(citations=(citation("x.md", "The sea", 0),))
    assert measured("cites_relevant", ANSWERABLE, elsewhere) == 0.0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", r":3: case: Invalid JSON"),
        (b"\xff\xfe", r":3: case: Invalid JSON"),
        ("[]", r":3: case: Input should be an object"),
        (LINE, r":3: the id '1' is used twice"),
        (json.dumps({"id": "2"}), r":3: split: Field required"),
        (LINE.replace('"gate"', '"test"'), r":3: split: Input should be 'tune' or 'gate'"),
        (LINE.replace('"tags"', '"tagz"'), r":3: tagz: Extra inputs are not permitted"),
        (LINE.replace('"to the sea"', '""'), r":3: evidence.0.quote: String should have at least 1 character"),
        (LINE.replace('["a.md","b.md"]', '["a.md"]'), r":3: case: .*missing from relevant"),
        (LINE.replace('"To the sea."', '""'), r":3: case: .*needs relevant documents, evidence and a reference"),
        (LINE.replace("true", "false"), r":3: case: .*has no relevant documents and no evidence"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str | bytes, reason: str) -> None:
    """Blank lines are skipped and counted, so that the number is the editor's."""
    file = tmp_path / "cases.jsonl"
    file.write_bytes(f"{LINE}\n\n".encode() + (line.encode() if isinstance(line, str) else line) + b"\n")
    with pytest.raises(InvalidInput, match=reason):
        load_dataset(file)


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    """A folder is no dataset either."""
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InvalidInput, match=f"{path} cannot be read"):
            load_dataset(path)


def test_a_split_is_a_part_of_the_dataset_with_the_same_hash(tmp_path: Path) -> None:
    """The hash is of the file's bytes: it changes with any letter, and not with the split."""
    file = tmp_path / "cases.jsonl"
    file.write_text(LINE + "\n" + UNANSWERABLE.model_copy(update={"split": "tune"}).model_dump_json(), "utf-8")
    whole, gate, tune = (load_dataset(file, split) for split in (None, "gate", "tune"))
    assert [[case.id for case in part.cases] for part in (whole, gate, tune)] == [["1", "2"], ["1"], ["2"]]
    assert {part.content_hash for part in (whole, gate, tune)} == {hashlib.sha256(file.read_bytes()).hexdigest()}
    assert whole.cases[0] == ANSWERABLE
    assert whole.name == "cases"


def test_means_are_over_the_cases_that_a_metric_applies_to() -> None:
    """An error leaves a case without scores, and is not a zero."""
    run = run_of(
        result(ANSWERABLE, answered=1.0), result(UNANSWERABLE, abstained=0.0), CaseResult(ANSWERABLE, error="x")
    )
    assert run.means() == {"answered": 1.0, "abstained": 0.0}
    assert run.scores("answered") == [1.0]
    assert [failed.error for failed in run.errors] == ["x"]


def test_a_run_that_reaches_every_threshold_passes() -> None:
    """Reaching it exactly is enough, and an error that the thresholds allow is no reason to fail."""
    run = run_of(result(ANSWERABLE, answered=1.0), result(ANSWERABLE, answered=0.0))
    assert decide(run, DEMANDED) == Decision(Verdict.PASS)
    assert decide(run_of(*run.results, CaseResult(ANSWERABLE, error="x")), DEMANDED).verdict == 0


def test_a_run_below_a_threshold_is_worse() -> None:
    """The reason has the metric, what it is and what it should be."""
    run = run_of(result(ANSWERABLE, answered=0.25), result(ANSWERABLE, answered=0.5))
    assert decide(run, DEMANDED) == Decision(Verdict.WORSE, ("answered is 0.375, below 0.500",))
    assert decide(run, DEMANDED).verdict == 1


def test_what_cannot_be_judged_is_never_a_pass() -> None:
    """Too few cases, too many errors, and a metric that nothing was measured with, even where the rest is fine."""
    fine, failed = result(ANSWERABLE, answered=1.0), CaseResult(ANSWERABLE, error="the model failed")
    both = {"answered": 0.5, "abstained": 0.5}
    unmeasured = Thresholds(min_cases=2, max_error_rate=0.5, metrics=both)
    expected = {
        "0 cases; 2 are needed": (run_of(), DEMANDED),
        "1 cases; 2 are needed": (run_of(fine), DEMANDED),
        "2 of 3 cases ended in an error, the first (1) in: the model failed": (run_of(failed, fine, failed), DEMANDED),
        "abstained was measured on no case": (run_of(fine, fine), unmeasured),
    }
    for reason, (run, thresholds) in expected.items():
        decision = decide(run, thresholds)
        assert decision.verdict == 2
        assert decision.reasons[0] == reason


def test_thresholds_are_read_from_toml(tmp_path: Path) -> None:
    """The file says what a run needs, and nothing is filled in."""
    file = tmp_path / "thresholds.toml"
    file.write_text('min_cases = 2\nmax_error_rate = 0.5\n[metrics]\n"answered" = 0.5\n', "utf-8")
    assert load_thresholds(file) == DEMANDED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"min_cases =", "holds no valid thresholds"),
        (b"\xff", "holds no valid thresholds"),
        (b"min_cases = 1", "max_error_rate"),
        (b"min_cases = 0\nmax_error_rate = 0\n[metrics]", "min_cases"),
        (b"min_cases = 1\nmax_error_rate = 2\n[metrics]", "max_error_rate"),
        (b"min_cases = 1\nmax_error_rate = 0\nmax_cases = 2\n[metrics]", "max_cases"),
        (b"min_cases = 1\nmax_error_rate = 0\n[metrics]\nanswered = nan", "metrics.answered"),
        (b"min_cases = 1\nmax_error_rate = 0\n[metrics]\nanswered = 50", "metrics.answered"),
        (b"min_cases = 1\nmax_error_rate = 0\n[metrics]\nb = 1\na = 1", "unknown metrics: a, b"),
    ],
)
def test_wrong_thresholds_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """A slip in the file must not open the gate: a misspelt metric would never be checked."""
    file = tmp_path / "thresholds.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=reason):
        load_thresholds(file)


def test_missing_thresholds_are_refused(tmp_path: Path) -> None:
    """Without the file there is no gate."""
    with pytest.raises(InvalidInput, match=r"none\.toml holds no valid thresholds"):
        load_thresholds(tmp_path / "none.toml")


def test_a_report_is_written_for_people_and_for_machines(tmp_path: Path) -> None:
    """Markdown with the verdict and every metric; JSON with every case, also one that failed."""
    run = run_of(result(ANSWERABLE, answered=0.25), CaseResult(UNANSWERABLE, error="no model"))
    decision = decide(run, DEMANDED)
    summary = report.write(run, DEMANDED, decision, tmp_path / "new" / "folder").read_text("utf-8")
    assert summary.startswith("### guide, offline/extractive with offline/static: worse than the thresholds allow\n")
    assert "| answered | 0.250 | 0.500 | 1 |\n\n- answered is 0.250, below 0.500\n" in summary
    written = json.loads((tmp_path / "new" / "folder" / "latest.json").read_text("utf-8"))
    assert (written["verdict"], written["means"], written["dataset_hash"]) == ("worse", {"answered": 0.25}, "d")
    first, second = written["cases"]
    assert (first["answer"], first["retrieved"]) == ("To the sea. [1]", ["a.md"])
    assert (first["citations"][0]["quote"], first["scores"]) == ("Rivers", {"answered": 0.25})
    assert (second["answer"], second["error"], second["citations"]) == (None, "no model", [])


def test_the_table_marks_what_is_below_its_threshold() -> None:
    """By the exact mean: 0.4999 is shown as 0.500 and is below 0.5 all the same; without a threshold none is."""
    run = run_of(result(ANSWERABLE, answered=0.4999, abstained=0.0))
    console = Console(width=100, record=True, force_terminal=True, color_system="standard")
    with console.capture() as shown:
        console.print(report.table(run, DEMANDED))
    assert "\x1b[31m0.500\x1b[0m" in shown.get()
    assert "\x1b[31m0.000" not in shown.get()
    assert set(report.VERDICTS) == set(Verdict)
