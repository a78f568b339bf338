"""For whom a model is called, and by when it must have answered: one context an answer, whatever calls it takes.

Knows nothing of models.
"""

import asyncio
import uuid
from dataclasses import dataclass, field

from app.types import DEFAULT_TENANT, Inference


@dataclass(frozen=True)
class CallContext:
    """`ends` is a time of the event loop's clock. `api_key_id` names the caller's key and is never the key itself.

    `cache_sampled` lets the cache answer, and keep, what is sampled above temperature 0.
    """

    ends: float
    tenant: str = DEFAULT_TENANT
    api_key_id: str = ""
    cache_sampled: bool = False
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    inferences: list[Inference] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """Until the deadline; below zero after it."""
        return self.ends - asyncio.get_running_loop().time()

    @property
    def cost_nanousd(self) -> int | None:
        """What all calls so far have cost, failed attempts included, in 1e-9 USD; None where a price is unknown."""
        costs = [attempt.cost_nanousd for inference in self.inferences for attempt in inference.attempts]
        return None if None in costs else sum(cost for cost in costs if cost is not None)
