"""`app tune`: what another weight would find, and whether the difference is real."""

import json
from pathlib import Path

import pytest

from app.db.engine import Database
from app.errors import InvalidInput
from app.evals.dataset import Case, Dataset, Evidence
from app.evals.runner import run
from app.gateway.gateway import Gateway
from app.settings import Settings
from app.tuning.weights import WEIGHTS, compare
from tests.integration.conftest import Command

TEXTS = {
    "nile.md": "The Nile is the longest river of Africa.",
    "baikal.md": "Lake Baikal is the deepest lake of all.",
    "dead.md": "The longest way to the deepest place of Africa leads over a river.",
}


def case(number: int, question: str, source: str) -> Case:
    """A question that one document answers."""
    evidence = (Evidence(document=source, quote=TEXTS[source]),)
    return Case(
        id=str(number),
        split="tune",
        question=question,
        answerable=True,
        relevant={source: 1},
        evidence=evidence,
        reference="It.",
    )


NO_ANSWER = Case(id="none", split="tune", question="How do I renew a licence?", answerable=False)
CASES = (
    case(1, "the longest stream in Egypt", "nile.md"),
    case(2, "which lake is deepest?", "baikal.md"),
    case(3, "river way to Africa", "dead.md"),
    NO_ANSWER,
)


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three documents in a folder."""
    monkeypatch.chdir(tmp_path)
    for name, body in TEXTS.items():
        Path(name).write_text(f"{body}\n")
    return [Path(name) for name in TEXTS]


def dataset(*cases: Case) -> Dataset:
    """A dataset as it is loaded."""
    return Dataset("tiny", cases, "hash")


async def test_every_way_to_fuse_is_compared_with_the_current_one(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Eleven weights and RRF; the current one gains nothing on itself."""
    choices, now = await compare(dataset(*CASES), documents, database, gateway, settings)
    assert [choice.name for choice in choices] == [f"DENSE_WEIGHT={w:g}" for w in WEIGHTS] + ["FUSION=rrf"]
    same = next(choice for choice in choices if choice.name == now.name)
    assert same == now
    assert (now.name, now.gain, now.low, now.high, now.is_better) == ("DENSE_WEIGHT=0.4", 0, 0, 0, False)
    for choice in choices:
        assert choice.gain == pytest.approx(choice.means["ndcg@10"] - now.means["ndcg@10"])
        assert choice.low <= choice.gain <= choice.high


@pytest.mark.parametrize("changed", [{"dense_weight": 0.0}, {"dense_weight": 1.0}, {"fusion": "rrf"}])
async def test_what_is_predicted_is_what_a_run_measures(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings, changed: dict[str, object]
) -> None:
    """With few passages to read, each weight's figures are those of a whole evaluation with it."""
    settings = settings.model_copy(update={"passages": 1})
    choices, _ = await compare(dataset(*CASES), documents, database, gateway, settings)
    name = "FUSION=rrf" if "fusion" in changed else f"DENSE_WEIGHT={changed['dense_weight']:g}"
    [predicted] = [choice.means for choice in choices if choice.name == name]
    other = settings.model_copy(update=changed)
    measured = (await run(dataset(*CASES), documents, database, Gateway(other), other)).means()
    assert predicted == pytest.approx({metric: measured[metric] for metric in predicted})


async def test_without_questions_that_have_an_answer_there_is_nothing_to_tune(
    documents: list[Path], database: Database, gateway: Gateway, settings: Settings
) -> None:
    """An error that says so, and no table of zeros."""
    with pytest.raises(InvalidInput, match="no question of tiny has an answer"):
        await compare(dataset(NO_ANSWER), documents, database, gateway, settings)


@pytest.mark.parametrize(
    ("what", "weights", "thresholds"), [("weights", True, False), ("abstain", False, True), ("both", True, True)]
)
def test_the_command_shows_what_was_asked_for(app: Command, what: str, *, weights: bool, thresholds: bool) -> None:
    """One table or both, each with a sentence about what to set."""
    evidence = {"document": "docs/tea.md", "quote": "Green tea is brewed at eighty degrees"}
    line = {
        "id": "tea",
        "split": "tune",
        "question": "How is green tea brewed?",
        "answerable": True,
        "relevant": ["docs/tea.md"],
        "evidence": [evidence],
        "reference": "At eighty degrees.",
    }
    Path("cases.jsonl").write_text(json.dumps(line))
    ended = app("tune", "--dataset", "cases.jsonl", "--documents", "docs", "--what", what)
    assert ended.status == 0
    assert ("not really better than DENSE_WEIGHT=0.4, which is set now: keep that" in ended.out) is weights
    assert ("best here: 0.425; set now: 0.425" in ended.out) is thresholds


def test_a_real_gain_is_recommended(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where words find what meaning does not, a weight of 1 for the meaning is told to be wrong."""
    monkeypatch.setenv("DENSE_WEIGHT", "1")
    monkeypatch.setenv("PASSAGES", "1")
    Path("docs/decoy.md").write_text("Cars, trucks and motorcycles have motors and wheels.")
    lines = []
    for n in range(6):
        text = f"Number zq{n}x is kept upstairs, on the left."
        Path(f"docs/{n}.md").write_text(text)
        evidence = {"document": f"docs/{n}.md", "quote": text}
        line = {
            "id": str(n),
            "split": "tune",
            "question": f"automobile highway driver zq{n}x",
            "answerable": True,
            "reference": "There.",
        }
        lines.append(json.dumps(line | {"relevant": [f"docs/{n}.md"], "evidence": [evidence]}))
    Path("cases.jsonl").write_text("\n".join(lines))
    ended = app("tune", "--dataset", "cases.jsonl", "--documents", "docs", "--what", "weights")
    assert "really better than DENSE_WEIGHT=1, which is set now: set it" in ended.out


def test_something_else_cannot_be_tuned(app: Command) -> None:
    """The error names what can be."""
    assert app("tune", "--what", "all").err == "error: --what is 'all'; it can be weights, abstain or both"
