"""Datasets: faulty lines are all named, a hash is of what cases say, and imports become cases and documents."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.datasets.importing import file_name, import_beir, import_csv
from app.errors import InvalidInput
from app.evals.dataset import (
    MOST_SHOWN,
    Case,
    Evidence,
    Split,
    append_case,
    content_hash,
    load_dataset,
    question_id,
    split_of,
    write_dataset,
)

RIVERS = Case(
    id="1",
    split="gate",
    question="Where do rivers run?",
    answerable=True,
    relevant={"a.md": 1, "b.md": 1},
    evidence=(Evidence(document="a.md", quote="to the sea"), Evidence(document="b.md", quote="never full")),
    reference="To the sea.",
    tags=("short",),
)
WHY = Case(id="2", split="tune", question="Why?", answerable=False)
LINE = RIVERS.model_dump_json().replace('{"a.md":1,"b.md":1}', '["a.md","b.md"]')
TEXT = st.text(min_size=1, max_size=9)
CASES = st.lists(
    st.builds(
        Case,
        id=TEXT,
        split=st.sampled_from(["tune", "gate"]),
        question=TEXT,
        answerable=st.just(value=True),
        relevant=st.dictionaries(TEXT, st.integers(1, 3), min_size=1, max_size=3),
        reference=st.text(max_size=9),
        forbidden=st.lists(TEXT, max_size=2).map(tuple),
    ),
    max_size=4,
    unique_by=(lambda case: case.id, lambda case: question_id(case.question)),
)


def gate(_: str) -> Split:
    """Everything goes into one split."""
    return "gate"


def dataset(tmp_path: Path, *lines: str | bytes) -> Path:
    """A file with these lines."""
    file = tmp_path / "cases.jsonl"
    file.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return file


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", ":3: Invalid JSON: "),
        (b"\xff\xfe", ":3: 'utf-8' codec can't decode byte 0xff in position 0: .*; save the file as UTF-8"),
        ("[]", ":3: Input should be an object"),
        (LINE.replace('"1"', '"2"').upper(), ":3: Invalid JSON"),
        (LINE.replace("Where do", " where  DO"), ":3: the id '1' is in line 1 too; the question 'where do rivers run"),
        (LINE.replace('"1"', '"2"'), r":3: the question 'where do rivers run\?' is in line 1 too"),
        ('{"id": "", "split": "all"}', ":3: id: String .* 1 character; split: Input .*; question: Field required; ans"),
        (LINE.replace('"tags"', '"tagz"'), ":3: tagz: Extra inputs are not permitted"),
        (LINE.replace('"to the sea"', '""'), r":3: evidence.0.quote: String should have at least 1 character"),
        (LINE.replace('["a.md","b.md"]', '["a.md"]'), ":3: a document of the evidence is missing from relevant"),
        (LINE.replace('["a.md","b.md"]', '{"a.md":0,"b.md":1}'), ":3: relevant.a.md: .* greater than or equal to 1"),
        (LINE.replace("true", "false"), ":3: a case that is not answerable has no relevant documents and no evidence"),
        ('{"id": "2", "split": "gate", "question": "?", "answerable": true}', ":3: an answerable case needs relevant"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str | bytes, reason: str) -> None:
    """With every mistake in it; blank lines are skipped and counted, so that the number is the editor's."""
    with pytest.raises(InvalidInput, match=reason):
        load_dataset(dataset(tmp_path, LINE, "", line))


def test_all_wrong_lines_are_named_at_once(tmp_path: Path) -> None:
    """Up to a dozen, and how many more there are."""
    with pytest.raises(InvalidInput) as few:
        load_dataset(dataset(tmp_path, "{", LINE, b"\xff", LINE))
    assert [line.rpartition("cases.jsonl")[2][:3] for line in few.value.message.splitlines()] == [":1:", ":3:", ":4:"]
    with pytest.raises(InvalidInput) as many:
        load_dataset(dataset(tmp_path, *["{"] * (MOST_SHOWN + 7)))
    *shown, more = many.value.message.splitlines()
    assert (len(shown), more) == (MOST_SHOWN, "and 7 more faulty lines")
    with pytest.raises(InvalidInput) as dozen:
        load_dataset(dataset(tmp_path, *["{"] * MOST_SHOWN))
    assert "more faulty lines" not in dozen.value.message


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    """Editors write them; the cases are the same, and so is the hash."""
    plain = load_dataset(dataset(tmp_path, LINE, WHY.model_dump_json()))
    marked = load_dataset(dataset(tmp_path, b"\xef\xbb\xbf" + LINE.encode() + b"\r", WHY.model_dump_json()))
    assert plain == marked
    assert plain.cases == (RIVERS, WHY)
    assert plain.name == "cases"


