"""Datasets: JSONL, one Case a line, checked with line numbers and identified by a content hash.

Knows nothing of how cases are run, or where they come from.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.errors import InvalidInput

Split = Literal["tune", "gate"]
DrawSplit = Callable[[str], Split]
"""Key to split; `split_of` with its seed and share."""
T = TypeVar("T")
MOST_SHOWN = 12  # faulty lines


class Evidence(BaseModel):
    """Words that answer the question, verbatim from a document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    document: str
    quote: str = Field(min_length=1)


class Case(BaseModel):
    """A question and what a good answer rests on.

    `relevant` are sources with their grade, 1 where the file gives a list; `forbidden` must not stand in an answer,
    whatever its case. `source` says where the case comes from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    split: Split
    question: str = Field(min_length=1)
    answerable: bool
    relevant: dict[str, Annotated[int, Field(ge=1)]] = {}
    evidence: tuple[Evidence, ...] = ()
    reference: str = ""
    forbidden: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    source: str = ""

    @field_validator("relevant", mode="before")
    @classmethod
    def _graded(cls, given: Any) -> Any:  # noqa: ANN401  # whatever the file holds; the type is checked next
        return dict.fromkeys(given, 1) if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.answerable and not (self.relevant or self.reference):
            raise ValueError("an answerable case needs relevant documents or a reference answer")
        if not self.answerable and (self.relevant or self.evidence):
            raise ValueError("a case that is not answerable has no relevant documents and no evidence")
        if not {e.document for e in self.evidence} <= self.relevant.keys():
            raise ValueError("a document of the evidence is missing from relevant")
        return self


@dataclass(frozen=True)
class Dataset:
    """Cases in file order, all or those of one split, and the hash of just these."""

    name: str
    cases: tuple[Case, ...]
    content_hash: str


def load_dataset(path: Path, split: Split | None = None) -> Dataset:
    """Read a dataset, or one split of it; no id and no question may be there twice, whatever its case and spacing.

    Raises:
        InvalidInput: names each faulty line and what is wrong with it.

    """
    cases = [case for case in read_lines(path, Case.model_validate_json, names) if split in (None, case.split)]
    return Dataset(path.stem, tuple(cases), content_hash(cases))


def write_dataset(cases: Iterable[Case], path: Path) -> None:
    """Write the cases in place of what is there; an interruption leaves the one or the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text("".join(map(_line, cases)), encoding="utf-8")
    new.replace(path)


def append_case(case: Case, path: Path) -> None:
    """Add a case to a dataset, or begin one; the lines that are there stay as they are.

    Raises:
        InvalidInput: the dataset has its id or its question already, or is faulty itself.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = {name for one in load_dataset(path).cases for name in names(one)} if path.exists() else set()
    if twice := sorted(taken & set(names(case))):
        raise InvalidInput(f"{path} has {' and '.join(twice)} already")
    gap = "\n" if taken and not path.read_bytes().endswith(b"\n") else ""
    with path.open("a", encoding="utf-8") as file:
        file.write(gap + _line(case))


def content_hash(cases: Iterable[Case]) -> str:
    """SHA-256 of what the cases say: the order of lines and of fields, blanks and defaults make no difference."""
    plain = [case.model_dump(mode="json", exclude_defaults=True) for case in sorted(cases, key=lambda case: case.id)]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def split_of(key: str, *, seed: int, gate_share: float) -> Split:
    """Drawn for this key alone: what is added later moves no case to the other split."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64
    return "gate" if drawn < gate_share else "tune"


def names(case: Case) -> tuple[str, str]:
    """What no other case of a dataset may share: the id, and the question but for case and spacing."""
    return f"the id {case.id!r}", f"the question {_plain(case.question)!r}"


def question_id(question: str) -> str:
    """An id for a question that came without one, the same each time."""
    return hashlib.sha256(_plain(question).encode()).hexdigest()[:12]


def read_lines(path: Path, parse: Callable[[str], T], unique: Callable[[T], Iterable[str]] = lambda _: ()) -> list[T]:
    """What each line that is not blank gives; raises InvalidInput as `collect`, and where the file cannot be read."""

    def decoded(line: bytes) -> T:
        return parse(line.decode("utf-8-sig"))

    try:
        with path.open("rb") as file:
            lines = ((n, partial(decoded, line)) for n, line in enumerate(file, 1) if line.strip())
            return collect(path, lines, unique)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None


def collect(path: Path, lines: Iterable[tuple[int, Callable[[], T]]], unique: Callable[[T], Iterable[str]]) -> list[T]:
    """What the lines of a file make, each given with its number.

    Raises:
        InvalidInput: names the lines that make nothing, or something whose `unique` names are taken.

    """
    found: list[T] = []
    faults: list[str] = []
    first: dict[str, int] = {}
    for number, make in lines:
        try:
            found.append(make())
            if twice := [f"{name} is in line {first[name]} too" for name in unique(found[-1]) if name in first]:
                raise ValueError("; ".join(twice))  # noqa: TRY301  # a fault like any other
            first |= dict.fromkeys(unique(found[-1]), number)
        except ValueError as error:
            faults.append(f"{path}:{number}: {_told(error)}")
    if faults:
        more = [f"and {len(faults) - MOST_SHOWN} more faulty lines"] if len(faults) > MOST_SHOWN else []
        raise InvalidInput("\n".join(faults[:MOST_SHOWN] + more))
    return found


def _plain(question: str) -> str:
    return " ".join(question.casefold().split())


def _line(case: Case) -> str:
    return case.model_dump_json(exclude_defaults=True) + "\n"


def _told(error: ValueError) -> str:
    """Each mistake with its field."""
    if isinstance(error, UnicodeError):
        return f"{error}; save the file as UTF-8"
    if not isinstance(error, ValidationError):
        return str(error)
    told = ((".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors())
    return "; ".join(f"{field}: {fault}" if field else fault for field, fault in told)
