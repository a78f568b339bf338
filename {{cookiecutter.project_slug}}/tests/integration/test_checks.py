"""`assert_eval`: an evaluation as a line of an ordinary test."""

import pytest

from app.db.engine import Database
from app.errors import InvalidInput
from app.evals.checks import assert_eval
from app.evals.dataset import Case
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.settings import Settings

NILE = Case(
    id="nile",
    split="gate",
    question="Which is the longest river of Africa?",
    answerable=True,
    relevant={"rivers.md": 1},
    reference="The Nile.",
)
OHIO = Case(id="ohio", split="gate", question="How do I renew a driving licence in Ohio?", answerable=False)


@pytest.fixture(autouse=True)
async def _documents(ingester: Ingester) -> None:
    await ingester.ingest(b"# Rivers\n\nThe Nile is the longest river of Africa.", source="rivers.md")


async def test_good_answers_pass(database: Database, gateway: Gateway, settings: Settings) -> None:
    """A line is all that a test needs; the run is there for whatever else is to be seen."""
    demands = {"answered": 1.0, "abstained": 1.0, "citation_validity": 1.0, "recall@5": 1.0, "latency_ms": 60_000}
    run = await assert_eval([NILE, OHIO], demands, database, gateway, settings, repeats=2)
    assert [result.case.id for result in run.results] == ["nile", "nile", "ohio", "ohio"]


@pytest.mark.parametrize(
    ("case", "demands", "message"),
    [
        (
            NILE.model_copy(update={"answerable": False}),
            {"abstained": 0.5},
            r"abstained is 0\.000.*nile: 0, 'Which.*Nile",
        ),
        (NILE, {"latency_ms": -1.0}, r"latency_ms is \d+\.\d+, and -1 is demanded:\n  nile"),
        (NILE, {"abstained": 1.0}, "abstained was measured on no case"),
        (NILE.model_copy(update={"question": " "}), {"answered": 1.0}, "nile: .*the question is empty"),
    ],
)
async def test_bad_answers_fail_and_are_named(
    case: Case, demands: dict[str, float], message: str, database: Database, settings: Settings
) -> None:
    """The message has the mean, what was demanded, and the cases that are to blame with what was said to them."""
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        await assert_eval([case], demands, database, Gateway(settings), settings)


async def test_an_unknown_metric_is_no_failed_test(database: Database, gateway: Gateway, settings: Settings) -> None:
    """A name that is misspelt is said to be that, with those that there are."""
    with pytest.raises(InvalidInput, match=r"no metric is named recall@3; there are answered"):
        await assert_eval([NILE], {"recall@3": 1.0}, database, gateway, settings)
