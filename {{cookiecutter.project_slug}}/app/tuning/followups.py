"""Follow-up questions: whether each way to search for them finds the right document, and the others still do.

Asks through the whole pipeline, as the tenant of evaluations. Reports; changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict, Field

from app.datasets.corpus import alone, ingest_only
from app.db.engine import Database
from app.errors import InvalidInput
from app.evals.dataset import read_lines
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.rag.pipeline import Pipeline
from app.settings import Settings
from app.types import Answer, Turn

FIRST = 5  # passages among which the right document should be
WAYS = ALONE, WITH_THE_LAST, AS_SET = "alone", "always with the last one", "as it is set"


class FollowUp(BaseModel):
    """A question, what was asked before it, and the documents any of which answers it.

    `follows` says that it cannot be understood without the history.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    history: tuple[str, ...] = Field(min_length=1)
    question: str
    follows: bool
    relevant: frozenset[str] = Field(min_length=1)


@dataclass(frozen=True)
class Figures:
    """What a way to search does to questions that follow, or to others, in shares of the cases.

    `found` have a right document among the first passages, `right` cite one first.
    """

    way: str
    follows: bool
    cases: int
    found: float
    right: float
    abstained: float


def load(path: Path) -> list[FollowUp]:
    """Read cases, one a line; an error names the faulty ones."""
    return read_lines(path, FollowUp.model_validate_json, lambda case: [f"the id {case.id!r}"])


async def compare(
    cases: Sequence[FollowUp], documents: Iterable[Path], database: Database, gateway: Gateway, settings: Settings
) -> list[Figures]:
    """Each way to search, for both kinds of questions. The documents answer every case.

    Raises:
        InvalidInput: a document could not be read, a kind has no case, or another evaluation is under way.
        ProviderError: the model failed.

    """
    kinds = {follows: [case for case in cases if case.follows is follows] for follows in (True, False)}
    if not all(kinds.values()):
        raise InvalidInput("there have to be cases that follow, and cases that do not")
    async with alone(database) as own:
        await ingest_only(list(documents), Ingester(own, gateway, settings))
        pipeline = Pipeline(own, gateway, settings)

        async def ask(case: FollowUp, way: str) -> Answer:
            if way != AS_SET:
                return await pipeline.ask(case.question if way == ALONE else f"{case.history[-1]} {case.question}")
            return await pipeline.ask(case.question, history=[Turn(asked, "") for asked in case.history])

        asked = {
            (way, follows): [(case, await ask(case, way)) for case in these]
            for way in WAYS
            for follows, these in kinds.items()
        }
    return [_figures(*key, answers) for key, answers in asked.items()]


def _figures(way: str, follows: bool, answers: Sequence[tuple[FollowUp, Answer]]) -> Figures:  # noqa: FBT001  # a key
    found = fmean(
        not case.relevant.isdisjoint(passage.source for passage in answer.passages[:FIRST]) for case, answer in answers
    )
    right = fmean(bool(answer.citations) and answer.citations[0].source in case.relevant for case, answer in answers)
    return Figures(way, follows, len(answers), found, right, fmean(answer.abstained for _, answer in answers))
