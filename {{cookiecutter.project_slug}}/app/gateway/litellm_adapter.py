"""The one module that imports litellm: it translates providers and knows prices, and decides nothing.

The import costs seconds, so it happens at the first call or in `load()`, never at this module's import. Each call is
one attempt and gives its events as an async generator, the whole reply last; what goes wrong is a Failure.
Knows nothing of retries, deadlines or budgets.
"""

import asyncio
import gc
import json
import logging
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from app.gateway import offline_provider, prices
from app.gateway.deployments import Deployment
from app.gateway.failures import Failure
from app.gateway.prices import Facts, estimate_tokens, largest_usage
from app.gateway.provider_errors import translated
from app.types import Completion, Embeddings, Message, TextDelta, ToolCall, ToolCallDelta, Usage

PROVIDERS_WITH_ADDRESS = ("OPENAI", "ANTHROPIC", "GEMINI", "AZURE")
REDIRECTING = [f"{who}_{what}" for who in PROVIDERS_WITH_ADDRESS for what in ("BASE_URL", "API_BASE")]
# The gateway's own timers end every call; litellm's must not be first.
OUTLASTS_SECONDS = 3_600

SAMPLING = ["temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"]

_loading = threading.Lock()
_loaded: list[Any] = []
_without_sampling: set[str] = set()


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
                from litellm.litellm_core_utils import logging_worker  # noqa: PLC0415  # as above
            finally:
                gc.enable()
            gc.freeze()  # they stay as long as the process, and looking at them again costs a second when it ends
            for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):  # it prints each call, beside the log
                logging.getLogger(name).handlers.clear()
                logging.getLogger(name).setLevel(logging.WARNING)
            litellm.telemetry = False
            litellm.suppress_debug_info = True
            litellm.DEFAULT_MAX_RETRIES = 0  # its embeddings take max_retries=0 for "not given" and use this
            litellm.custom_provider_map = [{"provider": "offline", "custom_handler": offline_provider.handler(litellm)}]
            # Its records of each call go nowhere, since the ledger is ours, and the worker that keeps them outlives
            # its event loop.
            logging_worker.GLOBAL_LOGGING_WORKER.ensure_initialized_and_enqueue = _forget
            _loaded.append(litellm)
    return _loaded[0]


async def facts(deployment: Deployment) -> Facts:
    """Its limits, abilities and prices."""
    await _ready()
    return _facts(deployment)


async def complete(
    deployment: Deployment, messages: list[Message], parameters: dict[str, Any]
) -> AsyncGenerator[Completion]:
    """The whole reply as the only event.

    Raises:
        Failure: what went wrong, classified.

    """
    litellm = await _ready()
    with translated(deployment):
        reply = await _completion(litellm, deployment, messages, parameters)
    if not reply.choices:
        raise Failure("garbled", f"{deployment.model} answered with nothing")
    choice = reply.choices[0]
    said = _Said(choice.message.content or "", _refusal(choice.message))
    for call in choice.message.tool_calls or ():
        said.calls[len(said.calls)] = ToolCall(call.id, call.function.name or "", call.function.arguments)
    yield said.completion(deployment, messages, choice.finish_reason, getattr(reply, "usage", None))


async def stream(
    deployment: Deployment, messages: list[Message], parameters: dict[str, Any]
) -> AsyncGenerator[TextDelta | ToolCallDelta | Completion]:
    """Pieces of text and of tool calls, then the whole reply.

    Raises:
        Failure: before or between the pieces; also where the stream ends without a finish.

    """
    litellm = await _ready()
    parameters = parameters | {"stream": True, "stream_options": {"include_usage": True}}
    said = _Said()
    with translated(deployment):
        async with _closing(await _completion(litellm, deployment, messages, parameters)) as events:
            async for event in events:
                for choice in event.choices[:1]:
                    for piece in said.hear(choice.delta):
                        yield piece
            # litellm invents a finish where the connection was cut, and a usage where none was counted; these
            # are what really came.
            finish = events.received_finish_reason
            counted = next((c.usage for c in reversed(events.chunks) if getattr(c, "usage", None)), None)
    if finish is None:
        raise Failure("garbled", f"{deployment.model} cut the answer short")
    yield said.completion(deployment, messages, finish, counted)


async def embed(deployment: Deployment, texts: list[str]) -> AsyncGenerator[Embeddings]:
    """One vector per text, in order, as the only event.

    Raises:
        Failure: what went wrong, classified.

    """
    litellm = await _ready()
    with translated(deployment):
        reply = await litellm.aembedding(input=texts, **_call(deployment))
    vectors = [item["embedding"] for item in reply.data or () if item["embedding"]]
    if len(vectors) != len(texts):
        raise Failure("garbled", f"{deployment.model} gave {len(vectors)} vectors for {len(texts)} texts")
    counted = getattr(reply, "usage", None)
    if counted is not None and counted.prompt_tokens:
        usage = Usage(counted.prompt_tokens)
    else:
        counted, usage = None, Usage(sum(map(estimate_tokens, texts)), estimated=True)
    yield Embeddings(vectors, deployment.model, usage, _cost(deployment, usage, counted))


