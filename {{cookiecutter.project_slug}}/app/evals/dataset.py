"""Datasets: JSONL, one Case a line, checked with line numbers and identified by a content hash.

Knows nothing of how cases are run.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import InvalidInput

Split = Literal["tune", "gate"]


class Evidence(BaseModel):
    """Words that answer the question, verbatim from a document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    document: str
    quote: str = Field(min_length=1)


class Case(BaseModel):
    """A question and what a good answer rests on; `relevant` are sources, the best first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    split: Split
    question: str = Field(min_length=1)
    answerable: bool
    relevant: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    reference: str = ""
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.answerable and not (self.relevant and self.evidence and self.reference):
            raise ValueError("an answerable case needs relevant documents, evidence and a reference answer")
        if not self.answerable and (self.relevant or self.evidence):
            raise ValueError("a case that is not answerable has no relevant documents and no evidence")
        if not {e.document for e in self.evidence} <= set(self.relevant):
            raise ValueError("a document of the evidence is missing from relevant")
        return self


@dataclass(frozen=True)
class Dataset:
    """Cases in file order; the hash is of the whole file, whatever split was asked for."""

    name: str
    cases: tuple[Case, ...]
    content_hash: str


def load_dataset(path: Path, split: Split | None = None) -> Dataset:
    """Read a dataset, or one split of it.

    Raises:
        InvalidInput: names the line and what is wrong with it.

    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the dataset {path} cannot be read: {error.strerror}") from None
    cases: dict[str, Case] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            case = Case.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "case"
            raise InvalidInput(f"{path}:{number}: {where}: {first['msg']}") from None
        if case.id in cases:
            raise InvalidInput(f"{path}:{number}: the id {case.id!r} is used twice")
        cases[case.id] = case
    chosen = tuple(case for case in cases.values() if split in (None, case.split))
    return Dataset(path.stem, chosen, hashlib.sha256(raw).hexdigest())
