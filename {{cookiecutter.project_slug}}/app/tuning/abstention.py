"""Find ABSTAIN_BELOW: how many questions would be answered, and how many refused, at each threshold.

For the extractive model only, whose score is known before it answers. Reports; changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.datasets.corpus import alone, ingest_only
from app.db.engine import Database
from app.evals.dataset import Dataset
from app.gateway.gateway import Gateway
from app.gateway.offline import rank
from app.prompts.fence import fence, neutral, read_fences
from app.prompts.loader import load_prompt
from app.rag.ingest import Ingester
from app.rag.retrieval import Retriever
from app.settings import Settings

THRESHOLDS = [step / 40 for step in range(8, 28)]


@dataclass(frozen=True)
class Point:
    """At this threshold: the share of answerable questions answered, and of the others refused."""

    threshold: float
    answered: float
    abstained: float

    @property
    def balanced(self) -> float:
        """Balanced accuracy: a wrong answer and a wrong refusal weigh the same."""
        return (self.answered + self.abstained) / 2


async def sweep(
    dataset: Dataset, documents: Iterable[Path], database: Database, gateway: Gateway, settings: Settings
) -> list[Point]:
    """Score every case's best sentence once, and count at each threshold."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    async with alone(database) as own:
        await ingest_only(list(documents), Ingester(own, gateway, settings))
        retriever = Retriever(own, gateway, settings)
        for case in dataset.cases:
            passages = await retriever.retrieve(case.question)
            messages = load_prompt(settings.answer_prompt).messages(
                passages=fence(passages), question=neutral(case.question)
            )
            ranked = rank(*read_fences(messages))
            scores[case.answerable].append(ranked[0].score if ranked else 0.0)
    return [
        Point(
            threshold,
            answered=_share(score >= threshold for score in scores[True]),
            abstained=_share(score < threshold for score in scores[False]),
        )
        for threshold in THRESHOLDS
    ]


def _share(flags: Iterable[bool]) -> float:
    counted = list(flags)
    return sum(counted) / len(counted) if counted else 0.0
