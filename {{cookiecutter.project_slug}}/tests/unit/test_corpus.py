"""The dataset and the documents that come with the project fit each other."""

import pytest

from app.evals.dataset import Case, Dataset, load_dataset
from app.evals.gate import load_thresholds
from app.rag.loading import load_bytes
from app.rag.quotes import locate
from app.rag.sources import find_files
from app.types import Document
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """The shipped cases."""
    return load_dataset(PROJECT / "evals" / "datasets" / "field-guide.jsonl")


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    """What the cases ask about, as the application loads it, by its source in the dataset."""
    files = find_files([PROJECT / "corpus", PROJECT / "docs"])
    names = {file.relative_to(PROJECT).as_posix(): file for file in files}
    return {name: load_bytes(file.read_bytes(), source=name, max_bytes=1_000_000) for name, file in names.items()}


@pytest.fixture(scope="module")
def articles(documents: dict[str, Document]) -> list[Document]:
    """The field guide alone."""
    return [document for source, document in documents.items() if source.startswith("corpus/")]


def test_the_dataset_is_large_enough_to_judge_by(dataset: Dataset) -> None:
    """Both kinds of question are in it, in numbers that give a share some meaning."""
    unanswerable = [case for case in dataset.cases if not case.answerable]
    assert len(dataset.cases) >= 120
    assert len(unanswerable) >= 30


def test_both_splits_hold_both_kinds_of_question(dataset: Dataset) -> None:
    """A threshold that is set on one split is judged on the other; the gate's split has as many as it asks for."""
    kinds = {(case.split, case.answerable) for case in dataset.cases}
    assert kinds == {(split, kind) for split in ("tune", "gate") for kind in (True, False)}
    judged = [case for case in dataset.cases if case.split == "gate"]
    assert len(judged) >= load_thresholds(PROJECT / "evals" / "thresholds.toml").min_cases


def test_no_question_is_asked_twice(dataset: Dataset) -> None:
    """A question in both splits would be judged on what it was tuned with."""
    questions = [" ".join(case.question.lower().split()) for case in dataset.cases]
    assert len(questions) == len(set(questions))


def test_every_answerable_case_can_be_measured_in_every_way(dataset: Dataset) -> None:
    """Its documents are known, the words that answer it, and a short answer."""
    answerable = [case for case in dataset.cases if case.answerable]
    assert [case.id for case in answerable if not (case.relevant and case.evidence and case.reference)] == []


def test_every_relevant_document_exists(dataset: Dataset, documents: dict[str, Document]) -> None:
    """No case rests on a document that was renamed or removed."""
    assert {source for case in dataset.cases for source in case.relevant} <= documents.keys()


def test_every_evidence_stands_in_its_document(dataset: Dataset, documents: dict[str, Document]) -> None:
    """As the application reads the document, tags and line breaks gone."""

    def missing(case: Case) -> list[str]:
        return [e.quote for e in case.evidence if not locate(e.quote, documents[e.document].text)]

    assert [(case.id, quotes) for case in dataset.cases if (quotes := missing(case))] == []


def test_the_corpus_is_small_and_of_every_kind(articles: list[Document]) -> None:
    """40 to 60 articles in at most a megabyte: ingested in seconds, and every loader has work."""
    assert 40 <= len(articles) <= 60
    assert sum(file.stat().st_size for file in find_files([PROJECT / "corpus"])) <= 1_000_000
    assert {article.media_type for article in articles} == {"text/markdown", "text/html", "application/pdf"}


def test_every_article_has_a_title_and_text_of_its_own(articles: list[Document]) -> None:
    """Two articles with one title could not be told apart in a list of sources."""
    assert len({article.title for article in articles}) == len(articles)
    assert all(len(article.text) > 500 for article in articles)
