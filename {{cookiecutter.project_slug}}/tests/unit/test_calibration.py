"""Calibration: the figures by hand, what the intervals are worth, and who may gate."""

import json
import re
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.evals.statistics import Interval
from app.judging.calibration import (
    LEAST_OF_EACH,
    Calibration,
    Label,
    Rated,
    advisory,
    agreement,
    corrected,
    disagreements,
    kappa,
    kappa_interval,
    load_labels,
    read_calibrations,
    tabulate,
    write_calibration,
)
from app.judging.judges import JUDGES, Verdict

GROUNDEDNESS, CORRECTNESS = JUDGES["groundedness"], JUDGES["correctness"]
MODEL = "openai/a-judge"
TABLES = st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=3, max_size=3).map(np.array)


def rated(person: bool, judge: bool, grade: int | None = None, question: str = "Why?") -> Rated:  # noqa: FBT001  # a pair
    """An answer with two opinions."""
    label = Label(question=question, answer="So.", label="pass" if person else "fail", grade=grade)
    return Rated(label, Verdict(reason="Because.", passed=judge))


def confused(right_fails: int, wrong_passes: int, wrong_fails: int, right_passes: int) -> list[Rated]:
    """So many of each."""
    counts = {(False, False): right_fails, (False, True): wrong_passes}
    counts |= {(True, False): wrong_fails, (True, True): right_passes}
    return [rated(*pair) for pair, count in counts.items() for _ in range(count)]


def test_kappa_by_hand() -> None:
    """Of 50, 35 agree, and 0.6 x 0.5 + 0.4 x 0.5 would by chance: (0.7 - 0.5) / 0.5."""
    assert kappa(np.array([[20, 10], [5, 15]])) == pytest.approx(0.4)


def test_weighted_kappa_by_hand() -> None:
    """Two ratings out of ten are a step off and one is two steps, against what the margins give.

    Rows and columns are 3, 4, 3: by chance 4.8 are a step off and 1.8 two. Linear: 1 - 4 / 8.4; quadratic: 1 - 6 / 12.
    """
    table = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 2]])
    assert kappa(table) == pytest.approx(1 - 3 / 6.6)
    assert kappa(table, 1) == pytest.approx(1 - 4 / 8.4)
    assert kappa(table, 2) == pytest.approx(1 - 6 / 12)


def test_kappa_knows_the_judge_who_passes_everything() -> None:
    """Nine of ten agree, and chance would do as well."""
    assert kappa(np.array([[0, 10], [0, 90]])) == pytest.approx(0)


def test_kappa_of_one_and_the_same_rating_is_no_number() -> None:
    """Nothing can be learned from it, and no warning is given."""
    assert np.isnan(kappa(np.array([[0, 0], [0, 5]])))


@given(TABLES, st.sampled_from([0, 1, 2]))
def test_kappa_is_at_most_one_and_the_same_for_both_sides(table: Any, power: int) -> None:
    """It is one just where nothing lies off the diagonal, and it does not matter who is who."""
    found = kappa(table, power) if table.sum() else np.array(np.nan)
    if not np.isnan(found):
        assert found == pytest.approx(kappa(table.T, power), abs=1e-12)
        assert found <= 1 + 1e-12
        assert (found == pytest.approx(1)) == (table.sum() == np.trace(table))


@given(TABLES)
def test_tables_are_taken_many_at_once(table: Any) -> None:
    """Each as if it were alone."""
    table = table + 1
    both = kappa(np.array([table, table.T + 1]), 2)
    assert both.tolist() == pytest.approx([float(kappa(table, 2)), float(kappa(table.T + 1, 2))])


def test_weights_make_no_difference_with_two_ratings() -> None:
    """There is one way to be apart."""
    table = np.array([[20, 10], [5, 15]])
    assert kappa(table, 1) == kappa(table, 2) == kappa(table)


def test_the_interval_holds_the_true_kappa_in_about_95_of_100_label_sets() -> None:
    """200 sets of 100 labels from a judge whose kappa is known."""
    truth = np.array([[0.3, 0.1], [0.1, 0.5]])
    sets = np.random.default_rng(5).multinomial(100, truth.ravel(), 200).reshape(-1, 2, 2)
    found = [kappa_interval(table) for table in sets]
    assert 0.9 <= np.mean([one.low <= kappa(truth) <= one.high for one in found]) <= 0.99


