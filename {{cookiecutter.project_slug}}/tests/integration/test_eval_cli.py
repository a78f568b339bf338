"""`app eval` and `app compare`: what is asked, what is shown, what is kept, and the exit code."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from app.evals.runs import Run, read_run
from tests.conftest import PROJECT
from tests.integration.conftest import Command
from tests.provider import BAD_GATEWAY, Behaviour, Call, Hang, Provider, RateLimited, Rejected, Reply

TOPICS = ("green tea", "black tea", "oolong", "white tea", "mate", "coffee", "cocoa", "cider")
CITING = Reply('At eighty. [1: "at eighty degrees"]')
PASSED = Reply(json.dumps({"reason": "It stands there.", "passed": True}))
WRONG_KEY = Rejected(401, "Incorrect API key provided.", code="invalid_api_key")
DEMANDS = """
min_cases = 2
max_error_rate = 0.0
[metrics]
"answered" = { at_least = 0.5 }
"""
PATIENCE_SECONDS = 120


@pytest.fixture
def evals(app: Command) -> Command:
    """The command line in a folder with eight questions and one document that answers them."""
    lines = [
        {"id": topic, "split": "gate", "question": f"How is {topic} brewed?", "answerable": True}
        | {"relevant": ["docs/tea.md"], "reference": "At eighty degrees."}
        for topic in TOPICS
    ]
    Path("cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("demands.toml").write_text(DEMANDS)
    return app


@pytest.fixture
def asked(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """The chat model is the provider's, and answers with a citation."""
    monkeypatch.setenv("CHAT_MODEL", "openai/chat")
    monkeypatch.setenv("CHAT_API_BASE", provider.url)
    monkeypatch.setenv("MAX_ATTEMPTS", "1")
    provider.always(CITING)
    return provider


GIVEN = ("--dataset", "cases.jsonl", "--documents", "docs")
EVAL = ("eval", *GIVEN, "--thresholds", "demands.toml")


def stored() -> list[Run]:
    """The runs that were kept, oldest first."""
    return [read_run(path) for path in sorted(Path("evals/reports/runs").iterdir())]


def unfinished() -> list[int]:
    """How many answers each journal holds."""
    journals = Path("evals/reports/unfinished").iterdir()
    return [path.read_bytes().count(b"\n") for path in journals]


def questions(calls: Iterable[Call]) -> Counter[str]:
    """Which question each call of a model was about."""
    texts = [json.dumps(call.body) for call in calls]
    return Counter(topic for text in texts for topic in TOPICS if f"How is {topic} brewed?" in text)


def test_a_run_is_kept_shown_and_judged(evals: Command) -> None:
    """Exit 0 where it reaches the thresholds, 1 where it does not, 2 where it cannot be judged."""
    assert evals(*EVAL).status == 0
    [run] = stored()
    assert [one.case.id for one in run.results] == list(TOPICS)
    assert (run.configuration.name, run.configuration.settings) == ("", {})
    assert unfinished() == []
    assert Path("evals/reports/latest.html").exists()
    Path("demands.toml").write_text(DEMANDS.replace("0.5", "1.0"))
    worse = evals(*EVAL)
    assert (worse.status, "answered" in worse.out) == (1, True)
    Path("demands.toml").write_text(DEMANDS.replace("min_cases = 2", "min_cases = 9"))
    assert evals(*EVAL).status == 2


def test_settings_can_be_changed_for_one_run(evals: Command) -> None:
    """Each --set is a part of the one configuration; documents that are cut in another way are read anew."""
    assert evals(*EVAL, "--set", "ABSTAIN_BELOW=0.9", "--set", "CHUNK_CHARACTERS=100,PASSAGES=2").status == 1
    [run] = stored()
    changed = {"ABSTAIN_BELOW": "0.9", "CHUNK_CHARACTERS": "100", "PASSAGES": "2"}
    assert run.configuration.settings == changed
    assert run.configuration.name == "ABSTAIN_BELOW=0.9,CHUNK_CHARACTERS=100,PASSAGES=2"
    assert evals(*EVAL, "--set", "PASAGES=2") == (
        *(2, ""),
        "error: --set: PASAGES is no setting; did you mean PASSAGES?",
    )