def test_a_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    """JSON allows U+2028 and U+0085 inside of a text."""
    odd = WHY.model_copy(update={"question": "Why\u2028so\x85?"})
    assert load_dataset(dataset(tmp_path, odd.model_dump_json())).cases == (odd,)


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    """A folder is no dataset either."""
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InvalidInput, match=f"{path} cannot be read"):
            load_dataset(path)


def test_the_hash_is_of_what_the_loaded_cases_say(tmp_path: Path) -> None:
    """Neither layout nor order changes it, nor a case of the other split; any word and any grade does."""
    both = load_dataset(dataset(tmp_path, LINE, WHY.model_dump_json()))
    pretty = json.dumps(dict(reversed(json.loads(LINE).items())) | {"relevant": {"b.md": 1, "a.md": 1}})
    assert load_dataset(dataset(tmp_path, WHY.model_dump_json(), "", pretty)).content_hash == both.content_hash
    alone = load_dataset(dataset(tmp_path, LINE))
    gated = load_dataset(dataset(tmp_path, LINE, WHY.model_dump_json()), "gate")
    assert gated.cases == (RIVERS,)
    assert gated.content_hash == alone.content_hash != both.content_hash
    others = [LINE.replace("the sea", "a sea"), LINE.replace('["a.md","b.md"]', '{"a.md":2,"b.md":1}')]
    others += [LINE.replace('"1"', '"3"'), LINE.replace("gate", "tune"), LINE.replace("short", "long")]
    hashes = {load_dataset(dataset(tmp_path, line)).content_hash for line in [LINE, *others]}
    assert len(hashes) == len(others) + 1


def test_the_hash_of_a_case_stays_from_version_to_version() -> None:
    """A baseline that was written with it is compared for years; fields that say nothing are left out of it."""
    assert content_hash([WHY]) == "dcd2d6c26f6ca8995826958e5b626c8c5049d3da85304eb75fe00f8e843c7412"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a dataset is to be written, again and again."""
    return tmp_path_factory.mktemp("written") / "new" / "cases.jsonl"


@given(CASES)
def test_what_is_written_is_read_back(written: Path, cases: list[Case]) -> None:
    """Every text survives, whatever it holds; what was there is gone, and nothing else is left in the folder."""
    write_dataset(cases, written)
    assert load_dataset(written).cases == tuple(cases)
    assert list(written.parent.iterdir()) == [written]


def test_a_case_is_added_below_what_is_there(tmp_path: Path) -> None:
    """The lines before it keep their layout, also where the last one had no end; a new file is begun."""
    file = dataset(tmp_path, LINE)
    append_case(WHY, file)
    assert file.read_text("utf-8").splitlines()[0] == LINE
    assert load_dataset(file).cases == (RIVERS, WHY)
    append_case(WHY.model_copy(update={"id": "3", "question": "How?"}), file)
    assert [case.id for case in load_dataset(file).cases] == ["1", "2", "3"]
    assert file.read_bytes().count(b"\n") == 3
    append_case(WHY, tmp_path / "new" / "other.jsonl")
    assert load_dataset(tmp_path / "new" / "other.jsonl").cases == (WHY,)


def test_a_case_is_not_added_twice(tmp_path: Path) -> None:
    """Neither its id nor its question, and the file stays as it is."""
    file = dataset(tmp_path, LINE, WHY.model_dump_json())
    before = file.read_bytes()
    for changed, told in (({"id": "3"}, "the question 'why"), ({"question": "How?"}, "the id '2'")):
        with pytest.raises(InvalidInput, match=rf"cases.jsonl has {told}.* already"):
            append_case(WHY.model_copy(update=changed), file)
    assert file.read_bytes() == before


def test_splits_are_drawn_by_share_and_seed() -> None:
    """Near the share asked for, none and all at its ends, and another seed draws otherwise."""
    keys = [str(n) for n in range(1_000)]
    drawn = {seed: [split_of(key, seed=seed, gate_share=0.3) for key in keys] for seed in (0, 1)}
    assert 250 < drawn[0].count("gate") < 350
    assert drawn[0] != drawn[1]
    assert drawn[0] == [split_of(key, seed=0, gate_share=0.3) for key in keys]
    assert {split_of(key, seed=0, gate_share=0) for key in keys} == {"tune"}
    assert {split_of(key, seed=0, gate_share=1) for key in keys} == {"gate"}


def beir(folder: Path, corpus: list[Any], queries: list[Any], qrels: str, where: str = "qrels.tsv") -> Path:
    """A folder in the form of BEIR."""
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).write_text(qrels)
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder


def test_a_beir_folder_becomes_cases_and_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Titles become headings, grades are kept, and what is of no use is left out and counted."""
    monkeypatch.chdir(tmp_path)
    folder = beir(
        Path("tiny"),
        [
            {"_id": "d1", "title": "On\nrivers", "text": " They run. "},
            {"_id": "D1", "text": "Lakes rest."},
            {"_id": 3, "title": "", "text": " "},
        ],
        [
            {"_id": "q1", "text": " Where? ", "answer": "There.", "metadata": {"any": 1}},
            {"_id": 2, "text": "Who?", "answer": ["a", "b"]},
            {"_id": "q3", "text": "Never judged?"},
            {"_id": "q4", "text": "WHERE?"},
            {"_id": "q5", "text": " "},
            {"_id": "q6", "text": "Only about what is not there?"},
        ],
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\tD1\t0\n2\td1\t1\r\n2\tD1\t3\nq3\td1\t-1\nq4\td1\t1\nq5\td1\t1\n"
        "q6\tnone\t1\nq6\t3\t1\nnone\td1\t1",
    )
    made = import_beir(folder, Path("docs"), gate)
    lakes = f"docs/{file_name('D1')}.md"
    assert made.documents == 2
    assert made.left_out == {
        "documents without text": 1,
        "judgements of documents that are not there or have no text": 2,
        "queries without text or a relevant document": 3,
        "queries asked twice": 1,
    }
    assert {path.as_posix(): path.read_text() for path in Path("docs").iterdir()} == {
        "docs/d1.md": "# On rivers\n\nThey run.\n",
        lakes: "Lakes rest.\n",
    }
    first, second = made.cases
    assert (first.id, first.question, first.reference, first.source) == ("q1", "Where?", "There.", "tiny")
    assert (first.split, first.answerable, first.relevant) == ("gate", True, {"docs/d1.md": 2})
    assert (second.id, second.reference, second.relevant) == ("2", "", {"docs/d1.md": 1, lakes: 3})


