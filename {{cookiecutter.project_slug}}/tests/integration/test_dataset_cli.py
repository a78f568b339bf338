"""`app dataset`, as the shell calls it: check, import, draft and review, all the way to an evaluation."""

import json
from pathlib import Path

import pytest

from app.evals.dataset import Case, Evidence, load_dataset, write_dataset
from tests.integration.conftest import TEA, Command, Ended
from tests.provider import Provider, Rejected, Reply

QUOTE = "Green tea is brewed at eighty degrees"
BREW = Case(
    id="brew",
    split="gate",
    question="How hot is the water for green tea?",
    answerable=True,
    relevant={"docs/tea.md": 1},
    evidence=(Evidence(document="docs/tea.md", quote=QUOTE),),
    reference="Eighty degrees.",
    tags=("short",),
)
MILK = Case(id="milk", split="tune", question="Is milk served?", answerable=False, tags=("short", "near-miss"))
DRAFTS, CASES = Path("drafts.jsonl"), Path("evals/cases.jsonl")


def test_check_counts_and_shows_the_hash(app: Command) -> None:
    """By split, by answer and by tag; the whole file's line is the last."""
    write_dataset([BREW, MILK], CASES)
    ended = app("dataset", "check", str(CASES))
    rows = [line.strip("│").split("│") for line in ended.out.splitlines() if line.startswith("│")]
    short = [load_dataset(CASES, split).content_hash[:12] for split in ("tune", "gate", None)]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["tune", "1", "0", "1", short[0]],
        ["gate", "1", "1", "0", short[1]],
        ["all", "2", "1", "1", short[2]],
    ]
    assert (ended.status, ended.out.splitlines()[-1]) == (0, "tags: short 2, near-miss 1")
    write_dataset([], CASES)
    assert app("dataset", "check", str(CASES)).out.splitlines()[-1] == "tags: none"


def test_check_compares_with_the_documents(app: Command) -> None:
    """A document that is missing and a quote that is not in it are named, with status 1."""
    write_dataset([BREW, MILK], CASES)
    fine = app("dataset", "check", str(CASES), "--documents", "docs")
    assert (fine.status, fine.out.splitlines()[-1]) == (
        0,
        "every relevant document is there, and every quote stands in it",
    )
    Path("docs/tea.md").write_text(TEA.replace("eighty", "ninety"))
    Path("docs/broken.md").write_bytes(b"\0")  # no case rests on it, so nobody reads it
    stale = app("dataset", "check", str(CASES), "--documents", "docs")
    assert (stale.status, stale.out.splitlines()[-1]) == (1, f"brew: this does not stand in docs/tea.md: {QUOTE}")
    gone = app("dataset", "check", str(CASES), "--documents", "evals")
    assert (gone.status, gone.out.splitlines()[-1]) == (1, "brew: there is no document docs/tea.md")


def test_check_names_every_faulty_line(app: Command) -> None:
    """On the error stream, with status 2."""
    Path("bad.jsonl").write_text("{\n[]\n")
    ended = app("dataset", "check", "bad.jsonl")
    assert (ended.status, ended.out) == (2, "")
    first, second = ended.err.splitlines()
    assert first.startswith("error: bad.jsonl:1: Invalid JSON")
    assert second.startswith("bad.jsonl:2: Input should be an object")


@pytest.fixture
def beir(app: Command) -> Path:  # noqa: ARG001  # its folder is where this one is
    """A folder in the form of BEIR: each of ten documents answers one question."""
    folder = Path("numbers")
    folder.mkdir()
    corpus = [{"_id": f"D{n}", "title": f"Key {n}", "text": f"The key zq{n}x hangs upstairs."} for n in range(10)]
    queries = [{"_id": f"Q{n}", "text": f"Where is the key zq{n}x?"} for n in range(11)]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"Q{n}\tD{n}\t1\n" for n in range(10)))
    return folder