def test_a_saved_baseline_is_compared_with(evals: Command) -> None:
    """What is written is reviewed as a change of a file; the next run is held to it."""
    Path("demands.toml").write_text(DEMANDS.replace("0.5 }", "0.1, margin = 0.0 }"))
    assert evals(*EVAL, "--baseline", "base.json").status == 2
    saved = evals(*EVAL, "--baseline", "base.json", "--save-baseline")
    assert (saved.status, "written to base.json: review the change, and commit it" in saved.out) == (0, True)
    assert evals(*EVAL, "--baseline", "base.json").status == 0
    worse = evals(*EVAL, "--baseline", "base.json", "--set", "ABSTAIN_BELOW=1")
    assert worse.status == 1
    Path("base.json").write_text("{}")
    assert evals(*EVAL, "--baseline", "base.json").err.startswith("error: base.json holds no baseline")
    assert evals(*EVAL, "--baseline", "base.json", "--save-baseline").status == 0


def test_answers_are_repeated_and_rated(evals: Command, asked: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question as often as asked for, and each answer by each judge; the same answer is rated once."""
    monkeypatch.setenv("JUDGE_MODEL", "openai/judge")
    monkeypatch.setenv("JUDGE_API_BASE", asked.url)
    asked.always(lambda call: PASSED if call.body["model"] == "judge" else CITING)
    judges = ("--judge", "groundedness", "--judge", "groundedness", "--judge", "helpfulness")
    assert evals(*EVAL, "--repeat", "2", *judges).status == 0
    calls = Counter(call.body["model"] for call in asked.requests)
    assert calls == {"chat": 16, "judge": 16}
    [run] = stored()
    assert run.values("judge:groundedness") == {topic: [1.0, 1.0] for topic in TOPICS}
    assert run.results[0].reasons["judge:helpfulness"] == "It stands there."
    assert (run.configuration.judge_model, run.configuration.repeats) == ("openai/judge", 2)
    assert evals(*EVAL, "--judge", "tone").err.startswith("error: --judge tone: there is no such judge; there are ")


def test_a_killed_run_pays_for_no_answer_twice(
    evals: Command, asked: Provider, migrated_url: str, tmp_path: Path
) -> None:
    """`kill -9` while two questions are under way: the next run asks these two and what is left, and says so."""
    behaviours: list[Behaviour] = [CITING] * 5
    asked.always(lambda _: behaviours.pop() if behaviours else Hang())
    environment = os.environ | {"DATABASE_URL": migrated_url, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "app", *EVAL, "--concurrency", "2"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            with asked._changed:
                assert asked._changed.wait_for(lambda: asked.count.calls == 7, PATIENCE_SECONDS), asked.count
        finally:
            process.kill()
    assert unfinished() == [5]
    asked.always(CITING)
    ended = evals(*EVAL)
    assert ended.err.startswith("5 answers are taken from a run that did not finish"), ended.err
    assert ended.status == 0, ended.out
    assert sorted(questions(asked.requests).values()) == [1] * 6 + [2] * 2
    assert unfinished() == []
    [run] = stored()
    assert [one.case.id for one in run.results] == list(TOPICS)


def test_a_case_that_failed_is_all_that_the_next_run_pays_for(evals: Command, asked: Provider) -> None:
    """The answers to the others are taken from the journal, which goes when nothing is left to fail."""
    asked.then(Rejected(400))
    assert evals(*EVAL).status == 2
    assert (asked.count.calls, unfinished()) == (8, [7])
    asked.reset()
    asked.always(CITING)
    ended = evals(*EVAL)
    assert (ended.status, "7 answers are taken" in ended.err) == (0, True)
    assert (asked.count.calls, unfinished()) == (1, [])


def limited(burst: int, seconds: float) -> Callable[[Call], Behaviour]:
    """A provider that bears one call in so many seconds, and a burst after a pause."""
    left, last = float(burst), time.monotonic()

    def rule(_: Call) -> Behaviour:
        nonlocal left, last
        now = time.monotonic()
        left, last = min(burst, left + (now - last) / seconds), now
        if left < 1:
            return RateLimited(retry_after=60)
        left -= 1
        return CITING

    return rule


def test_a_pace_keeps_a_run_below_the_providers_limit(evals: Command, asked: Provider) -> None:
    """At a time as many as it bears; without a pace they are more than that, and turned away."""
    asked.always(limited(burst=3, seconds=0.2))
    assert evals(*EVAL).status == 2
    asked.reset()
    shutil.rmtree("evals/reports")
    asked.always(limited(burst=3, seconds=0.2))
    ended = evals(*EVAL, "--per-minute", "240")
    assert (ended.status, asked.count.calls) == (0, 8)
    assert stored()[0].errors == []


def test_two_runs_answers_are_preferred_one_to_the_other(
    evals: Command, asked: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both orders, for each case; asked again it costs nothing."""

    def rule(call: Call) -> Behaviour:
        if call.body["model"] != "judge":
            return Reply(f'{call.body["model"]} [1: "at eighty degrees"]')
        shown = call.body["messages"][1]["content"]
        better = "tie" if "cider" in shown else "first" if "other" in shown.partition('id="second"')[0] else "second"
        if "mate" in shown:
            return Rejected(400)
        return Reply(json.dumps({"reason": "Better.", "better": "first" if "cocoa" in shown else better}))

    asked.always(rule)
    for model in ("chat", "other"):
        evals(*EVAL, "--set", f"CHAT_MODEL=openai/{model}")
    runs = sorted(Path("evals/reports/runs").iterdir(), key=lambda path: "other" in path.read_text())
    prefer = ("compare", *map(str, runs), "--prefer")
    without = evals(*prefer)
    assert (without.status, without.err) == (2, "error: no model plays the role judge: set JUDGE_MODEL")
    monkeypatch.setenv("JUDGE_MODEL", "openai/judge")
    monkeypatch.setenv("JUDGE_API_BASE", asked.url)
    asked.requests.clear()
    ended = evals(*prefer, "--per-minute", "60000")
    assert ended.status == 0
    assert "the second run's answers are preferred: of 7 pairs the second run won 85.7%" in ended.out
    assert "in 14.3% the order made a difference, which is a tie; 1 pairs were not compared" in ended.out
    assert len(asked.requests) >= 14
    asked.requests.clear()
    swapped = evals("compare", *map(str, reversed(runs)), "--prefer")
    assert "the first run's answers are preferred: of 7 pairs the second run won 14.3%" in swapped.out
    assert set(questions(asked.requests)) <= {"mate"}
    assert "no difference shown: of " in evals("compare", str(runs[0]), str(runs[0]), "--prefer").out


@pytest.mark.parametrize("fault", [WRONG_KEY, BAD_GATEWAY])
def test_a_run_that_can_only_fail_ends_early(evals: Command, asked: Provider, fault: Behaviour) -> None:
    """A wrong key and a provider that is down are one clear error, and what was answered is kept."""
    behaviours: list[Behaviour] = [CITING] * 2
    asked.always(lambda _: behaviours.pop() if behaviours else fault)
    ended = evals(*EVAL, "--concurrency", "1", "--repeat", "20")
    assert ended.status == 2
    [error] = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert error.startswith("error: left alone, after: openai/chat")
    assert error.endswith("run it again to go on from there")
    assert asked.count.calls <= 2 + 5
    assert unfinished() == [2]
    assert not Path("evals/reports/runs").exists()


def test_configurations_are_compared(evals: Command, asked: Provider) -> None:
    """The settings as they are come first; models and prompts are settings like others."""
    sets = ("--set", "PASSAGES=1", "--set", "CHAT_MODEL=openai/other")
    ended = evals("compare", *GIVEN, *sets)
    assert ended.status == 0
    assert all(name in ended.out for name in ("as it is", "PASSAGES=1", "CHAT_MODEL=openai/other"))
    assert Counter(call.body["model"] for call in asked.requests) == {"chat": 16, "other": 8}
    assert "PASSAGES=1" in Path("evals/reports/comparison.html").read_text("utf-8")
    runs = [str(path) for path in sorted(Path("evals/reports/runs").iterdir())]
    assert len(runs) == 3
    asked.reset()
    again = evals("compare", *runs)
    assert (again.status, asked.count.calls) == (0, 0)
    assert "PASSAGES=1" in again.out


def test_a_comparison_goes_on_where_it_was_interrupted(evals: Command, asked: Provider) -> None:
    """Also the configurations that were through are not asked again."""
    behaviours: list[Behaviour] = [CITING] * 11
    asked.always(lambda _: behaviours.pop() if behaviours else WRONG_KEY)
    compare = ("compare", *GIVEN, "--set", "PASSAGES=1", "--concurrency", "1")
    assert evals(*compare).status == 2
    assert sorted(unfinished()) == [3, 8]
    asked.reset()
    asked.always(CITING)
    assert evals(*compare).status == 0
    assert asked.count.calls == 5
    assert unfinished() == []
    assert len(stored()) == 2


def test_chunks_and_vectors_fit_each_configuration(evals: Command, asked: Provider) -> None:
    """Documents are cut and embedded as each configuration says, whatever the one before has left."""
    Path("docs/long.md").write_text(" ".join(f"Water number {n} is wet, and so is tea {n * n}." for n in range(20)))
    other = f"EMBEDDING_MODEL=openai/embed,EMBEDDING_API_BASE={asked.url}"
    cut = "CHUNK_CHARACTERS=100,CHUNK_OVERLAP=0"
    assert evals("compare", *GIVEN, "--set", other, "--set", cut).status == 0
    answers = {run.configuration.name: run.results[0].answer for run in stored()}
    passages = {name: len(answer.passages) for name, answer in answers.items() if answer}
    assert passages["as it is"] == passages[other] < passages[cut]
    assert {run.configuration.embedding_model for run in stored()} == {"offline/static", "openai/embed"}


def test_a_prompt_is_a_setting(evals: Command, asked: Provider) -> None:
    """Another file of app/prompts/ asks for the answer; one that is not there is a clear error."""
    ended = evals(*EVAL, "--set", "ANSWER_PROMPT=none")
    assert ended.err == "error: there is no prompt 'none': write it to app/prompts/none.md"
    assert asked.count.calls == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["compare"], "error: give either the files of runs, or settings: --set NAME=VALUE"),
        (["compare", "a.json", "--set", "FUSION=rrf"], "error: give either the files of runs, or settings"),
        (["compare", "a.json"], "error: one run has nothing to be compared with: give two or more"),
        (["compare", "a.json", "--prefer"], "error: --prefer is about two stored runs: app compare A.json B.json"),
        (["compare", "--set", "FUSION=rrf", "--prefer"], "error: --prefer is about two stored runs"),
        (["compare", *GIVEN, "--set", "PASSAGES=10"], "error: PASSAGES=10 changes nothing: it is what is set"),
        ([*EVAL, "--repeat", "2", "--set", "CACHE_MODE=on"], "error: with CACHE_MODE=on all attempts"),
        (["compare", "a.json", "b.json"], "error: the run a.json cannot be read: No such file or directory"),
        ([*EVAL, "--split", "some"], "error: --split is 'some'; it can be tune, gate or all"),
        ([*EVAL, "--dataset", "none.jsonl"], "error: none.jsonl cannot be read"),
        ([*EVAL, "--thresholds", "none.toml"], "error: none.toml holds no valid thresholds"),
    ],
)
def test_what_makes_no_sense_is_an_error(evals: Command, arguments: list[str], reason: str) -> None:
    """One line, before anything is asked."""
    ended = evals(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(reason)


def test_runs_of_different_datasets_are_compared_with_a_warning(evals: Command) -> None:
    """Cases that have the same id may not be the same."""
    evals(*EVAL)
    Path("cases.jsonl").write_text(Path("cases.jsonl").read_text().replace("brewed", "made"))
    evals(*EVAL)
    ended = evals("compare", *map(str, sorted(Path("evals/reports/runs").iterdir())))
    assert (ended.status, "these runs are of different datasets" in ended.err) == (0, True)


def test_a_baseline_of_other_questions_is_not_overwritten(evals: Command) -> None:
    """Who saves one for a dataset of their own does not lose the gate's; a broken file may be replaced."""
    Path("base.json").write_text("{")
    assert evals(*EVAL, "--baseline", "base.json", "--save-baseline").status == 0
    kept = Path("base.json").read_bytes()
    Path("mine.jsonl").write_bytes(Path("cases.jsonl").read_bytes())
    other = (*EVAL, "--dataset", "mine.jsonl", "--baseline", "base.json")
    refused = evals(*other, "--save-baseline")
    assert (refused.status, "is of the dataset cases: give --baseline another FILE" in refused.err) == (2, True)
    assert Path("base.json").read_bytes() == kept
    assert "The baseline is of the dataset cases" in " ".join(evals(*other).out.split())


def test_a_run_needs_cases_and_their_documents(evals: Command) -> None:
    """Without them every score would be bad or missing, and nobody would see why."""
    empty = evals(*EVAL, "--split", "tune")
    assert (empty.status, empty.err) == (2, "error: cases.jsonl has no case in the split tune")
    case = json.loads(Path("cases.jsonl").read_text().splitlines()[0])
    case |= {"id": "lost", "question": "Where?", "relevant": ["gone.md"], "evidence": []}
    with Path("cases.jsonl").open("a") as file:
        file.write("\n" + json.dumps(case) + "\n")
    lost = evals(*EVAL)
    assert lost.status == 2
    assert "1 documents that cases rest on are not there, such as gone.md: run it from the folder" in lost.err
