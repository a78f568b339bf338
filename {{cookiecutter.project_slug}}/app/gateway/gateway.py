"""The one loop every model call goes through: deadline, attempts, back-off. Start reading here.

litellm translates (`litellm_adapter.py`); policy is ours, in `_attempt`. Knows nothing of prompts or documents.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from app.errors import DeadlineExceeded, ProviderError
from app.gateway import litellm_adapter
from app.gateway.deployments import Deployment, Role, resolve
from app.settings import Settings
from app.types import Completion, Message, TextDelta

EMBEDDING_BATCH = 128
FIRST_PAUSE_SECONDS = 0.25

Result = TypeVar("Result")
Event = TextDelta | Completion


class Gateway:
    """Calls the deployment of a role until it answers, the attempts are used up, or the deadline has come."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError where a deployment cannot work."""
        self._settings = settings
        self._deployments = resolve(settings)

    def deployment(self, role: Role) -> Deployment:
        """What plays this role."""
        return self._deployments[role]

    async def warm(self) -> None:
        """Load what the first call would have to load, seconds of it, off the event loop."""
        await asyncio.to_thread(litellm_adapter.load)

    async def complete(self, messages: list[Message]) -> Completion:
        """The chat role's whole reply.

        Raises:
            ProviderError: the last attempt's error, or DeadlineExceeded.

        """
        chat = self._deployments["chat"]
        return await self._attempt(chat, lambda left: litellm_adapter.complete(chat, messages, **self._options(left)))

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Event]:
        """The chat role's reply in pieces, then whole. Only a stream that has not begun is tried again.

        Raises:
            ProviderError: the last attempt's error, or DeadlineExceeded; also in the middle of the stream.

        """
        chat = self._deployments["chat"]
        ends = asyncio.get_running_loop().time() + self._settings.deadline_seconds

        async def begin(left: float) -> tuple[Event, AsyncGenerator[Event]]:
            events = litellm_adapter.stream(chat, messages, **self._options(left))
            return await anext(events), events

        first, rest = await self._attempt(chat, begin)
        async with aclosing(rest):
            yield first
            while True:
                try:
                    async with asyncio.timeout_at(ends):
                        event = await anext(rest)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise DeadlineExceeded from None
                yield event

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, in order, from the embedding role."""
        embedding = self._deployments["embedding"]
        vectors: list[list[float]] = []
        for start in range(0, len(texts), EMBEDDING_BATCH):
            batch = texts[start : start + EMBEDDING_BATCH]
            vectors += await self._attempt(embedding, partial(_embed, embedding, batch))
        return vectors

    def _options(self, seconds_left: float) -> dict[str, float | int]:
        return {"timeout": seconds_left, "max_tokens": self._settings.max_output_tokens, "temperature": 0}

    async def _attempt(self, deployment: Deployment, call: Callable[[float], Awaitable[Result]]) -> Result:
        """Call until one attempt succeeds; `call` is given the seconds that are left."""
        clock = asyncio.get_running_loop().time
        ends = clock() + self._settings.deadline_seconds
        for attempt in range(1, self._settings.max_attempts + 1):
            try:
                async with asyncio.timeout_at(ends):
                    return await call(ends - clock())
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{deployment.model} did not answer within {self._settings.deadline_seconds:g} seconds"
                ) from None
            except ProviderError as error:
                pause = _pause(attempt, error)
                if not error.retryable or attempt == self._settings.max_attempts or clock() + pause >= ends:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")


async def _embed(deployment: Deployment, texts: list[str], seconds_left: float) -> list[list[float]]:
    return await litellm_adapter.embed(deployment, texts, timeout=seconds_left)


def _pause(attempt: int, error: ProviderError) -> float:
    """Seconds before the next attempt: what the provider asks for, else exponential with full jitter."""
    if error.retry_after is not None:
        return error.retry_after
    return random.uniform(0, FIRST_PAUSE_SECONDS * 2**attempt)  # noqa: S311  # jitter, not a secret