def test_the_test_judgements_of_a_beir_folder_are_found(tmp_path: Path) -> None:
    """Where there is no qrels.tsv; without a header too, and the split is drawn by the query's id."""
    record = {"_id": "x", "text": "One?"}
    folder = beir(tmp_path / "in", [record], [record], "x\tx\t1", "qrels/test.tsv")
    made = import_beir(folder, tmp_path / "out", {"x": "tune"}.__getitem__)  # type: ignore[arg-type]  # a Split
    assert [(case.split, list(case.relevant)) for case in made.cases] == [("tune", [f"{tmp_path}/out/x.md"])]
    assert dict(made.left_out) == {}


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "told"),
    [
        ([{"_id": "1"}, {"text": "x"}], [], "", "corpus.jsonl:1: text: Field required\n.*corpus.jsonl:2: _id: Field"),
        ([{"_id": "1", "text": "x"}] * 2, [], "", "corpus.jsonl:2: the id '1' is in line 1 too"),
        ([], [{"_id": "", "text": "x"}], "", "queries.jsonl:1: _id: String should have at least 1 character"),
        ([], [], "a b 1\nq\td\t1\nq\td\tmuch\nq\t\t1", "qrels.tsv:1: a line is .*\n.*qrels.tsv:3: .*\n.*qrels.tsv:4: "),
    ],
)
def test_a_faulty_beir_folder_writes_nothing(
    tmp_path: Path, corpus: list[Any], queries: list[Any], qrels: str, told: str
) -> None:
    """File and lines are named, before a document is written."""
    with pytest.raises(InvalidInput, match=told):
        import_beir(beir(tmp_path / "in", corpus, queries, qrels), tmp_path / "out", gate)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_file_that_a_beir_folder_lacks_is_named(tmp_path: Path, missing: str) -> None:
    """Each of the three."""
    folder = beir(tmp_path, [], [], "")
    (folder / missing).unlink()
    with pytest.raises(InvalidInput, match=r"(corpus|queries)\.jsonl cannot be read|qrels.test\.tsv cannot be read"):
        import_beir(folder, tmp_path / "out", gate)


