"""The cross-encoder: a small real model, read from a folder, and from a hub over real HTTP."""

import asyncio
import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from app.errors import ConfigurationError, DeadlineExceeded, ProviderGarbled
from app.gateway.context import CallContext
from app.rag.cross_encoder import BATCH, MODEL, MOST_TOKENS, THREAD, TOKENIZER, CrossEncoder, load, score
from app.settings import Settings

QUESTION = "how hot is green tea"
TEXTS = ["coffee is black", "green tea is hot", "tea"]
COMMON = [1.0, 4.0, 1.0]  # words of the text that the question has
NAME = "team/small-reranker"
COMMITS = {"main": "a" * 40, "v1": "b" * 40, "b" * 40: "b" * 40}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
INT64, FLOAT = 7, 1  # of TensorProto.DataType
Field = tuple[int, int | str | bytes]


def varint(number: int) -> bytes:
    """A number as protobuf has it: seven bits a byte, the lowest first."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def message(*fields: Field) -> bytes:
    """A protobuf message: a number is a varint, all else its length and its bytes.

    A model made of these saves a dependency. The numbers of the fields are those of onnx.proto.
    """
    written = b""
    for number, value in fields:
        if isinstance(value, int):
            written += varint(number << 3) + varint(value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            written += varint(number << 3 | 2) + varint(len(raw)) + raw
    return written


def node(operator: str, given: str, made: str, **attributes: int) -> Field:
    """One step of a graph: an operator, the names of what it takes, and of what it makes."""
    numbers = [(5, message((1, name), (3, value), (20, 2))) for name, value in attributes.items()]
    return 1, message(*((1, name) for name in given.split()), (2, made), (4, operator), *numbers)


def axes(name: str, *numbers: int) -> Field:
    """A constant of a graph."""
    raw = np.array(numbers, np.int64).tobytes()
    return 5, message((1, len(numbers)), (2, INT64), (8, name), (9, raw))


def table(name: str, kind: int) -> bytes:
    """What goes into a graph or comes out: a row for each pair, as wide as it happens to be."""
    shape = message((1, message((2, "pairs"))), (1, message((2, f"{name}_width"))))
    return message((1, name), (2, message((1, message((1, kind), (2, shape))))))


def model(*nodes: Field, inputs: tuple[str, ...] = INPUTS) -> bytes:
    """An ONNX file, which gives `logits`."""
    ends = [*((11, table(name, INT64)) for name in inputs), (12, table("logits", FLOAT))]
    graph = message(*nodes, (2, "graph"), axes("first", 1), axes("second", 2), axes("both", 1, 2), *ends)
    return message((1, 8), (7, graph), (8, message((2, 13))))


COMPARED = [
    node("Unsqueeze", "input_ids second", "across"),
    node("Unsqueeze", "input_ids first", "down"),
    node("Equal", "across down", "same"),
    node("Cast", "same", "equal", to=INT64),
    node("Sub", "attention_mask token_type_ids", "of_question"),
    node("Unsqueeze", "of_question second", "question"),
    node("Unsqueeze", "token_type_ids first", "text"),
    node("Mul", "question text", "between"),
    node("Mul", "equal between", "hits"),
]
COUNTS_WORDS = model(
    *COMPARED,
    node("ReduceSum", "hits both", "counted", keepdims=0),
    node("Sub", "counted first", "words"),  # both end with the same mark
    node("Unsqueeze", "words first", "score"),
    node("Cast", "score", "logits", to=FLOAT),
)
GIVES_MANY = model(
    *COMPARED, node("ReduceSum", "hits first", "rows", keepdims=0), node("Cast", "rows", "logits", to=FLOAT)
)
COUNTS_TOKENS = [node("ReduceSum", "attention_mask first", "length", keepdims=1)]
READS_LESS = model(*COUNTS_TOKENS, node("Cast", "length", "logits", to=FLOAT), inputs=INPUTS[:2])
GIVES_NO_NUMBER = model(
    *COUNTS_TOKENS,
    node("Cast", "length", "tokens", to=FLOAT),
    node("Neg", "tokens", "negative"),
    node("Sqrt", "negative", "logits"),
    inputs=INPUTS[:2],
)


def tokenizer() -> bytes:
    """Words by their number; `[CLS] question [SEP] text [SEP]`, as BERT has it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(" ".join([QUESTION, *TEXTS]).split())]
    numbers = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str().encode()


