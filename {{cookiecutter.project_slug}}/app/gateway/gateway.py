"""The one loop every model call goes through: `_first_success`. Start reading there.

litellm translates (`litellm_adapter.py`); policy is ours: what follows from a failure stands in one table
(`failures.py`), what protects a deployment in `guard.py`, money in `ledger.py`, repeated questions in `cache.py`.
Knows nothing of prompts or documents.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from itertools import count
from typing import Any

import structlog

from app.db.engine import Database
from app.errors import AppError, ConfigurationError, DeadlineExceeded, InvalidInput
from app.gateway import litellm_adapter, parts
from app.gateway.cache import Cache, Flight
from app.gateway.context import CallContext
from app.gateway.deployments import Deployment, Role, resolve
from app.gateway.failures import ALARMING, Failure
from app.gateway.guard import Guard
from app.gateway.inference import Event, OpenAttempt, OpenInference
from app.gateway.ledger import Ledger
from app.gateway.prices import estimate_tokens, largest_usage, to_nanousd
from app.gateway.timers import timed
from app.settings import Settings
from app.types import DEFAULT_TENANT, Completion, Embeddings, Message, Pulse, TextDelta, ToolCallDelta, Usage

log = structlog.get_logger(__name__)
EMBEDDING_BATCH = 128
TAKES = {"image": "images", "audio": "audio"}

ChatEvent = TextDelta | ToolCallDelta | Completion
Call = Callable[[Deployment], AsyncGenerator[Event]]
"""One attempt at one deployment: its events, the whole reply last."""


class Gateway:
    """Calls the deployments of a role in order until one answers, or nothing is worth trying, or time is up."""

    def __init__(self, settings: Settings, *, ledger: Ledger | None = None, cache: Cache | None = None) -> None:
        """Without a ledger nothing is written down and no budget holds; see `open_gateway`.

        Raises:
            ConfigurationError: a deployment cannot work as it is set.

        """
        self.settings = settings
        self._ledger = ledger
        self._cache = cache
        self._guards = {
            role: [Guard(deployment, settings) for deployment in deployments]
            for role, deployments in resolve(settings).items()
        }

    def deployments(self, role: Role = "chat") -> tuple[Deployment, ...]:
        """Who plays this role, first choice first.

        Raises:
            ConfigurationError: nobody does.

        """
        if role not in self._guards:
            raise ConfigurationError(f"no model plays the role {role}: set {role.upper()}_MODEL")
        return tuple(guard.deployment for guard in self._guards[role])

    def context(
        self, *, tenant: str = DEFAULT_TENANT, api_key_id: str = "", seconds: float | None = None
    ) -> CallContext:
        """A context for one answer, which must be there after `seconds`; DEADLINE_SECONDS by default."""
        if not (tenant.isprintable() and api_key_id.isprintable()):
            raise InvalidInput("the name of a tenant or of a key holds what cannot be printed")
        given = self.settings.deadline_seconds if seconds is None else seconds
        return CallContext(asyncio.get_running_loop().time() + given, tenant, api_key_id)

    async def complete(
        self,
        messages: list[Message],
        *,
        role: Role = "chat",
        context: CallContext | None = None,
        parameters: dict[str, Any] | None = None,
        accept: Callable[[Completion], bool] = lambda _: True,
    ) -> Completion:
        """The whole reply. `parameters` have OpenAI's names; what `accept` refuses is returned, but never cached.

        Raises:
            ProviderError: of the kind that the table in `failures.py` names.
            BudgetExceeded: nothing is left for today.
            InvalidInput: a message is none, or holds what no deployment of the role takes.

        """
        asked = self._chat(
            litellm_adapter.complete, messages, role=role, context=context, parameters=parameters, accept=accept
        )
        async with aclosing(asked) as events:
            [completion] = [event async for event in events if isinstance(event, Completion)]
        return completion

    async def stream(
        self,
        messages: list[Message],
        *,
        role: Role = "chat",
        context: CallContext | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> AsyncGenerator[ChatEvent]:
        """The reply in pieces, then whole. Raises as `complete`; after the first piece nobody else is asked."""
        asked = self._chat(litellm_adapter.stream, messages, role=role, context=context, parameters=parameters)
        async with aclosing(asked) as events:
            async for event in events:
                yield event

    async def embed(
        self, texts: list[str], *, role: Role = "embedding", context: CallContext | None = None
    ) -> list[list[float]]:
        """One vector per text, in order. Raises as `complete`."""
        context = context or self.context()
        vectors: list[list[float]] = []
        size = self.deployments(role)[0].batch
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            largest = Usage(sum(map(estimate_tokens, batch)))
            inference = OpenInference(role, context, self.deployments(role), largest)
            events = self._first_success(inference, partial(litellm_adapter.embed, texts=batch))
            with self._recorded(inference):
                async with aclosing(events):
                    vectors += [v async for event in events if isinstance(event, Embeddings) for v in event.vectors]
        return vectors

    def reused(self, context: CallContext, saved_nanousd: int | None) -> None:
        """Note an answer of the semantic cache: nobody was called, and so much was saved."""
        inference = OpenInference("chat", context, self.deployments(), Usage())
        with self._recorded(inference):
            inference.served_from_cache("semantic", saved_nanousd)

    async def _chat(
        self,
        call: Callable[..., AsyncGenerator[Event]],
        messages: list[Message],
        *,
        role: Role,
        context: CallContext | None,
        parameters: dict[str, Any] | None,
        accept: Callable[[Completion], bool] = lambda _: True,
    ) -> AsyncGenerator[ChatEvent]:
        """From the cache, or else from the loop."""
        context = context or self.context()
        given = parts.with_defaults(parameters or {}, max_tokens=self.settings.max_output_tokens)
        needed = parts.check(messages, most_bytes=self.settings.max_attachment_bytes)
        inference = OpenInference(role, context, self.deployments(role), largest_usage(messages, given), needed)
        with self._recorded(inference):
            async with self._flight(inference, messages, given) as flight:
                if flight.hit and accept(flight.hit):
                    inference.served_from_cache("exact", flight.hit.saved_nanousd)
                    yield TextDelta(flight.hit.text)
                    yield flight.hit
                    return
                asked = self._first_success(inference, partial(call, messages=messages, parameters=given))
                async with aclosing(asked) as events:
                    async for event in events:
                        if isinstance(event, Completion) and accept(event):
                            flight.keep(event)
                        yield event  # type: ignore[misc]  # a chat call gives no embeddings

    async def _first_success(self, inference: OpenInference, call: Call) -> AsyncGenerator[Event]:
        """The loop: each deployment in order, each up to MAX_ATTEMPTS times, until one answers."""
        if inference.context.seconds_left <= 0:
            raise DeadlineExceeded("the calls before this one took all the time there was (DEADLINE_SECONDS)")
        failures: list[Failure] = []
        for guard in await self._able(inference):
            if not await _reads_enough(guard.deployment, inference):
                continue
            for number in count(1):
                try:
                    async with aclosing(self._attempt(inference, guard, call, first=number == 1)) as events:
                        async for event in events:
                            yield event
                except Failure as failure:
                    failures.append(failure)
                else:
                    return
                _report(failures[-1], guard.deployment)
                if (pause := guard.pause(failures[-1], number, inference.context)) is None:
                    break
                await asyncio.sleep(pause)
            if failures[-1].consequence.fall_back == "no" or inference.context.seconds_left <= 0:
                break
        raise _most_telling(failures).as_error()

    async def _attempt(
        self, inference: OpenInference, guard: Guard, call: Call, *, first: bool
    ) -> AsyncGenerator[Event]:
        """One call of one deployment: admitted, paid for, timed, and noted however it ends."""
        deployment = guard.deployment
        async with guard.admitted(inference.context, first=first) as answering:
            attempt = OpenAttempt(inference, deployment, await litellm_adapter.facts(deployment))
            attempt.reservation = await self._reserve(attempt)
            with attempt.noted(self._release):
                async with aclosing(timed(call(deployment), deployment, inference.context)) as events:
                    async for event in events:
                        answering()
                        if not isinstance(event, Pulse):
                            attempt.hear(event)
                            yield event

    async def _able(self, inference: OpenInference) -> list[Guard]:
        """Those of the role's deployments that take images or sound, where the messages hold some."""
        guards = self._guards[inference.role]
        for kind in inference.needed:
            guards = [g for g in guards if getattr(await litellm_adapter.facts(g.deployment), TAKES[kind])]
            if not guards:
                variable = f"{inference.role.upper()}_{TAKES[kind].upper()}"
                raise InvalidInput(
                    f"no model of the role {inference.role} takes {kind}; if yours does, set {variable}=true"
                )
        return guards

    async def _reserve(self, attempt: OpenAttempt) -> str | None:
        """Set aside what the attempt may cost at most."""
        if self._ledger is None:
            return None
        context, most = attempt.inference.context, attempt.facts.cost(attempt.inference.largest)
        try:
            async with asyncio.timeout_at(context.ends):
                return await self._ledger.reserve(context, most, attempt.deployment)
        except TimeoutError:
            raise DeadlineExceeded("the time was over before the ledger had answered (DEADLINE_SECONDS)") from None

    def _release(self, reservation: str) -> None:
        """Make room for the next attempt: this one cost nothing."""
        if self._ledger:
            self._ledger.release(reservation)

    def _flight(
        self, inference: OpenInference, messages: list[Message], parameters: dict[str, Any]
    ) -> AbstractAsyncContextManager[Flight]:
        """What the cache has, or the right to ask a model."""
        if self._cache is None:
            return nullcontext(Flight())
        key = self._cache.key(inference.context, inference.deployments, messages, parameters)
        return self._cache.flight(key, inference.context)

    @contextmanager
    def _recorded(self, inference: OpenInference) -> Iterator[None]:
        """One row in the ledger, however it ends."""
        try:
            yield
        except Exception as error:
            inference.outcome = error.code if isinstance(error, AppError) else "internal_error"
            raise
        finally:
            done = inference.close()
            inference.context.inferences.append(done)
            if self._ledger:
                self._ledger.record(done)