@given(st.lists(st.text(min_size=1, max_size=90) | st.sampled_from(["A", "a", ".", "..", "a/b", "a-b", "CON"])))
def test_ids_become_file_names_without_collisions(keys: list[str]) -> None:
    """Also on a file system that knows no difference of case; plain ids stay as they are."""
    made = {key: file_name(key) for key in keys}
    assert len({name.casefold() for name in made.values()}) == len(set(keys))
    for name in made.values():
        assert name.isascii()
        assert name.replace("-", "").replace("~", "").replace(".", "").replace("_", "").isalnum()
        assert name[0] != "."
        assert len(name) <= 80
    assert file_name("med-10.txt") == "med-10.txt"


def sheet(tmp_path: Path, text: str | bytes) -> Path:
    """A CSV file."""
    path = tmp_path / "sheet.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_rows_become_cases(tmp_path: Path) -> None:
    """Every field has its column; several values stand between bars, with their grade or document."""
    text = (
        "id,split,question,answerable,relevant,evidence,reference,forbidden,tags,source\r\n"
        '1,tune,"Where,\nthen?",yes,a.md=2 | b=c.md,"a.md: to: the sea|b=c.md:full",Sea.,lake|pond,x|,desk\r\n'
        "\r\n"
        "2,,Why?,no,,,,,,\r\n"
        "3,,How?,,2,,,,,\r\n"
    )
    first, second, third = import_csv(sheet(tmp_path, text), gate).cases
    assert first == Case(
        id="1",
        split="tune",
        question="Where,\nthen?",
        answerable=True,
        relevant={"a.md": 2, "b=c.md": 1},
        evidence=(Evidence(document="a.md", quote="to: the sea"), Evidence(document="b=c.md", quote="full")),
        reference="Sea.",
        forbidden=("lake", "pond"),
        tags=("x",),
        source="desk",
    )
    assert second == Case(id="2", split="gate", question="Why?", answerable=False, source="sheet")
    assert (third.answerable, third.relevant) == (True, {"2": 1})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_two_columns_are_enough(tmp_path: Path, separator: str) -> None:
    """As spreadsheets of any country write them, with a byte order mark; id and split are drawn from the question."""
    text = f"\ufeffquestion{separator}reference\nWhere?{separator}There.\n"
    [case] = import_csv(sheet(tmp_path, text), {question_id("where?"): "tune"}.__getitem__).cases  # type: ignore[arg-type]  # a Split
    assert case.model_dump(exclude_defaults=True) == {
        "id": question_id("Where?"),
        "split": "tune",
        "question": "Where?",
        "answerable": True,
        "reference": "There.",
        "source": "sheet",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("question,reference\n,There.\nWhy?,\nHow?,So.", r":2: question: Field required\n.*csv:3: an answerable case"),
        ("question,reference\nWhy?,So.\n\nwhy?,No.", r":4: the id '\w+' is in line 2 too; the question 'why\?' is in"),
        ("question,notes\nWhy?,x", r":2: notes: Extra inputs are not permitted"),
        ("question,answerable\nWhy?,maybe", r":2: answerable: Input should be a valid boolean"),
        ("question,split\nWhy?,test", r":2: split: Input should be 'tune' or 'gate'"),
        ("question,relevant,evidence\nWhy?,a.md,words", r":2: evidence: write the document, a colon and its words"),
        ("question,relevant,evidence\nWhy?,a.md,b.md: w", r":2: a document of the evidence is missing from relevant"),
        ("question,relevant\nWhy?,a.md=0", r":2: relevant.a.md: Input should be greater than or equal to 1"),
        ("question,reference\nWhy?,So.,more", r":2: there are more values than columns"),
        ("question,\nWhy?,So.", r":2: there are more values than columns, or a column without a name"),
        ('question,reference\n"Why?" he said,So.', r"sheet\.csv:2: ',' expected after '\"'"),
        ('question,reference\nWhy?,"So.', r"sheet\.csv:2: unexpected end of data"),
        (b"question,reference\nWhy?,\xfc", r"sheet\.csv: 'utf-8' codec can't decode .*; save the file as CSV UTF-8"),
    ],
)
def test_a_faulty_csv_is_refused(tmp_path: Path, text: str | bytes, told: str) -> None:
    """Line and column are named."""
    with pytest.raises(InvalidInput, match=told):
        import_csv(sheet(tmp_path, text), gate)


def test_an_empty_csv_has_no_cases(tmp_path: Path) -> None:
    """With or without a header."""
    assert import_csv(sheet(tmp_path, ""), gate).cases == []
    assert import_csv(sheet(tmp_path, "question,reference\n"), gate).cases == []
