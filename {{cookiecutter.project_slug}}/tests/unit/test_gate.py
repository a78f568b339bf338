"""The gate: what passes, what is worse, what cannot be judged; and the files that say so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import InvalidInput
from app.evals.dataset import Case
from app.evals.gate import (
    Baseline,
    Decision,
    Demand,
    Thresholds,
    Verdict,
    decide,
    load_thresholds,
    read_baseline,
    write_baseline,
)
from app.evals.runs import CaseResult, Configuration, Run
from app.evals.statistics import Change, compare
from tests.conftest import PROJECT

MADE_WITH = Configuration("", "guide", "hash", "gate", "docs", "offline/x", "offline/y", "", {}, {"answer": "p"}, "abc")
FLOOR = Thresholds(min_cases=2, max_error_rate=0.5, metrics={"answered": Demand(at_least=0.5)})
TESTED = Thresholds(min_cases=2, max_error_rate=0, metrics={"answered": Demand(margin=0.0)})


def case(id_: str) -> Case:
    """A case of which only the id matters."""
    return Case(id=id_, split="gate", question="?", answerable=False)


def run_of(*results: CaseResult) -> Run:
    """A run with these results."""
    return Run("1", "now", MADE_WITH, results)


def scored(metric: str, *scores: float, attempts: int = 1) -> Run:
    """A run in which each case has a score."""
    results = (
        CaseResult(case(f"{n:02}"), i, scores={metric: s}) for n, s in enumerate(scores) for i in range(attempts)
    )
    return run_of(*results)


def baseline_of(run: Run, *metrics: str) -> Baseline:
    """What the run's scores are as a baseline."""
    cases: dict[str, dict[str, list[float]]] = {result.case.id: {} for result in run.results}
    for metric in metrics:
        for id_, values in run.values(metric).items():
            cases[id_][metric] = values
    return Baseline(run.configuration, cases)


def thresholds_in(folder: Path, metrics: str, head: str = "min_cases = 1\nmax_error_rate = 0\n") -> Path:
    """A file with these metrics."""
    file = folder / "thresholds.toml"
    file.write_text(f"{head}[metrics]\n{metrics}\n", "utf-8")
    return file


def test_a_run_that_reaches_every_threshold_passes() -> None:
    """Reaching it exactly is enough, and an error that the thresholds allow is no reason to fail."""
    run = scored("answered", 1.0, 0.0)
    assert decide(run, FLOOR) == Decision(Verdict.PASS, thresholds=FLOOR)
    assert decide(run_of(run.results[0], CaseResult(case("x"), error="no model")), FLOOR).verdict == 0
    assert decide(run, FLOOR.model_copy(update={"metrics": {"latency_ms": Demand(at_most=1)}})).verdict == 2
    assert decide(scored("latency_ms", 900, 1_100), _latency(1_000)).verdict == 0


def _latency(most: float) -> Thresholds:
    return Thresholds(min_cases=1, max_error_rate=0, metrics={"latency_ms": Demand(at_most=most)})


def test_a_mean_beyond_its_threshold_is_worse() -> None:
    """The reason has the metric, what it is, what it should be, and what to do."""
    decision = decide(scored("answered", 0.25, 0.5), FLOOR)
    assert (decision.verdict, int(decision.verdict)) == (Verdict.WORSE, 1)
    [reason] = decision.reasons
    assert reason == "answered is 0.375, below 0.5. Read its worst cases; move the threshold only if that is meant."
    slow = decide(scored("latency_ms", 900, 1_101), _latency(1_000))
    assert slow.verdict is Verdict.WORSE
    assert slow.reasons[0].startswith("latency_ms is 1000, above 1000")  # rounded to be read, compared as it is


def test_a_repeated_case_counts_once() -> None:
    """Two cases of three attempts are two cases, and the mean is theirs."""
    run = scored("answered", 1.0, 0.0, attempts=3)
    assert decide(run, FLOOR).verdict is Verdict.PASS
    assert decide(run, FLOOR.model_copy(update={"min_cases": 3})).reasons[0].startswith("The run has 2 cases")


