"""`app calibrate` through `main()`: labels in, figures out, and a file that says who may gate."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.evals.runs import CaseResult, Configuration, Run, write_run
from app.judging.calibration import advisory, read_calibrations
from app.judging.judges import JUDGES
from app.prompts.loader import all_hashes
from tests.integration.conftest import Command, Ended
from tests.integration.test_judges import CASE
from tests.provider import Behaviour, Call, Provider, Rejected, Reply, ServerError

JUDGE = "openai/a-judge"
LABELS = Path("labels.jsonl")
CALIBRATION = Path("evals/calibration.json")


@pytest.fixture(autouse=True)
def judge_model(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that passes each answer with `good` in it, and breaks over each with `broken`."""
    for name, value in {"MODEL": JUDGE, "API_BASE": provider.url, "JSON_SCHEMA": "true"}.items():
        monkeypatch.setenv(f"JUDGE_{name}", value)
    monkeypatch.setenv("MAX_ATTEMPTS", "1")
    monkeypatch.setenv("MAX_REPAIRS", "0")
    provider.always(rule)


def rule(call: Call) -> Behaviour:
    """What the judge says."""
    shown = call.body["messages"][1]["content"]
    said = {"reason": f"It {'is' if 'good' in shown else 'is not'} good.", "passed": "good" in shown}
    return Rejected() if "broken" in shown else Reply(json.dumps(said))


def label(text: str, *, passed: bool, **more: Any) -> dict[str, Any]:
    """An answer and what a person says of it."""
    shown = {"question": "Why?", "answer": text, "passages": [{"text": "Because."}]}
    return shown | {"label": "pass" if passed else "fail"} | more


def write(*labels: dict[str, Any]) -> None:
    """A file of labels."""
    LABELS.write_text("".join(f"{json.dumps(one)}\n" for one in labels))


def many(count: int = 25, **more: Any) -> list[dict[str, Any]]:
    """So many of each kind, on which judge and people agree."""
    good = [label(f"good {n}", passed=True, **more) for n in range(count)]
    return good + [label(f"bad {n}", passed=False, **more) for n in range(count)]


def calibrate(app: Command, *options: str, judge: str = "groundedness") -> Ended:
    """Run the command."""
    return app("calibrate", str(LABELS), "--judge", judge, *options)


def test_a_judge_that_agrees_with_people_may_gate(app: Command) -> None:
    """The figures are shown with their sources, and kept with all that they hold for."""
    write(*many(20), label("good, so they say", passed=False))
    ended = calibrate(app)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == ("the judge groundedness may gate (kept in evals/calibration.json: commit it)")
    figures = {
        row[0].strip(): row[1:] for line in ended.out.splitlines() if len(row := line.strip("│").split("│")) == 3
    }
    assert {name: row[0].strip() for name, row in figures.items()} == {
        "Cohen's kappa": "0.95",
        "true positive rate": "1.00",
        "true negative rate": "0.95",
        "raw agreement": "0.98",
        "people: pass": "20",
        "people: fail": "1",
    }
    assert figures["true negative rate"][1].strip() == "0.77 to 0.99"
    for source in ("Cohen (1960", "Wilson (1927)", "Landis and Koch (1977)", "Rogan and Gladen (1978)"):
        assert source in ended.out
    found = read_calibrations(CALIBRATION)["groundedness"]
    assert (found.model, found.labels, found.n, found.unjudged) == (JUDGE, "labels.jsonl", 41, 0)
    assert (found.confusion, found.date) == (((20, 1), (0, 20)), datetime.now(UTC).date())
    assert advisory(["judge:groundedness"], JUDGE, CALIBRATION) == {}


def test_a_rerun_is_free(app: Command, provider: Provider) -> None:
    """And gives the same, to the byte."""
    write(*many(2))
    first, kept = calibrate(app), CALIBRATION.read_bytes()
    calls = provider.count.calls
    assert calls == 4
    assert calibrate(app) == first
    assert (provider.count.calls, CALIBRATION.read_bytes()) == (calls, kept)


