"""Find DENSE_WEIGHT: how good the search would be with each weight, and whether the difference is real.

Every question is searched once; its candidates are then fused anew for each weight. Reports; changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from app.datasets.corpus import alone, ingest_only
from app.db.engine import Database
from app.db.search import Search
from app.errors import InvalidInput
from app.evals import statistics
from app.evals.dataset import Case, Dataset
from app.evals.evaluators.retrieval import evidence_recall, ndcg_at_10, recall_at_5
from app.gateway.gateway import Gateway
from app.rag.fusion import best_first
from app.rag.ingest import Ingester
from app.rag.retrieval import Found, find, fuse
from app.settings import Settings
from app.types import Answer, Passage, Usage

WEIGHTS = [step / 10 for step in range(11)]
METRICS = {"ndcg@10": ndcg_at_10, "recall@5": recall_at_5, "evidence_recall": evidence_recall}
DECIDES = "ndcg@10"


@dataclass(frozen=True)
class Choice:
    """One way to fuse: the mean of each metric, and what DECIDES gains on the current setting, with its interval.

    The interval holds the true gain in 95 of 100 such datasets; where it begins above 0, the gain is real.
    """

    name: str
    means: Mapping[str, float]
    gain: float
    low: float
    high: float

    @property
    def is_better(self) -> bool:
        """Whether chance alone would hardly make such a gain."""
        return self.low > 0


@dataclass(frozen=True)
class _Searched:
    """A case with everything that its question found."""

    case: Case
    found: Found
    passages: Mapping[int, Passage]


async def compare(
    dataset: Dataset, documents: Iterable[Path], database: Database, gateway: Gateway, settings: Settings
) -> tuple[list[Choice], Choice]:
    """Every weight and RRF, and what is set now. Near-duplicates, neighbours and rerankers are left out of it.

    Raises:
        InvalidInput: a document could not be read, no question of the dataset has an answer, or another evaluation is
            under way.

    """
    answerable = [case for case in dataset.cases if case.answerable]
    if not answerable:
        raise InvalidInput(f"no question of {dataset.name} has an answer in the documents: there is nothing to find")
    async with alone(database) as own:
        await ingest_only(list(documents), Ingester(own, gateway, settings))
        searched = await _search(answerable, own, gateway, settings)
    ways = {
        f"DENSE_WEIGHT={weight:g}": settings.model_copy(update={"fusion": "weighted", "dense_weight": weight})
        for weight in WEIGHTS
    } | {"FUSION=rrf": settings.model_copy(update={"fusion": "rrf"})}
    now = _scores(searched, settings)
    current = "FUSION=rrf" if settings.fusion == "rrf" else f"DENSE_WEIGHT={settings.dense_weight:g}"
    return [_choice(name, _scores(searched, way), now) for name, way in ways.items()], _choice(current, now, now)


async def _search(cases: Sequence[Case], database: Database, gateway: Gateway, settings: Settings) -> list[_Searched]:
    vectors = await gateway.embed([case.question for case in cases])
    searched = []
    async with database.transaction() as connection:
        search = Search(connection, database.tenant)
        stamp = await search.stamp(settings.embedding.model)
        for case, vector in zip(cases, vectors, strict=True):
            found = await find(search, stamp, case.question, vector, settings.candidates)
            passages = await search.passages(list(found.keyword.keys() | found.dense.keys()))
            searched.append(_Searched(case, found, passages))
    return searched


def _scores(searched: Sequence[_Searched], settings: Settings) -> dict[str, list[float]]:
    """Each metric's value for each case, with these settings."""
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for one in searched:
        best = best_first(fuse(one.found, settings))[: settings.passages]
        answer = _answer([one.passages[chunk] for chunk in best if chunk in one.passages])
        for name, metric in METRICS.items():
            values[name].append(metric(one.case, answer, {}) or 0.0)
    return values


def _answer(passages: Sequence[Passage]) -> Answer:
    """What the metrics look at: an answer of which nothing is known but the passages that the model read."""
    read = tuple(replace(passage, use="read") for passage in passages)
    return Answer("", "", "", True, "", "", "", Usage(), None, 0, passages=read)  # noqa: FBT003  # a blank


def _choice(name: str, scores: Mapping[str, list[float]], now: Mapping[str, list[float]]) -> Choice:
    means = {metric: fmean(values) for metric, values in scores.items()}
    these, those = ({str(n): [value] for n, value in enumerate(run[DECIDES])} for run in (scores, now))
    gain = statistics.compare(DECIDES, these, those)
    return Choice(name, means, gain.effect, gain.low, gain.high)