def test_what_cannot_be_judged_is_never_a_pass() -> None:
    """Too few cases, too many errors or failures, and a metric that nothing was measured with; each with its reason."""
    fine, failed = CaseResult(case("a"), scores={"answered": 1.0}), CaseResult(case("b"), error="the model failed")
    broken = CaseResult(case("c"), scores={"abstained": 1.0}, failed={"answered": "ZeroDivisionError: by zero"})
    expected = {
        "The run has 0 cases and min_cases is 2": run_of(),
        "The run has 1 cases": run_of(fine, replace(fine, attempt=1)),
        "2 of 3 attempts gave no answer, more than max_error_rate (0.5) allows. The first is case b: the model fa": (
            run_of(failed, fine, failed)
        ),
        "2 of 3 attempts could not be scored by answered, more than max_error_rate (0.5) allows. The first": (
            run_of(broken, fine, broken)
        ),
        "answered was measured on no case: add cases": run_of(*scored("abstained", 1.0, 1.0).results),
    }
    for reason, run in expected.items():
        decision = decide(run, FLOOR)
        assert (decision.verdict, int(decision.verdict)) == (Verdict.CANNOT_JUDGE, 2)
        assert decision.reasons[0].startswith(reason)
        assert (decision.comparisons, decision.thresholds) == ((), FLOOR)


def test_a_failure_of_what_does_not_gate_is_no_doubt() -> None:
    """An evaluator that nobody demands may break."""
    run = run_of(*(replace(result, failed={"token_f1": "x"}) for result in scored("answered", 1.0, 1.0).results))
    assert decide(run, FLOOR.model_copy(update={"max_error_rate": 0})).verdict is Verdict.PASS


def test_a_significant_loss_is_worse_and_its_cases_are_named() -> None:
    """The reason has before, after, effect, interval, p, the margin, and what to do."""
    before, after = scored("answered", *[1.0] * 20), scored("answered", *[0.0] * 8, *[1.0] * 12)
    decision = decide(after, TESTED, baseline_of(before, "answered"))
    assert decision.verdict is Verdict.WORSE
    assert decision.adjusted == {"answered": 1 / 256}
    [comparison] = decision.comparisons
    assert comparison.worse == tuple(Change(f"{n:02}", 1.0, 0.0) for n in range(8))
    assert " ".join(decision.reasons) == (
        "answered went from 1 to 0.6 over 20 cases, by -0.4 (-0.5835 to -0.1438; p 0.0039 after Holm), and the margin "
        "is 0. Look at the 8 cases that got worse; if that is meant, `app eval --save-baseline` writes a new one, to "
        "be reviewed."
    )


def test_the_same_scores_and_better_ones_pass() -> None:
    """A difference that chance could make is none either."""
    mixed = scored("answered", *[1.0, 0.0] * 10)
    for after in (mixed, scored("answered", *[1.0] * 20), scored("answered", 0.0, 0.0, 0.0, *[1.0, 0.0] * 8, 1.0)):
        decision = decide(after, TESTED, baseline_of(mixed, "answered"))
        assert (decision.verdict, decision.reasons) == (Verdict.PASS, ())
        assert len(decision.comparisons) == 1


def test_a_loss_within_the_margin_passes() -> None:
    """All cases lose 3 hundredths: more than a margin of 2, and no more than one of 5."""
    before, after = (scored("ndcg@10", *(n / 50 - loss for n in range(2, 42))) for loss in (0, 0.03))
    for margin, verdict in ((0.0, Verdict.WORSE), (0.02, Verdict.WORSE), (0.05, Verdict.PASS)):
        thresholds = TESTED.model_copy(update={"metrics": {"ndcg@10": Demand(margin=margin)}})
        decision = decide(after, thresholds, baseline_of(before, "ndcg@10"))
        assert decision.verdict is verdict
        assert all(f"the margin is {margin:g}." in reason for reason in decision.reasons)