async def warm() -> None:
    """Load what the first call would have to load, seconds of it, off the event loop."""
    await asyncio.to_thread(litellm_adapter.load)


@asynccontextmanager
async def open_gateway(settings: Settings, database: Database) -> AsyncIterator[Gateway]:
    """A gateway with its ledger and its cache; at the end all that is to be written has been."""
    ledger = Ledger(
        database,
        tenant_budget_nanousd=to_nanousd(settings.tenant_budget_usd),
        key_budget_nanousd=to_nanousd(settings.key_budget_usd),
    )
    async with ledger:
        cache = Cache(database, mode=settings.cache_mode, max_age_seconds=settings.cache_seconds)
        yield Gateway(settings, ledger=ledger, cache=cache)


async def _reads_enough(deployment: Deployment, inference: OpenInference) -> bool:
    """Whether it is declared to read more than the one that found the question too long."""
    if not inference.too_long_for:
        return True
    return ((await litellm_adapter.facts(deployment)).context_tokens or 0) > inference.too_long_for


def _report(failure: Failure, deployment: Deployment) -> None:
    """Say it in the log; a wrong key or an empty account is not left to be found by accident."""
    if failure.kind in ALARMING:
        log.error("a model's account needs attention", variable=deployment.variable, detail=failure.detail)
    else:
        say = log.info if failure.kind == "busy" else log.warning  # why it is busy has been said
        say("an attempt failed", kind=failure.kind, variable=deployment.variable, detail=failure.detail)


def _most_telling(failures: list[Failure]) -> Failure:
    """What went wrong last; that a deployment was busy only where that was all, with the shortest wait."""
    real = [failure for failure in failures if failure.kind != "busy"]
    return real[-1] if real else min(failures, key=lambda failure: failure.retry_after or 0)
