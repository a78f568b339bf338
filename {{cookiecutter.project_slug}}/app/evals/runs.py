"""A run: what was asked, with which configuration, and every answer with its scores. Written to a file and read back.

Knows nothing of how a run is made, or of what is good enough.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter, ValidationError

from app.errors import InvalidInput
from app.evals.dataset import Case
from app.types import Answer

Values = dict[str, list[float]]
"""The values of one metric by case id, one for each attempt that was scored."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One attempt at a case: its answer and scores, or the error that left it without.

    `failed` says why an evaluator or a judge gave no score; a metric in neither did not apply. `reasons` are the
    judges', by metric.
    """

    case: Case
    attempt: int = 0
    answer: Answer | None = None
    error: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the answers depend on. `settings` are those that are not as they come, without secrets."""

    name: str
    dataset: str
    dataset_hash: str
    split: str
    documents_hash: str
    chat_model: str
    embedding_model: str
    judge_model: str
    settings: Mapping[str, str]
    prompts: Mapping[str, str]
    revision: str
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """A configuration's results, in the dataset's order."""

    id: str
    started_at: str
    configuration: Configuration
    results: tuple[CaseResult, ...]

    @property
    def errors(self) -> list[CaseResult]:
        """The attempts that gave no answer."""
        return [result for result in self.results if result.error]

    @property
    def failures(self) -> list[CaseResult]:
        """The attempts of which something could not be measured."""
        return [result for result in self.results if result.failed]

    def metrics(self) -> list[str]:
        """The metrics that were measured on some case, in the order in which they came up."""
        return list(dict.fromkeys(name for result in self.results for name in result.scores))

    def values(self, metric: str) -> Values:
        """The metric by case; cases on which it was not measured are missing."""
        found: Values = {}
        for result in self.results:
            if metric in result.scores:
                found.setdefault(result.case.id, []).append(result.scores[metric])
        return found

    def means(self) -> dict[str, float]:
        """The mean of each metric over its cases; a case that was repeated counts once, with its own mean."""
        return {metric: mean(self.values(metric).values()) for metric in self.metrics()}


def mean(cases: Iterable[Iterable[float]]) -> float:
    """The mean of the cases' means."""
    return fmean(fmean(values) for values in cases)


RUN = TypeAdapter(Run)


def write_run(run: Run, path: Path) -> None:
    """Write it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(RUN.dump_json(run) + b"\n")


def read_run(path: Path) -> Run:
    """Read what `write_run` wrote.

    Raises:
        InvalidInput: it cannot be read, or is no run.

    """
    try:
        return RUN.validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"the run {path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise InvalidInput(f"{path} is no run that `app eval` wrote") from None