def test_each_metric_is_compared_as_it_is_meant() -> None:
    """Less time is better; what is 0 or 1 gets McNemar's test, a judge's verdict too; the rest the bootstrap."""
    ones, fewer = [1.0] * 20, [0.0] * 6 + [1.0] * 14
    demanded = {name: Demand(margin=0.0) for name in ("latency_ms", "answered", "judge:groundedness", "ndcg@10")}
    before, after = (
        run_of(*(CaseResult(case(f"{n:02}"), scores=dict.fromkeys(demanded, s)) for n, s in enumerate(scores)))
        for scores in (ones, fewer)
    )
    decision = decide(after, TESTED.model_copy(update={"metrics": demanded}), baseline_of(before, *demanded))
    p = {comparison.metric: comparison.p for comparison in decision.comparisons}
    assert p["latency_ms"] > 0.99
    assert p["answered"] == p["judge:groundedness"] == 1 / 64
    assert p["ndcg@10"] != 1 / 64
    assert all(adjusted >= p[metric] for metric, adjusted in decision.adjusted.items())


@pytest.mark.parametrize(("margin", "tested", "verdict"), [(None, 1, Verdict.WORSE), (0.0, 2, Verdict.PASS)])
def test_several_tested_metrics_make_each_test_stricter(margin: float | None, tested: int, verdict: Verdict) -> None:
    """Five of five changed cases are enough for one tested metric, and not for two; what has no margin is no test."""
    before, after = (
        run_of(*(CaseResult(case(f"{n:02}"), scores={"answered": s, "abstained": 1.0}) for n, s in enumerate(scores)))
        for scores in ([1.0] * 25, [0.0] * 5 + [1.0] * 20)
    )
    demanded = {"answered": Demand(margin=0.0), "abstained": Demand(at_least=0.1, margin=margin)}
    decision = decide(
        after, TESTED.model_copy(update={"metrics": demanded}), baseline_of(before, "answered", "abstained")
    )
    assert decision.verdict is verdict
    assert [comparison.metric for comparison in decision.comparisons] == ["answered", "abstained"]
    assert len(decision.adjusted) == tested
    expected = compare("answered", after.values("answered"), before.values("answered"), alpha=0.05 / tested)
    assert decision.comparisons[0].detectable == expected.detectable


def test_a_metric_that_is_new_is_compared_when_the_baseline_has_it() -> None:
    """Until then its floor holds it, if nothing demands the test."""
    run = scored("answered", 1.0, 0.0)
    decision = decide(run, FLOOR, baseline_of(run))
    assert (decision.verdict, decision.comparisons) == (Verdict.PASS, ())


def test_an_advisory_metric_decides_nothing() -> None:
    """Not by its mean, not by its loss, not by being unmeasured; the decision says why."""
    why = {"judge:safety": "it was never compared with people"}
    both = {"answered": Demand(at_least=0.5), "judge:safety": Demand(at_least=0.9, margin=0.0)}
    thresholds = FLOOR.model_copy(update={"metrics": both})
    plain = scored("answered", *[1.0] * 20)
    bad, good = (
        run_of(*(replace(r, scores={**r.scores, "judge:safety": score}) for r in plain.results)) for score in (0.0, 1.0)
    )
    assert decide(bad, thresholds, baseline_of(good, *both)).verdict is Verdict.WORSE
    decision = decide(bad, thresholds, baseline_of(good, *both), why)
    assert (decision.verdict, decision.reasons, decision.advisory, decision.adjusted) == (Verdict.PASS, (), why, {})
    assert [comparison.metric for comparison in decision.comparisons] == ["answered", "judge:safety"]
    assert decide(plain, thresholds, advisory=why).verdict is Verdict.PASS
    assert decide(plain, thresholds).verdict is Verdict.CANNOT_JUDGE