def test_a_judge_that_disagrees_may_only_advise(app: Command) -> None:
    """The status is 1, and the worst disagreements come first, with what the judge said."""
    held_back = [label(f"odd {n}", passed=True) for n in range(9)]
    let_through = [label(f"good, [bold]they[/bold] say {n}", passed=False) for n in range(9)]
    write(*many(12), *held_back, *let_through)
    ended = calibrate(app)
    assert ended.status == 1
    assert "groundedness may advise, and not gate: kappa is 0.14, from " in ended.out.splitlines()[-1]
    blocks = ended.out.split("the judge passed it, and the person's label is fail")
    assert len(blocks) == 10
    assert blocks[0] == ""
    assert blocks[1].splitlines()[1:4] == [
        "  question Why?",
        "  answer good, [bold]they[/bold] say 0",
        "  judge It is good.",
    ]
    assert ended.out.count("the judge failed it, and the person's label is pass") == 1
    assert "18 disagreements, worst first, are in evals/reports/disagreements-groundedness.jsonl" in ended.out
    lines = Path("evals/reports/disagreements-groundedness.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert [one["label"] for one in written] == ["fail"] * 9 + ["pass"] * 9
    assert written[0]["judge"] == {"reason": "It is good.", "passed": True}
    assert written[0]["passages"][0]["text"] == "Because."
    assert "kappa is" in advisory(["judge:groundedness"], JUDGE, CALIBRATION)["judge:groundedness"]


def test_too_few_labels_prove_nothing(app: Command) -> None:
    """However well they agree."""
    write(*many(2))
    ended = calibrate(app)
    assert ended.status == 1
    assert "2 passes and 2 fails: label at least 20 of each" in ended.out


def test_grades_are_weighed(app: Command) -> None:
    """With them come two more figures, and a disagreement shows its grade."""
    graded = [one | {"grade": 4 if one["label"] == "pass" else 0} for one in many(5)]
    write(*graded, label("good, nearly", passed=False, grade=3))
    ended = calibrate(app)
    rows = [line.split("│")[1:3] for line in ended.out.splitlines() if "weighted kappa" in line]
    assert [(name.strip(), value.strip()) for name, value in rows] == [
        ("linearly weighted kappa", "0.95"),
        ("quadratically weighted kappa", "0.99"),
    ]
    assert "the judge passed it, and the person's label is fail, with grade 3" in ended.out


def test_the_split_that_a_prompt_was_tuned_on_is_not_kept(app: Command, provider: Provider) -> None:
    """It is shown only, and the other split is not judged."""
    write(*many(3, split="tune"), label("good, other", passed=True), label("bad, other", passed=False))
    ended = calibrate(app, "--split", "tune")
    assert "6 answers" in ended.out
    assert ended.out.splitlines()[-1].endswith("(not kept: it is the tune split)")
    assert not CALIBRATION.exists()
    assert provider.count.calls == 6


def test_what_cannot_be_judged_is_in_no_figure(app: Command, provider: Provider) -> None:
    """It is counted, its reason is told, and only it is asked for again."""
    write(*many(2), label("broken", passed=False), label("broken too", passed=True))
    ended = calibrate(app)
    assert "2 answers got no verdict and are in no figure: " in ended.out
    found = read_calibrations(CALIBRATION)["groundedness"]
    assert (found.n, found.unjudged, found.confusion) == (4, 2, ((2, 0), (0, 2)))
    calibrate(app)
    assert provider.count.calls == 6 + 2


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [(Reply("Fine."), "no valid Verdict"), (Rejected(401, "wrong"), "JUDGE_API_KEY"), (ServerError(), "500")],
)
def test_without_a_single_verdict_there_is_nothing_to_show(
    app: Command, provider: Provider, behaviour: Behaviour, said: str
) -> None:
    """The error ends with 2 and says why; nothing is kept, and a key that is wrong is not tried thirty times."""
    write(*many(15))
    provider.always(behaviour)
    ended = calibrate(app)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert not CALIBRATION.exists()
    assert isinstance(behaviour, Reply) or provider.count.calls <= 16