@dataclass
class _Said:
    """What has come of a reply so far."""

    text: str = ""
    refusal: str = ""
    calls: dict[int, ToolCall] = field(default_factory=dict)

    def hear(self, delta: Any) -> list[TextDelta | ToolCallDelta]:
        pieces: list[TextDelta | ToolCallDelta] = []
        self.refusal += _refusal(delta)
        if delta.content:
            self.text += delta.content
            pieces.append(TextDelta(delta.content))
        for call in delta.tool_calls or ():
            known = self.calls.get(call.index, ToolCall("", "", ""))
            more = ToolCallDelta(call.index, call.id or "", call.function.name or "", call.function.arguments or "")
            self.calls[call.index] = ToolCall(
                known.id or more.id, known.name or more.name, known.arguments + more.arguments
            )
            pieces.append(more)
        return pieces

    def completion(self, deployment: Deployment, messages: list[Message], finish: str, counted: Any) -> Completion:
        calls = tuple(self.calls[index] for index in sorted(self.calls))
        for call in calls:
            if finish != "length" and not _is_object(call.arguments):  # the same limit would cut it again
                raise Failure("garbled", f"{deployment.model} called {call.name} with what is no JSON object")
        usage = _usage(counted, messages, self.text + self.refusal + "".join(call.arguments for call in calls))
        return Completion(
            text=self.text,
            model=deployment.model,
            finish_reason=finish,
            usage=usage,
            cost_nanousd=_cost(deployment, usage, None if usage.estimated else counted),
            notice=deployment.notice,
            refusal=self.refusal,
            tool_calls=calls,
        )


async def _ready() -> Any:
    return _loaded[0] if _loaded else await asyncio.to_thread(load)


def _forget(async_coroutine: Coroutine[Any, Any, None]) -> None:
    async_coroutine.close()


def _call(deployment: Deployment) -> dict[str, Any]:
    """The arguments that say where a call goes. Hidden retries are off: the gateway owns them."""
    for name in REDIRECTING:  # an address that the settings do not name must not be sent the key
        os.environ.pop(name, None)
    # Without a key litellm would take one from the environment and send it to somebody else's endpoint.
    settings = deployment.settings
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if key is None and settings.api_base is not None:
        key = "not-needed"
    place = {"api_base": settings.api_base, "api_version": settings.api_version, "api_key": key}
    given = {name: value for name, value in place.items() if value is not None}
    limits = {"max_retries": 0, "num_retries": 0, "timeout": OUTLASTS_SECONDS}
    return {"model": deployment.model, **limits, **given, **deployment.parameters}


async def _completion(litellm: Any, deployment: Deployment, messages: list[Message], parameters: dict[str, Any]) -> Any:
    """Call, without what the model does not take of `SAMPLING`: a reasoning model answers without a temperature.

    litellm's own way to drop parameters would also send a request again that was refused with 422, uncounted.
    """
    call = _call(deployment) | parameters | {"messages": messages}
    if parameters.get("tools"):
        call["_skip_mcp_handler"] = True  # or litellm looks for a package that only its proxy needs
    if deployment.model not in _without_sampling:
        try:
            return await litellm.acompletion(**call)
        except litellm.UnsupportedParamsError:  # raised before anything is sent
            _without_sampling.add(deployment.model)
    return await litellm.acompletion(**call, additional_drop_params=SAMPLING)


@asynccontextmanager
async def _closing(events: Any) -> AsyncIterator[Any]:
    """The events of a streamed call; the connection is closed at the end, even by a task that is being cancelled."""
    is_full = events.is_chunk_non_empty  # litellm takes pieces of a refusal for empty ones
    events.is_chunk_non_empty = lambda *chunk: is_full(*chunk) or bool(_refusal(chunk[1].choices[0].delta))
    try:
        yield events
    finally:
        await asyncio.shield(asyncio.ensure_future(events.aclose()))


def _refusal(message: Any) -> str:
    """The model's own refusal, which litellm puts aside."""
    aside = getattr(message, "provider_specific_fields", None) or {}
    return getattr(message, "refusal", None) or aside.get("refusal") or ""


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments or "{}"), dict)
    except ValueError:
        return False


def _usage(counted: Any, messages: list[Message], text: str) -> Usage:  # litellm's usage, or None
    """The provider's count, or a guess that says so."""
    if counted is None or not counted.total_tokens:
        return Usage(largest_usage(messages, {"max_tokens": 0}).input_tokens, estimate_tokens(text), estimated=True)
    details = getattr(counted, "prompt_tokens_details", None)
    return Usage(counted.prompt_tokens, counted.completion_tokens, getattr(details, "cached_tokens", None) or 0)


def _cost(deployment: Deployment, usage: Usage, counted: Any) -> int | None:
    """The price by the configured model, never by the name that came back; unknown is None, not zero."""
    known = _facts(deployment)
    if counted is None or deployment.settings.input_price is not None or not known.input_price:
        return known.cost(usage)
    asked, said = _loaded[0].cost_per_token(model=deployment.model, usage_object=counted)  # knows tiers and audio
    return round(float(asked + said) * prices.NANO)


def _facts(deployment: Deployment) -> Facts:
    return prices.facts(deployment, _known(deployment.model))


@cache
def _known(model: str) -> dict[str, Any]:
    """What litellm's tables say of a model; nothing for one that they do not hold."""
    if model.startswith("offline/"):
        return {"input_cost_per_token": 0, "output_cost_per_token": 0}
    if model.startswith("ollama"):  # litellm would ask a server that need not be there
        return {"input_cost_per_token": 0, "output_cost_per_token": 0, "supports_response_schema": True}
    try:
        return dict(_loaded[0].get_model_info(model))
    except Exception:  # of any kind, for a model that is not in the tables
        return {}