def test_a_run_is_compared_with_its_own_dataset_only() -> None:
    """Another dataset, split or set of cases, or no baseline at all: no verdict, and the command for a new one."""
    run = scored("answered", 1.0, 0.0)
    same = baseline_of(run, "answered")
    fewer = replace(same, cases={"00": same.cases["00"]})
    expected = {
        "The dataset guide is not as it was": replace(same, configuration=replace(MADE_WITH, dataset_hash="other")),
        "The baseline is of the split tune": replace(same, configuration=replace(MADE_WITH, split="tune")),
        "1 cases, such as 01, are not both": fewer,
        "3 cases, such as 00, are not both": replace(fewer, cases={"99": same.cases["00"]}),
        "The baseline measured answered on none of the cases": replace(same, cases={"00": {}, "01": {}}),
        "There is no baseline to compare answered with": None,
    }
    for reason, baseline in expected.items():
        decision = decide(run, TESTED, baseline)
        assert decision.verdict is Verdict.CANNOT_JUDGE
        [said] = decision.reasons
        assert said.startswith(reason)
        assert "`app eval --save-baseline`" in said


def test_what_changed_since_the_baseline_is_what_the_gate_is_for() -> None:
    """Another model, prompt, setting, corpus or revision is compared."""
    run = scored("answered", 1.0, 0.0)
    theirs = replace(MADE_WITH, prompts={"answer": "q"}, settings={"CANDIDATES": "9"}, repeats=2, name="f")
    theirs = replace(theirs, chat_model="b", embedding_model="c", documents_hash="d", revision="e")
    assert decide(run, TESTED, replace(baseline_of(run, "answered"), configuration=theirs)).verdict is Verdict.PASS


def test_a_baseline_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """In order and one case a line, with the demanded metrics only, and with the cases that have no score."""
    file = tmp_path / "new" / "baseline.json"
    results = [
        CaseResult(case("zwölf"), scores={"answered": 1.0, "token_f1": 0.5}),
        CaseResult(case("zwölf"), 1, scores={"answered": 0.0}),
        CaseResult(case('a "b"'), error="no model"),
        CaseResult(case("c"), scores={"answered": 1 / 3}),
    ]
    run = run_of(*results)
    write_baseline(run, FLOOR, file)
    assert read_baseline(file) == baseline_of(run, "answered")
    assert read_baseline(file).values("answered") == run.values("answered")
    text = file.read_text("utf-8")
    assert text.partition('"cases": {\n')[2].splitlines() == [
        '"a \\"b\\"": {},',
        '"c": {"answered": [0.3333333333333333]},',
        '"zwölf": {"answered": [1.0, 0.0]}',
        "} }",
    ]
    assert list(json.loads(text)["cases"]) == ['a "b"', "c", "zwölf"]
    write_baseline(run_of(*reversed(results)), FLOOR, file)
    assert file.read_text("utf-8").replace("[0.0, 1.0]", "[1.0, 0.0]") == text


def test_a_run_that_cannot_be_judged_is_no_baseline(tmp_path: Path) -> None:
    """Nothing is written; a judge that did not run is no obstacle."""
    file = tmp_path / "baseline.json"
    with pytest.raises(InvalidInput, match=r"this run can be no baseline\. The run has 1 cases"):
        write_baseline(scored("answered", 1.0), FLOOR, file)
    assert not file.exists()
    more = FLOOR.metrics | {"judge:safety": Demand(margin=0.0)}
    write_baseline(scored("answered", 1.0, 1.0), FLOOR.model_copy(update={"metrics": more}), file)
    assert read_baseline(file).cases["00"] == {"answered": [1.0]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Invalid JSON"),
        ("{}", "configuration: "),
        ('{"configuration": CONFIGURATION, "cases": []}', "cases: "),
        ('{"configuration": CONFIGURATION, "cases": {"a": {"answered": []}}}', r"cases\.a\.answered: "),
        ('{"configuration": CONFIGURATION, "cases": {"a": {"answered": [NaN]}}}', r"cases\.a\.answered\.0: "),
    ],
)
def test_a_wrong_baseline_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    """With the place and the way to a new one."""
    file = tmp_path / "baseline.json"
    write_baseline(scored("answered", 1.0, 1.0), FLOOR, file)
    configuration = json.dumps(json.loads(file.read_text("utf-8"))["configuration"])
    file.write_text(content.replace("CONFIGURATION", configuration), "utf-8")
    with pytest.raises(InvalidInput, match=rf"baseline\.json holds no baseline: .*{reason}.*app eval --save-baseline"):
        read_baseline(file)


