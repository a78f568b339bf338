"""Imports: a BEIR folder or a CSV file becomes cases, and the folder's corpus becomes documents to ingest.

BEIR: Thakur et al., 2021. Knows nothing of how documents are ingested, or of how cases are run.
"""

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidInput
from app.evals.dataset import Case, DrawSplit, collect, names, question_id, read_lines
from app.rag.ingest import source_of

SEPARATOR = "|"
"""Between several values in one cell of a CSV file."""
SEVERAL = ("relevant", "evidence", "forbidden", "tags")
JUDGEMENT = re.compile(r"([^\t]+)\t([^\t]+)\t(-?[0-9]+|score)\s*")
SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import: cases, how many documents were written, and how much was left out, by reason."""

    cases: Sequence[Case]
    documents: int
    left_out: Counter[str]


class Record(BaseModel):
    """A line of `corpus.jsonl` or `queries.jsonl`; the `answer` of a query is its reference where it is a text."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str = Field(alias="_id", min_length=1)
    title: str = ""
    text: str
    answer: Any = None


def import_beir(folder: Path, documents: Path, split: DrawSplit) -> Imported:
    """Write the corpus as Markdown files into `documents`, and make a case of each query that one of them answers.

    Raises:
        InvalidInput: a file is missing, or names each of its faulty lines; nothing is written then.

    """
    corpus = read_lines(folder / "corpus.jsonl", Record.model_validate_json, _id)
    queries = read_lines(folder / "queries.jsonl", Record.model_validate_json, _id)
    qrels = folder / "qrels.tsv"
    judgements = read_lines(qrels if qrels.exists() else folder / "qrels" / "test.tsv", _judgement)
    sources = dict(_write(corpus, documents))
    relevant = defaultdict[str, dict[str, int]](dict)
    left_out = Counter({"documents without text": len(corpus) - len(sources)})
    for query_id, document, grade in judgements:
        if grade > 0 and document in sources:
            relevant[query_id][sources[document]] = grade
        elif grade > 0:
            left_out["judgements of documents that are not there or have no text"] += 1
    cases: dict[str, Case] = {}
    for query in queries:
        if not (query.text.strip() and relevant[query.id]):
            left_out["queries without text or a relevant document"] += 1
        elif (key := question_id(query.text)) in cases:
            left_out["queries asked twice"] += 1
        else:
            cases[key] = Case(
                id=query.id,
                split=split(query.id),
                question=query.text.strip(),
                answerable=True,
                relevant=relevant[query.id],
                reference=query.answer if isinstance(query.answer, str) else "",
                source=folder.resolve().name,
            )
    return Imported(tuple(cases.values()), len(sources), +left_out)


def import_csv(path: Path, split: DrawSplit) -> Imported:
    """Make each row a case: the columns are named as the fields, and several values stand between SEPARATOR.

    Raises:
        InvalidInput: names the lines and columns that are faulty.

    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: {error}; save the file as CSV UTF-8") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True, restkey="", restval="")
    try:
        lines = ((rows.line_num, partial(_case, row, path.stem, split)) for row in rows)
        return Imported(collect(path, lines, names), 0, Counter())
    except csv.Error as error:
        raise InvalidInput(f"{path}:{rows.reader.line_num}: {error}") from None


def _case(row: dict[str, str], source: str, split: DrawSplit) -> Case:
    if "" in row:
        raise ValueError("there are more values than columns, or a column without a name")
    given: dict[str, Any] = {name: value.strip() for name, value in row.items() if value.strip()}
    for name in SEVERAL:
        given[name] = [value.strip() for value in given.get(name, "").split(SEPARATOR) if value.strip()]
    given["relevant"] = dict(map(_graded, given["relevant"]))
    given["evidence"] = list(map(_evidence, given["evidence"]))
    key = given.setdefault("id", question_id(row.get("question", "")))
    return Case.model_validate({"split": split(key), "answerable": True, "source": source} | given)


def _graded(value: str) -> tuple[str, int]:
    """`guide.md`, or `guide.md=2` where the grade is 2."""
    document, _, grade = value.rpartition("=")
    return (document.strip(), int(grade)) if document and grade.strip().isdecimal() else (value, 1)


def _evidence(value: str) -> dict[str, str]:
    document, colon, quote = value.partition(":")
    if not colon:
        raise ValueError("evidence: write the document, a colon and its words, as in guide.md: words")
    return {"document": document.strip(), "quote": quote.strip()}


def _id(record: Record) -> list[str]:
    return [f"the id {record.id!r}"]


def _judgement(line: str) -> tuple[str, str, int]:
    """Query, document, grade; the header has a word for a grade, and judges nothing."""
    if not (found := JUDGEMENT.fullmatch(line)):
        raise ValueError("a line is the id of a query, the id of a document and a whole number, with tabs between")
    query, document, grade = found.groups()
    return query, document, 0 if grade == "score" else int(grade)


def _write(corpus: Sequence[Record], folder: Path) -> Iterator[tuple[str, str]]:
    """Write the documents that hold text, and give the id and the source of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in corpus:
        title, text = " ".join(record.title.split()), record.text.strip()
        if title or text:
            path = folder / f"{file_name(record.id)}.md"
            path.write_text(f"# {title}\n\n{text}\n" if title else f"{text}\n", encoding="utf-8")
            yield record.id, source_of(path)


def file_name(key: str) -> str:
    """The id itself where every file system takes it; else with its hash, after a sign that no such id has."""
    if SAFE_NAME.fullmatch(key):
        return key
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', key)[:40].strip('-')}~{hashlib.sha256(key.encode()).hexdigest()[:16]}"
