"""The arithmetic of the benchmarks, and one of them on ten documents."""

import json
import random
import subprocess
from itertools import islice
from pathlib import Path
from statistics import fmean

import pytest

from tools.beir import paired_bootstrap, read_collection, read_texts, recombine, score, verdict
from tools.peers import PINS
from tools.render import ROOT

TOPICS = ["breakers", "budgets", "caches", "chunks", "citations", "evals", "keys", "ledgers", "prompts", "vectors"]
IR_MEASURES = """
import json, sys
import ir_measures
from ir_measures import RR, R, nDCG
run, judgements = json.load(sys.stdin)
scores = {query: {d: -rank for rank, d in enumerate(found)} for query, found in run.items()}
names = {"nDCG@10": nDCG @ 10, "recall@10": R @ 10, "recall@100": R @ 100, "MRR@10": RR @ 10}
means = ir_measures.calc_aggregate(names.values(), judgements, scores)
print(json.dumps({name: means[measure] for name, measure in names.items()}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten documents in BEIR's form, each with a question of its own, and one question that nobody judged."""
    documents = [{"_id": f"d/{t}", "title": f"On {t}", "text": f"What {t} do.\nHow {t} fail."} for t in TOPICS]
    queries = [{"_id": f"q-{t}", "text": f"why do {t} fail"} for t in [*TOPICS, "tests"]]
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "qrels").mkdir()
    judged = "".join(f"q-{t}\td/{t}\t1\n" for t in TOPICS)
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    return tmp_path


def test_folder_becomes_files_and_judged_queries(folder: Path, tmp_path: Path) -> None:
    """Each document is a Markdown file under its title, and only queries with a relevant document are asked."""
    collection = read_collection(folder, tmp_path / "files")
    assert collection.files["d/caches"].read_text("utf-8") == "# On caches\n\nWhat caches do.\nHow caches fail."
    assert list(collection.queries) == [f"q-{topic}" for topic in TOPICS]
    assert collection.judgements["q-keys"] == {"d/keys": 1}


def test_metrics_of_a_query_worked_by_hand() -> None:
    """The second of two relevant documents at rank 2, the better one at rank 11: gains 1 of 3 + 1 / log2(3)."""
    run = {"q": ["x", "b", *"cdefghij", "a"], "nothing found": []}
    scores = score(run, {"q": {"a": 3, "b": 1, "c": 0}, "nothing found": {"a": 1}, "not asked": {"a": 1}})
    assert scores["nDCG@10"] == pytest.approx([0.6309 / 3.6309, 0, 0], abs=1e-4)
    assert scores["recall@10"] == [0.5, 0, 0]
    assert scores["recall@100"] == [1, 0, 0]
    assert scores["MRR@10"] == [0.5, 0, 0]


@pytest.mark.slow
def test_metrics_are_those_of_ir_measures() -> None:
    """On graded judgements and runs drawn at random every mean equals that of ir-measures."""
    drawn = random.Random(1)  # noqa: S311  # seeded
    documents = [f"d{number}" for number in range(300)]
    judgements = {f"q{n}": {d: drawn.randint(0, 3) for d in drawn.sample(documents, 30)} | {"d0": 1} for n in range(50)}
    run = {query: drawn.sample(documents, drawn.randint(1, 200)) for query in judgements}
    command = ["uv", "run", "--quiet", "--no-project", "--with", *PINS["ir-measures"], "python", "-c", IR_MEASURES]
    done = subprocess.run(
        command, input=json.dumps([run, judgements]), cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = {name: fmean(values) for name, values in score(run, judgements).items()}
    assert ours == pytest.approx(json.loads(done.stdout))


def test_interval_tells_a_difference_from_noise() -> None:
    """What is better at every query is better, and what is as often better as worse shows no difference."""
    base = [n / 100 for n in range(100)]
    better = [value + 0.1 for value in base]
    mixed = [value + 0.1 * (-1) ** n for n, value in enumerate(base)]
    assert paired_bootstrap(better, base) == pytest.approx((0.1, 0.1))
    assert verdict(paired_bootstrap(better, base)) == "better"
    assert verdict(paired_bootstrap(base, better)) == "worse"
    assert verdict(paired_bootstrap(mixed, base)) == "no difference shown"


def test_interval_has_the_width_of_the_standard_error() -> None:
    """For many differences it is the mean and 1.96 standard errors on each side."""
    drawn = random.Random(2)  # noqa: S311  # seeded
    differences = [drawn.gauss(0.05, 0.2) for _ in range(400)]
    low, high = paired_bootstrap(differences, [0.0] * 400)
    assert low == pytest.approx(fmean(differences) - 1.96 * 0.2 / 20, abs=0.004)
    assert high == pytest.approx(fmean(differences) + 1.96 * 0.2 / 20, abs=0.004)


def test_made_texts_are_new_and_look_like_the_given(folder: Path) -> None:
    """Made texts differ from each other, consist of the collection's words, have a title, and come again by a seed."""
    texts = list(read_texts(folder).values())
    made = list(islice(recombine(texts), 50))
    assert made == list(islice(recombine(texts), 50))
    assert len(set(made)) > 40
    assert {word for text in made for word in text.split()} <= {word for text in texts for word in text.split()}
    assert all(text.startswith("# ") for text in made)


@pytest.mark.slow
def test_bench_rag_on_ten_documents(folder: Path) -> None:
    """`make bench-rag` takes a folder of ten documents, finds each of them, and embeds nothing the second time."""
    command = ["make", "bench-rag", f"DATA={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| documents stored | 10 in 10 chunks" in done.stdout
    assert ", 0 embeddings, 0 stored |" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "no difference shown" in line]
    assert [row.split(" | ")[1:5] for row in rows] == [["1.000"] * 4] * 6
