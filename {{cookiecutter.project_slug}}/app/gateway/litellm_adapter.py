"""The one module that imports litellm: it translates providers and knows prices, and decides nothing.

The import costs seconds, so it happens at the first call or in `load()`, never at this module's import. The
offline models are registered as litellm providers, so that every deployment takes the same path.
Knows nothing of retries, deadlines or budgets.
"""

import asyncio
import gc
import logging
import math
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from app.errors import ProviderError, ProviderRateLimited, ProviderRejected, ProviderUnavailable
from app.gateway import offline
from app.gateway.deployments import Deployment
from app.gateway.redaction import redact
from app.types import Completion, Message, TextDelta, Usage

RATE_LIMITED = 429
TRANSIENT = {408, 409, 425}
SERVER_ERRORS = 500
SHOWN_OF_AN_ERROR = 300
NANO = 1_000_000_000
PROVIDERS_WITH_ADDRESS = ("OPENAI", "ANTHROPIC", "GEMINI", "AZURE")
REDIRECTING = [f"{who}_{what}" for who in PROVIDERS_WITH_ADDRESS for what in ("BASE_URL", "API_BASE")]

_loading = threading.Lock()
_loaded: list[Any] = []


def load() -> Any:  # litellm ships no usable types; this module is the fence around it
    """Import litellm once, without its network access and its reading of `.env`, and register our models."""
    with _loading:
        if not _loaded:
            # Before the import: both are read while it runs.
            os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
            os.environ["LITELLM_MODE"] = "PRODUCTION"
            gc.disable()  # it makes so many objects that collecting during the import costs a quarter of it
            try:
                import litellm  # noqa: PLC0415  # seconds of import
            finally:
                gc.enable()
            gc.freeze()  # they stay as long as the process, and looking at them again costs a second when it ends
            for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):  # it prints each call, beside the log
                logging.getLogger(name).handlers.clear()
                logging.getLogger(name).setLevel(logging.WARNING)
            litellm.telemetry = False
            litellm.suppress_debug_info = True
            litellm.drop_params = True  # a model that takes no temperature still answers
            litellm.DEFAULT_MAX_RETRIES = 0  # its embeddings take max_retries=0 for "not given" and use this
            litellm.custom_provider_map = [{"provider": "offline", "custom_handler": _offline_handler(litellm)}]
            _loaded.append(litellm)
    return _loaded[0]


async def complete(deployment: Deployment, messages: list[Message], **options: Any) -> Completion:
    """One call, one attempt.

    Raises:
        ProviderError: of the kind that says whether another attempt makes sense.

    """
    litellm = await asyncio.to_thread(load)
    try:
        reply = await litellm.acompletion(messages=messages, **_call(deployment), **options)
    except Exception as error:
        raise _translated(error, deployment) from None
    if not reply.choices:
        raise ProviderUnavailable(f"{deployment.model} answered with nothing")
    choice = reply.choices[0]
    text = choice.message.content or ""
    usage = _usage(getattr(reply, "usage", None), messages, text)
    return _completion(deployment, text, choice.finish_reason, usage)


async def stream(
    deployment: Deployment, messages: list[Message], **options: Any
) -> AsyncGenerator[TextDelta | Completion]:
    """One call, one attempt: pieces of text, then the whole completion.

    Raises:
        ProviderError: before or between the pieces; also where the stream ends without a finish.

    """
    litellm = await asyncio.to_thread(load)
    text, finish = "", None
    try:
        options["stream_options"] = {"include_usage": True}
        events = await litellm.acompletion(messages=messages, stream=True, **_call(deployment), **options)
        async with aclosing(events):
            async for event in events:
                for choice in event.choices[:1]:
                    if choice.delta.content:
                        text += choice.delta.content
                        yield TextDelta(choice.delta.content)
            # litellm invents a finish where the connection was cut, and a usage where none was counted;
            # this is what really came.
            finish = events.received_finish_reason
            counted = next((c.usage for c in reversed(events.chunks) if getattr(c, "usage", None)), None)
    except Exception as error:
        raise _translated(error, deployment) from None
    if finish is None:
        raise ProviderUnavailable(f"{deployment.model} cut the answer short")
    yield _completion(deployment, text, finish, _usage(counted, messages, text))


async def embed(deployment: Deployment, texts: list[str], **options: Any) -> list[list[float]]:
    """One vector per text, in order; one call, one attempt."""
    litellm = await asyncio.to_thread(load)
    try:
        reply = await litellm.aembedding(input=texts, **_call(deployment), **options)
    except Exception as error:
        raise _translated(error, deployment) from None
    vectors = [item["embedding"] for item in reply.data or () if item["embedding"]]
    if len(vectors) != len(texts):
        raise ProviderError(f"{deployment.model} gave {len(vectors)} vectors for {len(texts)} texts")
    return vectors