def test_a_missing_baseline_is_named(tmp_path: Path) -> None:
    """A folder is no baseline either."""
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(InvalidInput, match=f"{path} holds no baseline"):
            read_baseline(path)


def test_thresholds_are_read_from_toml(tmp_path: Path) -> None:
    """A table or an inline table for each metric; a judge is a metric."""
    file = thresholds_in(
        tmp_path,
        '"recall@5" = { at_least = 0.8, margin = 0.1 }\nlatency_ms.at_most = 900\n[metrics."judge:safety"]\nmargin = 0',
        "min_cases = 2\nmax_error_rate = 0.5\nalpha = 0.01\n",
    )
    demanded = {"recall@5": Demand(at_least=0.8, margin=0.1), "latency_ms": Demand(at_most=900)}
    expected = Thresholds(
        min_cases=2, max_error_rate=0.5, alpha=0.01, metrics=demanded | {"judge:safety": Demand(margin=0)}
    )
    assert load_thresholds(file) == expected
    assert load_thresholds(thresholds_in(tmp_path, "answered.margin = 0")).alpha == 0.05


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"min_cases =", "holds no valid thresholds: Invalid value"),
        (b"\xff", "holds no valid thresholds: 'utf-8' codec"),
        (b"min_cases = 1\n[metrics]", "max_error_rate: Field required"),
        (b"min_cases = 0\nmax_error_rate = 0\n[metrics]", "min_cases: "),
        (b"min_cases = 1\nmax_error_rate = 2\n[metrics]", "max_error_rate: "),
        (b"min_cases = 1\nmax_error_rate = 0\nalpha = 0\n[metrics]", "alpha: "),
        (b"min_cases = 1\nmax_error_rate = 0\nalpha = 1\n[metrics]", "alpha: "),
        (b"min_cases = 1\nmax_error_rate = 0\nmax_cases = 2\n[metrics.answered]\nmargin=0", "max_cases: "),
    ],
)
def test_wrong_thresholds_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """A slip in the file must not open the gate."""
    file = tmp_path / "thresholds.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=rf"thresholds\.toml.*{reason}"):
        load_thresholds(file)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("answered = 0.5", "metrics.answered: "),
        ("answered = {}", "metrics.answered: Value error, give at_least, at_most or margin"),
        ("answered = { least = 1 }", "metrics.answered.least: "),
        ("answered = { margin = -0.1 }", "metrics.answered.margin: "),
        ("answered = { margin = inf }", "metrics.answered.margin: "),
        ("answered = { at_least = nan }", "metrics.answered.at_least: "),
        ("answered = { at_least = 50 }", "metrics.answered: it is a share"),
        ("answered = { at_least = -0.1 }", "metrics.answered: it is a share"),
        ("answered = { margin = 2 }", "metrics.answered: it is a share"),
        ("answered = { at_most = 1 }", "metrics.answered: more of it is better: give at_least"),
        ("latency_ms = { at_least = 1 }", "metrics.latency_ms: less of it is better: give at_most"),
        ("answred = { at_least = 1 }", "metrics.answred: there is no such metric; there are .*recall@5"),
        ('"judge:answred" = { at_least = 1 }', "metrics.judge:answred: there is no such metric"),
        ('"judge:safety" = { at_most = 1 }', "metrics.judge:safety: more of it is better"),
        ('"judge:safety" = { at_least = 3 }', "metrics.judge:safety: it is a share"),
        ("groundedness = { at_least = 1 }", "metrics.groundedness: there is no such metric"),
    ],
)
def test_a_wrong_demand_is_refused(tmp_path: Path, metric: str, reason: str) -> None:
    """File and key are named: a misspelt metric would never be checked, and 50 for 50 % never be reached."""
    with pytest.raises(InvalidInput, match=rf"thresholds\.toml.*{reason}"):
        load_thresholds(thresholds_in(tmp_path, metric))