def test_a_beir_folder_is_imported_in_one_command(app: Command, beir: Path) -> None:
    """Its dataset fits its documents, its splits follow the seed, and what was left out is counted."""
    ended = app("dataset", "import", str(beir), "evals/numbers.jsonl", "--gate-share", "0.4", "--seed", "3")
    assert ended.status == 0
    assert ended.out.splitlines()[-2:] == [
        "10 documents are in evals/numbers",
        "left out: 1 queries without text or a relevant document",
    ]
    checked = app("dataset", "check", "evals/numbers.jsonl", "--documents", "evals/numbers")
    assert checked.status == 0
    again = app("dataset", "import", str(beir), "again.jsonl", "--gate-share", "0.4", "--seed", "3")
    other = app("dataset", "import", str(beir), "other.jsonl", "--gate-share", "0.4", "--seed", "4")
    assert (again.status, other.status) == (0, 0)
    splits = [
        [case.split for case in load_dataset(Path(f"{name}.jsonl")).cases]
        for name in ("evals/numbers", "again", "other")
    ]
    assert splits[0] == splits[1] != splits[2]


def test_an_import_replaces_nothing(app: Command, beir: Path) -> None:
    """Neither a dataset nor documents that are there."""
    CASES.parent.mkdir()
    CASES.write_text("mine")
    refused = app("dataset", "import", str(beir), str(CASES))
    assert (refused.status, CASES.read_text()) == (2, "mine")
    assert refused.err == "error: evals/cases.jsonl exists already: name another, or remove it"
    refused = app("dataset", "import", str(beir), "new.jsonl", "--documents", "docs")
    assert refused.err == "error: docs exists already: name another, or remove it"
    assert not Path("new.jsonl").exists()
    assert [path.name for path in Path("docs").iterdir()] == ["tea.md"]


def test_a_csv_is_imported(app: Command) -> None:
    """Without documents: they are the team's own."""
    Path("sheet.csv").write_text(f"question,relevant,evidence\nHow hot?,docs/tea.md,docs/tea.md: {QUOTE}\n")
    assert app("dataset", "import", "sheet.csv", str(CASES)).status == 0
    assert app("dataset", "check", str(CASES), "--documents", "docs").status == 0
    faulty = app("dataset", "import", "sheet.csv", "--gate-share", "2", "b.jsonl")
    assert (faulty.status, "--gate-share" in faulty.err) == (2, True)