def test_labels_of_one_kind_are_refused(app: Command) -> None:
    """A judge that passes everything would look perfect."""
    write(*many(2)[:2])
    ended = calibrate(app)
    assert (ended.status, ended.out) == (2, "")
    assert "labels of both kinds" in ended.err
    assert not CALIBRATION.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--judge", "kindness"), "--judge is 'kindness'; it can be groundedness, correctness, helpfulness, safety"),
        (("--split", "all"), "--split is 'all'; it can be tune or gate"),
        (("--judge", "correctness"), "labels.jsonl:1: the judge correctness is shown the reference, and there is none"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_paid(
    app: Command, provider: Provider, options: tuple[str, ...], said: str
) -> None:
    """One line, and status 2."""
    write(label("good", passed=True))
    ended = calibrate(app, *options)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert provider.count.calls == 0


@pytest.mark.parametrize(
    ("model", "said"), [("", "no model plays the role judge: set JUDGE_MODEL"), ("offline/extractive", "cannot judge")]
)
def test_without_a_judge_it_is_said_what_to_set(
    app: Command, monkeypatch: pytest.MonkeyPatch, model: str, said: str
) -> None:
    """Offline nobody can judge."""
    for name in ("MODEL", "API_BASE", "JSON_SCHEMA"):
        monkeypatch.delenv(f"JUDGE_{name}")
    monkeypatch.setenv("JUDGE_MODEL", model)
    write(*many(1))
    ended = calibrate(app)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err


def stored(passed: int, judged: int, **given: Any) -> Path:
    """A run whose answers the judge passed so often."""
    made = Configuration("", "d", "h", "gate", "", "m", "e", JUDGE, {}, all_hashes(), "")
    results = [
        CaseResult(CASE.model_copy(update={"id": str(n)}), scores={"judge:groundedness": float(n < passed)})
        for n in range(judged)
    ]
    run = Run("id", "2026-01-01T00:00:00+00:00", replace(made, **given), tuple(results))
    write_run(run, Path("run.json"))
    return Path("run.json")


def test_a_runs_pass_rate_is_corrected(app: Command) -> None:
    """By the errors that the judge made on the labels, as Rogan and Gladen have it."""
    wrong = [label(f"good, so they say {n}", passed=False) for n in range(3)]
    write(*many(12), *wrong, *(label(f"odd {n}", passed=True) for n in range(3)))
    ended = calibrate(app, "--run", str(stored(60, 100)))
    [line] = [line for line in ended.out.splitlines() if line.startswith("passed in run.json")]
    assert line.startswith("passed in run.json: 60.0% by the judge; by people about 66.7%, ")
    low, high = (float(part.strip(" %")) for part in line.rpartition(", ")[2].split(" to "))
    assert low < 60
    assert high > 70


def test_a_coin_corrects_nothing(app: Command) -> None:
    """No number is shown that could be any."""
    write(*many(5), *(label(f"good, they say {n}", passed=False) for n in range(5)), label("odd", passed=True))
    ended = calibrate(app, "--run", str(stored(60, 100)))
    assert "60.0% by the judge; by people unknown: the judge may tell no more than a coin" in ended.out


@pytest.mark.parametrize(
    ("judged", "given", "said"),
    [
        (0, {}, "run.json holds no verdicts: run `app eval --judge groundedness`"),
        (9, {"judge_model": "openai/other"}, "run.json was judged by another model or prompt"),
        (9, {"prompts": all_hashes() | {JUDGES["groundedness"].prompt: "other"}}, "another model or prompt"),
    ],
)
def test_a_run_of_another_judge_is_not_corrected(app: Command, judged: int, given: dict[str, Any], said: str) -> None:
    """Its errors are not known."""
    write(*many(1))
    ended = calibrate(app, "--run", str(stored(0, judged, **given)))
    assert ended.status == 2
    assert said in ended.err