def test_missing_thresholds_are_refused(tmp_path: Path) -> None:
    """Without the file there is no gate."""
    with pytest.raises(InvalidInput, match=r"none\.toml holds no valid thresholds"):
        load_thresholds(tmp_path / "none.toml")


def test_who_has_nothing_to_judge_by_does_not_judge() -> None:
    """A gate whose metrics may all only advise passes nothing, and thresholds without a metric are refused."""
    demanded = Thresholds(min_cases=1, max_error_rate=0, metrics={"answered": Demand(at_least=0.5)})
    run = run_of(*scored("answered", 1.0).results)
    assert decide(run, demanded).verdict is Verdict.PASS
    decision = decide(run, demanded, advisory={"answered": "not calibrated"})
    assert (decision.verdict, decision.reasons[0][:20]) == (Verdict.CANNOT_JUDGE, "No metric may decide")
    with pytest.raises(ValidationError, match="at least 1 item"):
        Thresholds(min_cases=1, max_error_rate=0, metrics={})


def test_a_metric_that_most_cases_have_lost_is_not_judged() -> None:
    """What was measured on few of the cases of the baseline says nothing of the others, however good it is there."""
    demanded = Thresholds(min_cases=1, max_error_rate=0, metrics={"answered": Demand(margin=0)})
    before = Baseline(run_of().configuration, {f"case-{n}": {"answered": [1.0]} for n in range(10)})
    for measured, verdict in ((5, Verdict.PASS), (4, Verdict.CANNOT_JUDGE)):
        results = [
            CaseResult(case(f"case-{n}"), scores={"answered": 1.0} if n < measured else {"abstained": 1.0})
            for n in range(10)
        ]
        decision = decide(run_of(*results), demanded, before)
        assert decision.verdict is verdict
    assert decision.reasons == ("answered was measured on 4 of the 10 cases that the baseline measured.",)


def test_failures_count_against_the_cases_that_a_metric_applies_to() -> None:
    """One of two that could not be scored is half of them, however many cases there are that it says nothing of."""
    demanded = Thresholds(min_cases=1, max_error_rate=0.4, metrics={"abstained": Demand(at_least=0.5)})
    others = [CaseResult(case(f"case-{n}"), scores={"answered": 1.0}) for n in range(20)]
    fine = CaseResult(case("fine"), scores={"abstained": 1.0})
    broken = CaseResult(case("broken"), failed={"abstained": "it broke"})
    decision = decide(run_of(*others, fine, broken), demanded)
    assert decision.verdict is Verdict.CANNOT_JUDGE
    assert decision.reasons[0].startswith("1 of 2 attempts could not be scored by abstained")


def test_the_shipped_thresholds_demand_what_they_are_meant_to() -> None:
    """Every metric has a floor; two are tested, one for finding and one for answering."""
    shipped = load_thresholds(PROJECT / "evals" / "thresholds.toml")
    assert all(demand.at_least is not None for demand in shipped.metrics.values())
    tested = {metric for metric, demand in shipped.metrics.items() if demand.margin is not None}
    assert tested == {"ndcg@10", "answered"}
    assert shipped.alpha == 0.04