def _call(deployment: Deployment) -> dict[str, Any]:
    """The arguments that say where a call goes. Hidden retries are off: the gateway owns them."""
    for name in REDIRECTING:  # an address that the settings do not name must not be sent the key
        os.environ.pop(name, None)
    # Without a key litellm would take one from the environment and send it to somebody else's endpoint.
    key = deployment.api_key.get_secret_value() if deployment.api_key else None
    if key is None and deployment.api_base is not None:
        key = "not-needed"
    place = {"api_base": deployment.api_base, "api_version": deployment.api_version, "api_key": key}
    given = {name: value for name, value in place.items() if value is not None}
    return {"model": deployment.model, "max_retries": 0, "num_retries": 0, **given, **deployment.parameters}


def _translated(error: Exception, deployment: Deployment) -> ProviderError:
    """Our kind of error for litellm's, from the status, with secrets masked."""
    status = getattr(error, "status_code", None)
    said = redact(str(error), deployment.secrets)[:SHOWN_OF_AN_ERROR]
    message = f"{deployment.model} ({status or type(error).__name__}): {said}"
    if type(error).__name__ == "APIConnectionError" or "connection error" in said.lower():
        place = deployment.api_base or "its provider's address"
        setting = f"{deployment.role.upper()}_API_BASE"
        message = f"{deployment.model} at {place} cannot be reached: is it running, and is {setting} right?"
    if status == RATE_LIMITED:
        return ProviderRateLimited(message, retry_after=_retry_after(error))
    if isinstance(status, int) and (status in TRANSIENT or status >= SERVER_ERRORS):
        return ProviderUnavailable(message, retry_after=_retry_after(error))
    return ProviderRejected(message)


def _retry_after(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:  # none, or a date
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _usage(counted: Any, messages: list[Message], text: str) -> Usage:  # litellm's usage, or None
    """The provider's count, or a guess of four characters a token that says so."""
    if counted is not None and counted.total_tokens:
        return Usage(counted.prompt_tokens, counted.completion_tokens)
    asked = sum(len(message["content"]) for message in messages)
    return Usage(asked // 4, len(text) // 4, estimated=True)


def _completion(deployment: Deployment, text: str, finish: str, usage: Usage) -> Completion:
    return Completion(
        text=text,
        model=deployment.model,
        finish_reason=finish,
        usage=usage,
        cost_nanousd=_cost(deployment, usage),
        notice=deployment.notice,
    )


def _cost(deployment: Deployment, usage: Usage) -> int | None:
    """The price by the configured model, never by the name that came back; unknown is None, not zero."""
    if deployment.is_offline:
        return 0
    counts = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
    try:
        asked, said = load().cost_per_token(model=deployment.model, **counts)
    except Exception:  # litellm raises a bare Exception for a model without a price
        return None
    return round(float(asked + said) * NANO)


def _offline_handler(litellm: Any) -> Any:  # the base class exists only once litellm is loaded
    """The offline models in the shape in which litellm takes a provider."""

    class OfflineModels(litellm.CustomLLM):  # type: ignore[misc]  # an untyped base
        async def acompletion(self, **call: Any) -> Any:
            text = await asyncio.to_thread(_extract, call)
            reply = call["model_response"]
            reply.choices[0].message.content = text
            reply.choices[0].finish_reason = "stop"
            reply.usage = litellm.Usage(**_counts(call["messages"], text))
            return reply

        async def astreaming(self, **call: Any) -> AsyncIterator[dict[str, Any]]:
            text = await asyncio.to_thread(_extract, call)
            words = text.split(" ")
            for n, word in enumerate(words, 1):
                last = n == len(words)
                yield {
                    "text": word if last else word + " ",
                    "is_finished": last,
                    "finish_reason": "stop" if last else "",
                    "usage": _counts(call["messages"], text) if last else None,
                    "index": 0,
                    "tool_use": None,
                }

        async def aembedding(self, **call: Any) -> Any:
            vectors = await asyncio.to_thread(offline.embed, call["input"])
            reply = call["model_response"]
            reply.data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
            return reply

    return OfflineModels()


def _extract(call: dict[str, Any]) -> str:
    return offline.extract(
        call["messages"], **{k: v for k, v in call["optional_params"].items() if k == "abstain_below"}
    )


def _counts(messages: list[Message], text: str) -> dict[str, int]:
    """The offline model's tokens are words."""
    asked = sum(len(message["content"].split()) for message in messages)
    said = len(text.split())
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
