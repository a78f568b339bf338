"""Collections with judged queries, and what is counted on them; a folder has the form of BEIR.

    corpus.jsonl    {"_id", "title", "text"}, one document a line
    queries.jsonl   {"_id", "text"}
    qrels.tsv       query-id, corpus-id, score, after a line of headings; or qrels/test.tsv

Knows nothing of what retrieves.
"""

import csv
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log2
from pathlib import Path
from typing import Any

RESAMPLES = 10_000
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
SHARE_EXCHANGED = 0.15  # of the words
TITLE_WORDS = 8

Judgements = Mapping[str, Mapping[str, int]]
"""For each query the documents that were judged, and how relevant they are; 0 is not."""
Run = Mapping[str, Sequence[str]]
"""For each query the documents that were found, best first."""
Scores = dict[str, list[float]]
"""For each metric a value for each query, in the order of the judgements."""


@dataclass(frozen=True)
class Collection:
    """The file of each document by its id, the queries that have a relevant document, and the judgements."""

    files: dict[str, Path]
    queries: dict[str, str]
    judgements: Judgements


def read_texts(folder: Path, most: int | None = None) -> dict[str, str]:
    """Markdown by document: the title as its heading, if there is one, and the text."""
    documents = islice(_json_lines(folder / "corpus.jsonl"), most)
    return {d["_id"]: (f"# {d['title']}\n\n" if d.get("title") else "") + d["text"] for d in documents}


def read_collection(folder: Path, target: Path) -> Collection:
    """Read a folder, and write each of its documents into a file below `target`, as a user would have them."""
    files = write_files(read_texts(folder), target)
    judgements = _judgements(folder)
    queries = {query["_id"]: query["text"] for query in _json_lines(folder / "queries.jsonl")}
    return _judged(files, queries, judgements)


def read_field_guide(project: Path) -> Collection:
    """The shipped corpus and documentation with the questions of the shipped dataset; a document's id is its path."""
    paths = [path for name in ("corpus", "docs") for path in sorted((project / name).rglob("*")) if path.is_file()]
    files = {path.relative_to(project).as_posix(): path for path in paths}
    cases = list(_json_lines(project / "evals" / "datasets" / "field-guide.jsonl"))
    judgements = {case["id"]: dict.fromkeys(case["relevant"], 1) for case in cases}
    return _judged(files, {case["id"]: case["question"] for case in cases}, judgements)


def write_files(texts: Mapping[str, str], target: Path) -> dict[str, Path]:
    """Write each text into a Markdown file; ids may hold what a file's name may not."""
    target.mkdir(parents=True)
    files = {name: target / f"{number:07}.md" for number, name in enumerate(texts)}
    for name, file in files.items():
        file.write_text(texts[name], encoding="utf-8")
    return files


def _judged(files: dict[str, Path], queries: Mapping[str, str], judgements: Judgements) -> Collection:
    """Only queries that have a relevant document can be scored."""
    scored = {query: judged for query, judged in judgements.items() if query in queries and any(judged.values())}
    return Collection(files, {query: queries[query] for query in scored}, scored)


def _judgements(folder: Path) -> Judgements:
    files = [folder / name for name in ("qrels.tsv", "qrels/test.tsv", "qrels/dev.tsv", "qrels/train.tsv")]
    with next(file for file in files if file.exists()).open(encoding="utf-8", newline="") as lines:
        judgements: dict[str, dict[str, int]] = {}
        for query, document, score in islice(csv.reader(lines, delimiter="\t"), 1, None):
            judgements.setdefault(query, {})[document] = int(score)
    return judgements


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def score(run: Run, judgements: Judgements) -> Scores:
    """The metrics of each query. A query without results scores 0."""
    pairs = [([judged.get(d, 0) for d in run.get(query, ())], judged) for query, judged in judgements.items()]
    return {
        "nDCG@10": [_ndcg(gains[:10], judged) for gains, judged in pairs],
        "recall@10": [_recall(gains[:10], judged) for gains, judged in pairs],
        "recall@100": [_recall(gains[:100], judged) for gains, judged in pairs],
        "MRR@10": [next((1 / rank for rank, gain in enumerate(gains[:10], 1) if gain), 0.0) for gains, _ in pairs],
    }


def _ndcg(gains: Sequence[int], judged: Mapping[str, int]) -> float:
    """Normalised discounted cumulative gain as trec_eval has it: the gain is the judgement itself."""
    return _dcg(gains) / _dcg(sorted(judged.values(), reverse=True)[:10])


def _dcg(gains: Iterable[int]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _recall(gains: Iterable[int], judged: Mapping[str, int]) -> float:
    return sum(gain > 0 for gain in gains) / sum(gain > 0 for gain in judged.values())


def paired_bootstrap(values: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean difference, over the queries drawn anew many times (Efron, 1979)."""
    differences = [value - other for value, other in zip(values, base, strict=True)]
    drawn = random.Random(0)  # noqa: S311  # seeded, so that a run can be repeated
    means = sorted(sum(drawn.choices(differences, k=len(differences))) / len(differences) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def verdict(interval: tuple[float, float]) -> str:
    """What an interval of a difference allows to say."""
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


def recombine(texts: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Markdown without end, each as long as one of `texts`: sentences of two of them, some words exchanged.

    A word is exchanged for one of the collection, so that frequent words stay frequent, and no two texts are equal.
    """
    drawn = random.Random(seed)  # noqa: S311  # seeded, so that a run can be repeated
    sentences = [SENTENCE_END.split(HEADING.sub("", text).strip()) for text in texts]
    words = [word for text in texts for word in text.split()]
    while True:
        one, other = drawn.choice(sentences), drawn.choice(sentences)
        mixed = [drawn.choice((sentence, drawn.choice(other))) for sentence in one]
        text = " ".join(_exchange(sentence, words, drawn) for sentence in mixed)
        yield f"# {' '.join(text.split()[:TITLE_WORDS])}\n\n{text}"


def _exchange(sentence: str, words: Sequence[str], drawn: random.Random) -> str:
    return " ".join(drawn.choice(words) if drawn.random() < SHARE_EXCHANGED else word for word in sentence.split())