def test_more_labels_make_the_interval_narrower() -> None:
    """Four times as many halve it."""
    widths = [(one := kappa_interval(np.array([[8, 2], [2, 8]]) * factor)).high - one.low for factor in (1, 4, 16)]
    for few, many in pairwise(widths):
        assert many == pytest.approx(few / 2, rel=0.15)


def test_agreement_by_hand() -> None:
    """Every measure has its estimate and its interval; Wilson's where it is a share."""
    found = agreement(confused(20, 10, 5, 15))
    assert list(found) == ["Cohen's kappa", "true positive rate", "true negative rate", "raw agreement"]
    assert {name: round(one.mean, 12) for name, one in found.items()} == {
        "Cohen's kappa": 0.4,
        "true positive rate": 0.75,
        "true negative rate": round(2 / 3, 12),
        "raw agreement": 0.7,
    }
    wilson = found["true negative rate"]  # of 20 in 30: (20 / 30 + 1.96**2 / 60 -+ 0.1804) / (1 + 1.96**2 / 30)
    assert (wilson.low, wilson.high) == pytest.approx((0.4878, 0.8077), abs=1e-4)
    assert all(one.low < one.mean < one.high for one in found.values())


def test_weighted_kappa_comes_with_grades() -> None:
    """A pass is the best grade and a fail the worst: to be far from the person's grade counts more."""
    near = [rated(True, True, 3), rated(False, False, 0), rated(True, False, 1), rated(False, False, 0)]  # noqa: FBT003  # as below
    far = [rated(True, True, 3), rated(False, False, 0), rated(True, False, 3), rated(False, False, 0)]  # noqa: FBT003  # person, judge
    one, other = agreement(near), agreement(far)
    assert one["Cohen's kappa"] == other["Cohen's kappa"]
    for name in ("linearly weighted kappa", "quadratically weighted kappa"):
        assert one[name].mean > other[name].mean
    # Grades 3 0 1 0 against 3 0 0 0 are one step off; by chance (3 x 2 x 1 + 1 x 3 + 2 x 1 + 3 x 3) / 4 = 5 steps.
    assert one["linearly weighted kappa"].mean == pytest.approx(1 - 1 / 5)


@pytest.mark.parametrize("grade", [None, 2])
def test_grades_that_are_all_alike_are_no_scale(grade: int | None) -> None:
    """There is nothing to weigh."""
    assert len(agreement([rated(True, True, grade), rated(False, False, grade)])) == 4  # noqa: FBT003  # person, judge


@pytest.mark.parametrize("kind", [True, False])
def test_labels_of_one_kind_tell_nothing(*, kind: bool) -> None:
    """Rates over nobody are not made up."""
    with pytest.raises(InvalidInput, match="labels of both kinds"):
        agreement([rated(kind, True), rated(kind, False)])  # noqa: FBT003  # person, judge


def test_the_worst_disagreements_come_first() -> None:
    """What the judge let through, the lowest grade first; then what it held back, the highest first."""
    found = disagreements(
        [
            *(rated(True, True, 3), rated(True, False, 2, "held back"), rated(True, False, 3, "held back, good")),  # noqa: FBT003  # person, judge
            *(rated(False, True, 1, "let through"), rated(False, True, 0, "let through, bad")),  # noqa: FBT003  # person, judge
            rated(False, False, 0),  # noqa: FBT003  # person, judge
        ]
    )
    expected = ["let through, bad", "let through", "held back, good", "held back"]
    assert [one.label.question for one in found] == expected


def test_rogan_gladen_by_hand() -> None:
    """80 of 100 pass; nine of ten passes are found and eight of ten fails: (0.8 + 0.8 - 1) / (0.9 + 0.8 - 1)."""
    passed = {str(n): [float(n < 80)] for n in range(100)}
    found = corrected(passed, [[80, 20], [10, 90]])
    assert found
    assert found.mean == pytest.approx(0.6 / 0.7)
    assert 0.7 < found.low < found.mean < found.high <= 1


def test_the_correction_is_a_share() -> None:
    """A judge that passes fewer than its errors alone would leaves nothing, and not less."""
    found = corrected({str(n): [float(n < 5)] for n in range(100)}, [[80, 20], [10, 90]])
    assert found
    assert (found.mean, found.low) == (0, 0)