FILES = {MODEL: COUNTS_WORDS, TOKENIZER: tokenizer()}


def folder(place: Path, content: bytes = COUNTS_WORDS) -> Path:
    """A model's folder, as a hub has it."""
    for name, raw in (FILES | {MODEL: content}).items():
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_bytes(raw)
    return place


class Hub(ThreadingHTTPServer):
    """As much of a hub as is needed for files; `asked` has each request's method, path and authorization."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str | None]] = []
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers HEAD and GET of /NAME/resolve/REVISION/FILE."""

    server: Hub

    def do_HEAD(self) -> None:
        """Answer without the file."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """Answer with it."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.server.asked.append((self.command, self.path, self.headers["Authorization"]))
        name, _, rest = self.path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        body = FILES.get(file, b"")
        found = name == NAME and revision in COMMITS and body
        self.send_response(self.server.status if found else 404)
        self.send_header("Content-Length", str(len(body)))
        if found:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMITS[revision])
        else:
            self.send_header("X-Error-Code", "EntryNotFound" if name == NAME else "RepoNotFound")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A running hub."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    huggingface_hub.close_session()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    """The model that counts words."""
    place = folder(tmp_path_factory.mktemp("model"))
    return CrossEncoder(str(place / MODEL), str(place / TOKENIZER))


def _context(seconds: float = 30) -> CallContext:
    return CallContext(asyncio.get_running_loop().time() + seconds)


async def test_a_folder_is_a_model(tmp_path: Path) -> None:
    """RERANK_MODEL may be a folder with the files of a hub, and each text gets one number, in order."""
    settings = Settings(rerank_model=str(folder(tmp_path)), data_dir=tmp_path)
    assert await score(QUESTION, TEXTS, settings=settings, context=_context()) == COMMON


def test_a_text_is_scored_alike_in_any_company(encoder: CrossEncoder) -> None:
    """What fills up the shorter texts of a batch counts for nothing, and no text is lost between batches."""
    alone = [encoder.score(QUESTION, [text])[0] for text in TEXTS]
    assert encoder.score(QUESTION, TEXTS * BATCH) == alone * BATCH == COMMON * BATCH


def test_no_texts_have_no_scores(encoder: CrossEncoder) -> None:
    """The model is not asked about nothing."""
    assert encoder.score(QUESTION, []) == []


def test_a_long_text_is_cut_at_what_the_model_reads(encoder: CrossEncoder) -> None:
    """What comes after it does not count; the question stays whole."""
    room = MOST_TOKENS - len(QUESTION.split()) - 3
    assert encoder.score(QUESTION, ["tea " * room, "black " * room + "tea", "tea " * 600]) == [room, 0, room]


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=4))
def test_any_text_has_a_score(encoder: CrossEncoder, question: str, texts: list[str]) -> None:
    """Empty ones and odd characters too."""
    assert len(encoder.score(question, texts)) == len(texts)


def test_a_model_gets_the_inputs_that_it_has(tmp_path: Path) -> None:
    """Some know no token types."""
    small = load(str(folder(tmp_path, READS_LESS)), "", tmp_path)
    assert small.score("tea", ["tea", "green tea"]) == [5.0, 6.0]


def test_a_model_comes_from_the_hub_once(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are kept below DATA_DIR; the next start asks nobody, and nobody was shown the user's token."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert load(NAME, hub.url, tmp_path / "models").score(QUESTION, TEXTS) == COMMON
    paths = {f"/{NAME}/resolve/main/{file}" for file in FILES}
    assert {path for method, path, _ in hub.asked if method == "GET"} == paths
    assert len([method for method, _, _ in hub.asked if method == "GET"]) == len(paths)
    assert {authorization for _, _, authorization in hub.asked} == {None}
    assert {path.name for path in tmp_path.iterdir()} == {"models"}

    hub.asked.clear()
    load.cache_clear()
    assert load(NAME, hub.url, tmp_path / "models").score(QUESTION, TEXTS) == COMMON
    assert hub.asked == []


async def test_the_settings_say_from_where_and_to_where(hub: Hub, tmp_path: Path) -> None:
    """HUB_URL may end with a slash."""
    settings = Settings(rerank_model=NAME, hub_url=f"{hub.url}/", data_dir=tmp_path)
    assert await score(QUESTION, TEXTS, settings=settings, context=_context()) == COMMON
    assert list((tmp_path / "models").rglob("tokenizer.json"))
    assert all(path.startswith(f"/{NAME}/") for _, path, _ in hub.asked)


@pytest.mark.parametrize("revision", ["v1", "b" * 40])
def test_a_revision_can_be_named(hub: Hub, tmp_path: Path, revision: str) -> None:
    """NAME@REVISION asks for that tag or commit, and for no other."""
    assert load(f"{NAME}@{revision}", hub.url, tmp_path).score(QUESTION, TEXTS) == COMMON
    assert {path.split("/")[4] for _, path, _ in hub.asked} <= {revision, "b" * 40}


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("team/nothing", 200, "Repository Not Found"),
        (f"{NAME}@v9", 200, "Entry Not Found"),
        ("./no/such/folder", 200, "Repo id must"),
        (NAME, 503, "503"),
        (NAME, 401, "401"),
    ],
)
def test_what_the_hub_does_not_give_is_said_at_once(
    hub: Hub, tmp_path: Path, name: str, status: int, reason: str
) -> None:
    """The message names both settings and the hub's reason, and nothing is tried for long."""
    hub.status = status
    with pytest.raises(ConfigurationError, match=reason) as caught:
        load(name, hub.url, tmp_path)
    assert f"RERANK_MODEL={name} " in caught.value.message
    assert f"HUB_URL={hub.url}" in caught.value.message
    assert len(hub.asked) <= 1


