"""Three timers over one call: until its first event, between two events, and until the answer's deadline.

Knows nothing of what comes after a timeout.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.gateway.context import CallContext
from app.gateway.deployments import Deployment
from app.gateway.failures import Failure
from app.gateway.inference import Event
from app.types import Pulse

BREATHER = 32


async def timed(events: AsyncGenerator[Event], deployment: Deployment, context: CallContext) -> AsyncGenerator[Event]:
    """Pass the events on; the time that their reader takes counts for the deadline only.

    Raises:
        Failure: of kind timeout before the first event that shows something, of kind stalled after it.

    """
    limit, setting = deployment.settings.timeout_seconds, f"{deployment.variable}_TIMEOUT_SECONDS"
    begun, passed = False, 0
    async with aclosing(events):
        while True:
            try:
                if context.seconds_left <= 0:
                    raise TimeoutError  # noqa: TRY301  # what has arrived already would come without any waiting
                async with asyncio.timeout(min(limit, context.seconds_left)):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError:
                which = "DEADLINE_SECONDS" if context.seconds_left <= 0 else setting
                detail = (
                    f"{deployment.model} {'was silent for too long' if begun else 'did not answer in time'} ({which})"
                )
                raise Failure("stalled" if begun else "timeout", detail) from None
            begun = begun or not isinstance(event, Pulse)
            limit, setting = deployment.settings.idle_seconds, f"{deployment.variable}_IDLE_SECONDS"
            yield event
            passed += 1
            if passed % BREATHER == 0:
                await asyncio.sleep(0)  # a stream that has arrived in one piece leaves the others their turn
