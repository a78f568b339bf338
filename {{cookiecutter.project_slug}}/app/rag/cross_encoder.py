"""A cross-encoder: a small model that reads question and passage together, from an ONNX file, in this process.

Its files are a folder's, or fetched once from a hub. Knows nothing of passages, and nothing of the order they were in.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from textwrap import shorten

import httpx
import numpy as np

from app.errors import ConfigurationError, DeadlineExceeded, ProviderGarbled
from app.gateway.context import CallContext
from app.settings import Settings

MODEL, TOKENIZER = "onnx/model.onnx", "tokenizer.json"
MOST_TOKENS = 512  # what these models are made to read at once
BATCH = 16
# One thread, so that a model is loaded once; to score, the runtime uses every core anyway.
THREAD = ThreadPoolExecutor(1, "cross-encoder")


class CrossEncoder:
    """The model and its tokenizer, loaded."""

    def __init__(self, model: str, tokenizer: str) -> None:
        import onnxruntime  # noqa: PLC0415  # of an extra, and slow to import
        from tokenizers import Tokenizer  # noqa: PLC0415  # as above

        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._inputs = [given.name for given in self._session.get_inputs()]
        self._tokenizer = Tokenizer.from_file(tokenizer)
        self._tokenizer.enable_truncation(MOST_TOKENS)  # the longer of the two is cut
        self._tokenizer.enable_padding()

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One logit per text, in order: any number, the higher the better.

        Raises:
            ValueError: the model does not give one number a pair.

        """
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        return [score for batch in batches for score in self._score_batch([(question, text) for text in batch])]

    def _score_batch(self, pairs: list[tuple[str, str]]) -> list[float]:
        read = self._tokenizer.encode_batch(pairs)
        columns = {
            "input_ids": [pair.ids for pair in read],
            "attention_mask": [pair.attention_mask for pair in read],
            "token_type_ids": [pair.type_ids for pair in read],
        }
        [logits, *_] = self._session.run(None, {name: np.array(columns[name], np.int64) for name in self._inputs})
        if logits.size != len(pairs) or not np.isfinite(logits).all():
            raise ValueError(f"for {len(pairs)} pairs it gives {logits.shape} numbers, or what is no number")
        return [float(logit) for logit in logits.ravel()]


async def score(question: str, texts: Sequence[str], *, settings: Settings, context: CallContext) -> list[float]:
    """One logit per text, in order, from RERANK_MODEL.

    Raises:
        ConfigurationError: the model, or what it needs to run, is not there.
        ProviderGarbled: the model failed with these texts.
        DeadlineExceeded: there was not the time; a model that is still being loaded is there for the next question.

    """

    def run() -> list[float]:
        model = load(settings.rerank_model, settings.hub_url, settings.data_dir / "models")
        try:
            return model.score(question, texts)
        except Exception as error:  # what was fit at the trial may fail with these texts
            raise ProviderGarbled(f"the cross-encoder failed: {shorten(str(error), 300)}") from error

    scoring = asyncio.get_running_loop().run_in_executor(THREAD, run)
    try:
        async with asyncio.timeout_at(context.ends):
            return await scoring
    except TimeoutError:
        raise DeadlineExceeded("the cross-encoder did not end in time (DEADLINE_SECONDS)") from None


@cache
def load(model: str, hub: str, kept: Path) -> CrossEncoder:
    """Load a folder, or NAME or NAME@REVISION of a hub, whose files are kept in a folder from then on.

    Raises:
        ConfigurationError: says which setting to look at.

    """
    try:
        import huggingface_hub  # noqa: F401, PLC0415  # as above; the three come together
        import onnxruntime  # noqa: F401, PLC0415  # as above
        import tokenizers  # noqa: F401, PLC0415  # as above
    except ImportError:
        raise ConfigurationError("RERANK=cross-encoder needs more packages: run `uv sync --extra onnx`") from None
    files = [_find(model, name, hub, kept) for name in (MODEL, TOKENIZER)]
    try:
        loaded = CrossEncoder(*files)
        loaded.score("a question", ["and a text"])
    except Exception as error:  # both libraries raise whatever they like
        raise ConfigurationError(f"RERANK_MODEL={model} cannot be used: {shorten(str(error), 300)}") from error
    return loaded


def _find(model: str, name: str, hub: str, kept: Path) -> str:
    """The path of one of the model's files, fetched where it is not here yet."""
    import huggingface_hub as hf  # noqa: PLC0415  # as above

    if Path(model).is_dir():
        return str(Path(model, name))
    repository, _, revision = model.partition("@")
    revision = revision or "main"

    def get(*, only_here: bool) -> str:
        # Without token=False the user's own token would go to whatever host HUB_URL names.
        where = {"revision": revision, "cache_dir": kept, "endpoint": hub, "local_files_only": only_here}
        return str(hf.hf_hub_download(repository, name, token=False, **where))

    try:
        with suppress(FileNotFoundError):
            return get(only_here=True)
        # Says at once what is wrong; the download would try again for half a minute.
        hf.get_hf_file_metadata(hf.hf_hub_url(repository, name, revision=revision, endpoint=hub), token=False)
        return get(only_here=False)
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"RERANK_MODEL={model} is no folder here, and its {name} cannot be fetched from HUB_URL={hub}:"
            f" {shorten(str(error), 300)}"
        ) from error
