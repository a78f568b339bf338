"""The one module that imports litellm: it translates providers and knows prices, and decides nothing.

The import costs seconds, so it happens at the first call or in `load()`, never at this module's import. Each call is
one attempt and gives its events as an async generator, the whole reply last; what goes wrong is a Failure.
Knows nothing of retries, deadlines or budgets.
"""

import asyncio
import gc
import logging
import os
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from app.gateway import offline_provider, prices
from app.gateway.deployments import Deployment
from app.gateway.failures import Failure
from app.gateway.prices import Facts
from app.gateway.provider_errors import translated
from app.gateway.replies import Piece, Said, embedded, finish_of, refusal
from app.gateway.shortcut import shortened
from app.settings import forget_addresses
from app.types import Completion, Embeddings, Message, TextDelta, Usage

# The gateway's own timers end every call; litellm's must not be first.
OUTLASTS_SECONDS = 3_600

SAMPLING = ["temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"]

# litellm does so itself, but in the thread that loads it, where other threads' catch_warnings may undo it.
warnings.filterwarnings("ignore", message=".*`ReadOnly` qualifier.*")

_loading = threading.Lock()
_loaded: list[Any] = []
_without_sampling: set[str] = set()


def load() -> Any:  # litellm ships no usable types; this module is the fence around it
    """Import litellm once, without its network access and its reading of `.env`, and register our models."""
    with _loading:
        if not _loaded:
            # Before the import: these are read while it runs.
            os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
            os.environ["LITELLM_MODE"] = "PRODUCTION"
            # Our log masks secrets; litellm's way takes seconds for a long error, in the event loop.
            os.environ["LITELLM_DISABLE_REDACT_SECRETS"] = "true"
            os.environ["REPEATED_STREAMING_CHUNK_LIMIT"] = "1000000"  # it cuts answers that repeat a line
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
    said = Said()
    with translated(deployment):
        reply = await _completion(litellm, deployment, messages, parameters)
        choice = next((choice for choice in reply.choices if choice.index == 0), None)
        if choice is None:
            raise Failure("garbled", "the reply holds nothing")
        said.hear_whole(choice.message)
        done = _done(deployment, messages, said, finish_of(choice), getattr(reply, "usage", None))
    yield done


async def stream(
    deployment: Deployment, messages: list[Message], parameters: dict[str, Any]
) -> AsyncGenerator[Piece | Completion]:
    """Pieces of text and of tool calls, then the whole reply.

    Raises:
        Failure: before or between the pieces; also where the stream ends without a finish.

    """
    litellm = await _ready()
    parameters = parameters | {"stream": True, "stream_options": {"include_usage": True}}
    said = Said()
    with translated(deployment):
        async with _closing(await _completion(litellm, deployment, messages, parameters)) as events:
            async for event in shortened(events):
                if isinstance(event, str):
                    said.text += event
                    yield TextDelta(event)
                    continue
                for piece in [p for choice in event.choices if choice.index == 0 for p in said.hear(choice.delta)]:
                    yield piece
            # litellm invents a finish where the connection was cut, and a usage where none was counted; these
            # are what really came.
            finish = events.received_finish_reason
            counted = next((c.usage for c in reversed(events.chunks) if getattr(c, "usage", None)), None)
        if finish is None or finish == "error":
            raise Failure("garbled", "the stream ended before the answer did")
        done = _done(deployment, messages, said, finish, counted)
    yield done


async def embed(deployment: Deployment, texts: list[str]) -> AsyncGenerator[Embeddings]:
    """One vector per text, in order, as the only event.

    Raises:
        Failure: what went wrong, classified.

    """
    litellm = await _ready()
    with translated(deployment):
        reply = await litellm.aembedding(input=texts, **_call(deployment))
        vectors, usage, is_counted = embedded(reply, texts)
        cost = _cost(deployment, usage, reply.usage if is_counted else None)
    yield Embeddings(vectors, deployment.model, usage, cost)


def _done(deployment: Deployment, messages: list[Message], said: Said, finish: str, counted: Any) -> Completion:
    usage = said.usage(counted, messages)
    return Completion(
        text=said.text,
        model=deployment.model,
        finish_reason=finish,
        usage=usage,
        cost_nanousd=_cost(deployment, usage, None if usage.estimated else counted),
        notice=deployment.notice,
        refusal=said.refusal,
        tool_calls=said.tool_calls(finish),
    )


async def _ready() -> Any:
    return _loaded[0] if _loaded else await asyncio.to_thread(load)


def _forget(async_coroutine: Coroutine[Any, Any, None]) -> None:
    async_coroutine.close()


def _call(deployment: Deployment) -> dict[str, Any]:
    """The arguments that say where a call goes. Hidden retries are off: the gateway owns them."""
    forget_addresses()
    # Without a key litellm would take one from the environment and send it to somebody else's endpoint.
    settings = deployment.settings
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if key is None and settings.api_base is not None:
        key = "not-needed"
    place = {"api_base": settings.api_base, "api_version": settings.api_version, "api_key": key}
    given: dict[str, Any] = {name: value for name, value in place.items() if value is not None}
    if deployment.is_offline:  # litellm takes what it does not know for a model that cannot think
        given["allowed_openai_params"] = ["reasoning_effort"]
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
            pass
    reply = await litellm.acompletion(**call, additional_drop_params=SAMPLING)
    _without_sampling.add(deployment.model)  # it was the sampling: with anything else this would have failed too
    return reply


@asynccontextmanager
async def _closing(events: Any) -> AsyncIterator[Any]:
    """The events of a streamed call; the connection is closed at the end, even by a task that is being cancelled."""
    is_full = events.is_chunk_non_empty  # litellm takes pieces of a refusal for empty ones
    events.is_chunk_non_empty = lambda *chunk: is_full(*chunk) or bool(refusal(chunk[1].choices[0].delta))
    try:
        yield events
    finally:
        await asyncio.shield(asyncio.ensure_future(events.aclose()))


def _cost(deployment: Deployment, usage: Usage, counted: Any) -> int | None:
    """The price by the configured model, never by the name that came back; unknown is None, not zero."""
    known = _facts(deployment)
    ours = deployment.settings
    set_here = any(price is not None for price in (ours.input_price, ours.cached_input_price, ours.output_price))
    if counted is None or set_here or not known.input_price:
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