def test_no_network_is_said_at_once(hub: Hub, tmp_path: Path) -> None:
    """As above, where nobody answers."""
    hub.server_close()
    with pytest.raises(ConfigurationError, match=f"HUB_URL={hub.url}: .*refused"):
        load(NAME, hub.url, tmp_path)


def test_a_failure_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    """When the hub is back, the next question finds the model."""
    hub.status = 503
    with pytest.raises(ConfigurationError):
        load(NAME, hub.url, tmp_path)
    hub.status = 200
    assert load(NAME, hub.url, tmp_path).score(QUESTION, TEXTS) == COMMON


@pytest.mark.parametrize("content", [b"no model", b"", GIVES_MANY, GIVES_NO_NUMBER])
def test_what_is_no_reranker_is_refused(tmp_path: Path, content: bytes) -> None:
    """A damaged file, one number too many, or none at all: it is said when the model is loaded."""
    place = folder(tmp_path, content)
    with pytest.raises(ConfigurationError, match=f"RERANK_MODEL={place} cannot be used: "):
        load(str(place), "", tmp_path)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    """The name of what is missing is said."""
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*model\.onnx"):
        load(str(tmp_path), "", tmp_path)


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers", "huggingface_hub"])
def test_without_the_extra_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """The packages are not installed by default."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=r"`uv sync --extra onnx`"):
        load(str(folder(tmp_path)), "", tmp_path)


async def test_a_model_that_fails_with_some_texts_is_a_failed_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passages then keep their order; the question does not fail."""
    settings = Settings(rerank_model=str(folder(tmp_path)), data_dir=tmp_path)
    loaded = load(settings.rerank_model, settings.hub_url, settings.data_dir / "models")
    monkeypatch.setattr(loaded, "_inputs", ["no such input"])
    with pytest.raises(ProviderGarbled, match="the cross-encoder failed"):
        await score(QUESTION, TEXTS, settings=settings, context=_context())


async def test_nobody_waits_longer_than_the_deadline(tmp_path: Path) -> None:
    """A model that is busy, or still on its way, holds up no question."""
    settings = Settings(rerank_model=str(folder(tmp_path)), data_dir=tmp_path)
    freed = threading.Event()
    busy = THREAD.submit(freed.wait)
    async with asyncio.timeout(8):
        with pytest.raises(DeadlineExceeded, match="cross-encoder"):
            await score(QUESTION, TEXTS, settings=settings, context=_context(seconds=0.05))
    freed.set()
    assert busy.result(timeout=10)
    assert await score(QUESTION, TEXTS, settings=settings, context=_context()) == COMMON