def test_the_correction_holds_the_truth_in_about_95_of_100_cases() -> None:
    """Both the labels and the run are samples, and the interval knows it."""
    draw, held = np.random.default_rng(3), 0
    for _ in range(100):
        fails, passes = draw.multinomial(50, [0.8, 0.2]), draw.multinomial(50, [0.1, 0.9])
        truth = draw.random(200) < 0.7
        judged = np.where(truth, draw.random(200) < 0.9, draw.random(200) < 0.2)
        found = corrected({str(n): [float(one)] for n, one in enumerate(judged)}, [fails.tolist(), passes.tolist()])
        held += bool(found and found.low <= 0.7 <= found.high)
    assert 89 <= held <= 100


def test_repeated_cases_count_once() -> None:
    """A case that was tried many times weighs as much as any other."""
    found = corrected({"a": [1.0, 0.0], "b": [0.0] * 9}, [[50, 0], [0, 50]])
    assert found
    assert found.mean == 0.25


def test_few_labels_of_one_kind_leave_an_interval() -> None:
    """A draw without any of them tells nothing, and is left out."""
    found = corrected({"a": [1.0], "b": [0.0]}, [[3, 0], [0, 50]])
    assert found
    assert (found.low, found.mean, found.high) == (0, 0.5, 1)


@pytest.mark.parametrize("confusion", [[[10, 10], [10, 10]], [[3, 2], [2, 3]], [[2, 8], [8, 2]]])
def test_a_coin_corrects_nothing(confusion: list[list[int]]) -> None:
    """Where the judge may tell nothing, no number is better than a wild one."""
    assert corrected({"a": [1.0], "b": [0.0]}, confusion) is None


def line(**given: Any) -> str:
    """A line of a file of labels."""
    return json.dumps(
        {"question": "Why?", "answer": "So.", "label": "pass", "passages": [{"text": "It is so."}]} | given
    )


def test_labels_are_read_with_their_split(tmp_path: Path) -> None:
    """A line without a split belongs to the gate; a blank line is none."""
    path = tmp_path / "labels.jsonl"
    lines = [line(), "", line(question="How?", split="tune", grade=3), line(question="Who?", split="gate")]
    path.write_text("\n".join(lines))
    assert [label.question for label in load_labels(path, GROUNDEDNESS, "gate")] == ["Why?", "Who?"]
    assert [label.grade for label in load_labels(path, GROUNDEDNESS, "tune")] == [3]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (line(label="maybe"), r"2: label: Input should be 'pass' or 'fail'"),
        (line(answer=""), r"2: answer: "),
        (line(grade=11), r"2: grade: "),
        (line(lable="pass"), r"2: lable: "),
        (line(passages=[]), r"2: the judge groundedness is shown the passages, and there is none"),
        (line(passages=["text"]), r"2: passages.0: "),
        (line(), r"2: .*'Why\?'.* line 1"),
        ("{", r"2: .*JSON"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, wrong: str, said: str) -> None:
    """With its number, and with what is wrong."""
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{line()}\n{wrong}\n")
    with pytest.raises(InvalidInput, match=rf"labels\.jsonl:{said}"):
        load_labels(path, GROUNDEDNESS, "gate")


def test_a_judge_asks_for_what_it_is_shown(tmp_path: Path) -> None:
    """Correctness needs a reference and no passages."""
    path = tmp_path / "labels.jsonl"
    path.write_text(line(passages=[], reference="So."))
    assert load_labels(path, CORRECTNESS, "gate")
    path.write_text(line())
    with pytest.raises(InvalidInput, match="correctness is shown the reference"):
        load_labels(path, CORRECTNESS, "gate")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(InvalidInput, match=r"none\.jsonl cannot be read"):
        load_labels(tmp_path / "none.jsonl", GROUNDEDNESS, "gate")


@pytest.mark.parametrize("reference", ["", "The reference."])
def test_a_label_is_judged_as_a_case_of_a_run(reference: str) -> None:
    """Question, answer, reference, and passages with all that the model saw of them."""
    label = Label.model_validate_json(
        line(reference=reference, passages=[{"text": "T", "source": "s.md", "heading": "H", "page": 4}])
    )
    case, answer = label.as_case()
    assert (case.question, case.reference, answer.text, answer.abstained) == ("Why?", reference, "So.", False)
    [passage] = answer.passages
    assert (passage.text, passage.source, passage.heading, passage.page) == ("T", "s.md", "H", 4)
    assert passage.use == "read"