@pytest.fixture
def model(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A chat model that drafts one case of the tea, and a near miss."""
    made = {"question": BREW.question, "quote": QUOTE, "reference": BREW.reference, "near_miss": MILK.question}
    provider.always(Reply(json.dumps(made)))
    monkeypatch.setenv("CHAT_MODEL", "openai/test")
    monkeypatch.setenv("CHAT_API_BASE", provider.url)
    monkeypatch.setenv("MAX_ATTEMPTS", "1")
    return provider


def test_drafts_go_into_a_file_of_their_own(app: Command, model: Provider) -> None:
    """With what to do next; what is there is never replaced."""
    Path("docs/broken.md").write_bytes(b"\0")
    ended = app("dataset", "draft", "docs", "-o", str(DRAFTS), "--near-misses")
    assert ended.status == 0
    assert ended.out.splitlines()[0].startswith("skipped docs/broken.md is no format")
    assert ended.out.splitlines()[-1] == (
        "2 drafts are in drafts.jsonl; read them: `app dataset review drafts.jsonl --dataset FILE`"
    )
    cases = load_dataset(DRAFTS).cases
    assert [(case.question, case.source) for case in cases] == [(BREW.question, "draft"), (MILK.question, "draft")]
    assert app("dataset", "draft", "docs", "-o", str(DRAFTS)).err.startswith("error: drafts.jsonl exists already")
    assert model.count.calls == 1


def test_drafting_needs_a_model_that_writes(app: Command) -> None:
    """The offline one does not; the error says what to set."""
    ended = app("dataset", "draft", "docs", "-o", str(DRAFTS))
    assert (ended.status, DRAFTS.exists()) == (2, False)
    assert "offline/extractive quotes: set CHAT_MODEL and CHAT_API_KEY in .env" in ended.err


def test_drafting_says_what_went_wrong(app: Command, model: Provider) -> None:
    """What was dropped and why, with status 1; a failure of every call, or nothing to read, with status 2."""
    model.then(Reply(json.dumps({"question": "So?", "quote": "Black tea", "reference": "", "near_miss": ""})))
    dropped = app("dataset", "draft", "docs", "-o", str(DRAFTS))
    assert (dropped.status, dropped.out) == (1, "dropped 1: the quote does not stand in the document")
    model.always(Rejected(401, "wrong key"))
    failed = app("dataset", "draft", "docs", "-o", str(DRAFTS))
    assert failed.status == 2
    assert "wrong key" in failed.err
    Path("empty").mkdir()
    assert app("dataset", "draft", "empty", "-o", str(DRAFTS)).err == "error: there is nothing to ask about in empty"
    assert not DRAFTS.exists()


def review(app: Command, *lines: str) -> Ended:
    """Review the drafts with these lines typed."""
    return app("dataset", "review", str(DRAFTS), "--dataset", str(CASES), stdin="\n".join([*lines, ""]))


def ids(path: Path) -> list[str]:
    """Which cases a file holds."""
    return [case.id for case in load_dataset(path).cases] if path.exists() else []


def test_a_review_shows_each_draft_and_moves_it(app: Command) -> None:
    """Accepted ones into the dataset, rejected ones nowhere, the others stay; at the end the drafts' file is gone."""
    third = MILK.model_copy(update={"id": "third", "question": "Is sugar served?"})
    write_dataset([BREW, MILK, third], DRAFTS)
    stopped = review(app, "a", "s")
    assert stopped.status == 0
    for shown in (BREW.question, f"{QUOTE} (docs/tea.md)", BREW.reference, "3 left", "gate, short"):
        assert shown in stopped.out
    assert "none: accept it only if no document answers it" in stopped.out
    assert stopped.out.endswith("2 left in drafts.jsonl")
    assert (ids(CASES), ids(DRAFTS)) == (["brew"], ["milk", "third"])
    ended = review(app, "r", "a")
    assert (ids(CASES), DRAFTS.exists()) == (["brew", "third"], False)
    assert "nothing is left to review" in ended.out


def test_a_draft_can_be_edited(app: Command) -> None:
    """An empty line keeps a text; the edit is kept, also where the review is stopped before it is accepted."""
    write_dataset([BREW, MILK], DRAFTS)
    review(app, "e", "How warm?", "", "80 degrees", "s")
    edited = BREW.model_copy(update={"question": "How warm?", "reference": "80 degrees"})
    assert load_dataset(DRAFTS).cases == (edited, MILK)
    review(app, "e", "", "eighty degrees", "", "a", "e", "Is it served with milk?", "a")
    evidence = (Evidence(document="docs/tea.md", quote="eighty degrees"),)
    assert load_dataset(CASES).cases == (
        edited.model_copy(update={"evidence": evidence}),
        MILK.model_copy(update={"question": "Is it served with milk?"}),
    )


def test_an_interrupted_review_loses_nothing(app: Command) -> None:
    """Neither where the input ends, nor between the dataset and the drafts."""
    write_dataset([BREW, MILK], DRAFTS)
    ended = review(app, "a")
    assert ended.status != 0
    assert (ids(CASES), ids(DRAFTS)) == (["brew"], ["milk"])
    write_dataset([BREW, MILK], DRAFTS)  # as if it had ended after the dataset was written
    review(app, "a")
    assert (ids(CASES), DRAFTS.exists()) == (["brew", "milk"], False)


def test_a_question_that_is_there_is_not_accepted(app: Command) -> None:
    """It says so, and asks again; the dataset stays as it is."""
    write_dataset([MILK], CASES)
    write_dataset([MILK.model_copy(update={"id": "new"})], DRAFTS)
    ended = review(app, "x", "a", "s")
    assert "evals/cases.jsonl has the question 'is milk served?' already: edit or reject it" in ended.out
    assert (ids(CASES), ids(DRAFTS)) == (["milk"], ["new"])


def test_drafts_are_not_reviewed_into_themselves(app: Command) -> None:
    """That would remove the file."""
    write_dataset([MILK], DRAFTS)
    ended = app("dataset", "review", str(DRAFTS), "--dataset", "docs/../drafts.jsonl")
    assert (ended.status, ended.err) == (2, "error: the drafts and the dataset are the same file")
    assert ids(DRAFTS) == ["milk"]