def found(**given: Any) -> Calibration:
    """A calibration that lets the judge gate."""
    made: dict[str, Any] = {
        "model": MODEL,
        "prompt_hash": GROUNDEDNESS.prompt_hash,
        "labels": "labels.jsonl",
        "labels_hash": "0" * 64,
        "n": 100,
        "unjudged": 0,
        "confusion": ((36, 4), (6, 54)),
        "kappa": Interval(0.79, 0.66, 0.91),
        "date": date(2026, 1, 2),
    }
    return Calibration(**made | given)


def doubts(path: Path, *metrics: str, model: str = MODEL) -> dict[str, str]:
    """Why these may not gate."""
    return advisory(metrics or ("judge:groundedness",), model, path)


def test_a_judge_that_agrees_with_people_may_gate(tmp_path: Path) -> None:
    """And nothing is said of metrics that are no judge's."""
    path = tmp_path / "calibration.json"
    write_calibration("groundedness", found(), path)
    assert doubts(path, "judge:groundedness", "recall@5", "answered") == {}


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({"model": "openai/other"}, "calibrated with openai/other, and is openai/a-judge now"),
        ({"prompt_hash": "other"}, "another prompt"),
        ({"confusion": ((LEAST_OF_EACH - 1, 0), (0, 90))}, "90 passes and 19 fails: label at least 20 of each"),
        ({"confusion": ((90, 0), (0, LEAST_OF_EACH - 1))}, "19 passes and 90 fails"),
        ({"kappa": Interval(0.6, 0.4, 0.8)}, r"kappa is 0\.60, from 0\.40 to 0\.80, .* above 0\.4"),
    ],
)
def test_a_judge_in_doubt_may_only_advise(tmp_path: Path, given_: dict[str, Any], why: str) -> None:
    """The reason says what to do."""
    path = tmp_path / "calibration.json"
    write_calibration("groundedness", found(**given_), path)
    [(metric, said)] = doubts(path).items()
    assert metric == "judge:groundedness"
    assert re.search(why, said)


def test_just_enough_is_enough(tmp_path: Path) -> None:
    """Twenty of each kind, and an interval that begins above the bar."""
    path = tmp_path / "calibration.json"
    enough = found(confusion=((LEAST_OF_EACH, 0), (0, LEAST_OF_EACH)), kappa=Interval(0.6, 0.401, 0.8))
    write_calibration("groundedness", enough, path)
    assert doubts(path) == {}


@pytest.mark.parametrize("name", ["correctness", "of-long-ago"])
def test_a_judge_that_nobody_calibrated_may_only_advise(tmp_path: Path, name: str) -> None:
    """Also without a file, and where the judge itself is gone; the command is named."""
    path = tmp_path / "calibration.json"
    assert f"app calibrate LABELS --judge {name}" in doubts(path, f"judge:{name}")[f"judge:{name}"]
    write_calibration("of-long-ago", found(), path)
    assert "never calibrated" in doubts(path, f"judge:{name}")[f"judge:{name}"]


def test_calibrations_of_several_judges_stand_together(tmp_path: Path) -> None:
    """Sorted, each with its newest, in lines that a reviewer can read."""
    path = tmp_path / "evals" / "calibration.json"
    write_calibration("safety", found(n=1), path)
    write_calibration("groundedness", found(), path)
    write_calibration("safety", found(n=2), path)
    assert {name: one.n for name, one in read_calibrations(path).items()} == {"groundedness": 100, "safety": 2}
    assert list(json.loads(path.read_text())) == ["groundedness", "safety"]
    assert '"date": "2026-01-02"' in path.read_text()
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("text", ["", "[]", '{"groundedness": {"n": 1}}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    """It is neither read as nothing nor written over."""
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="app calibrate"):
        doubts(path)
    with pytest.raises(InvalidInput, match="app calibrate"):
        write_calibration("groundedness", found(), path)
    assert path.read_text() == text


@hypothesis_settings(max_examples=20)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.none() | st.integers(0, 10)), min_size=1, max_size=30))
def test_any_labels_give_figures_or_a_sentence(given_: list[tuple[bool, bool, int | None]]) -> None:
    """No measure is a NaN, and each lies in its interval; the table counts every pair."""
    given_rated = [rated(*one) for one in given_]
    assert tabulate(one.pair for one in given_rated).sum() == len(given_)
    try:
        measures = agreement(given_rated)
    except InvalidInput:
        assert len({person for person, _, _ in given_}) == 1
        return
    for one in measures.values():
        assert one.low <= one.mean + 1e-9
        assert one.mean <= one.high + 1e-9
