"""An answer given before, for a question that means the same: the semantic cache of the route `ask`.

Does nothing until `app cache measure` has switched the route on. Knows nothing of how an answer is made.
"""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from app.db.cache import index_state
from app.db.engine import Database
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.gateway.semantic_cache import SemanticCache
from app.prompts.loader import all_hashes
from app.settings import Settings
from app.types import Answer, Filter, Usage

ROUTE = "ask"
# Every setting that an answer depends on, besides its models.
SETTINGS = (
    *("passages", "candidates", "fusion", "dense_weight", "neighbours", "rewrite", "rerank", "rerank_model"),
    *("passage_tokens", "max_output_tokens", "citation_faults", "abstain_below", "answer_prompt"),
)
AnyAnswer = TypeAdapter[Answer](Answer)


@dataclass(frozen=True)
class Lookup:
    """What was looked for, to keep the new answer under, and the old answer that was found."""

    vector: Sequence[float]
    scope: list[Any]
    found: Answer | None


class Reuse:
    """Finds and keeps answers of one tenant."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings
        self._cache = SemanticCache(database, settings)

    async def look(self, question: str, context: CallContext, filters: Filter | None = None) -> Lookup | None:
        """The nearest answer, if it is near enough; None where the route does not use the cache.

        `question` stands alone: what one conversation means by "and in winter?" is another question in the next.
        """
        if not await self._cache.is_on(ROUTE):
            return None
        [vector] = await self._gateway.embed([question], context=context)
        scope = await self._scope(filters)
        payload = await self._cache.find(ROUTE, scope, vector)
        if payload is None:
            return Lookup(vector, scope, None)
        old = AnyAnswer.validate_python(payload)
        self._gateway.reused(context, old.cost_nanousd)
        notice = f"{old.notice} First given to the question: {old.standalone}".strip()
        again = replace(
            old,
            id=str(uuid.uuid4()),
            question=question,
            standalone=question,
            notice=notice,
            usage=Usage(),
            cost_nanousd=context.cost_nanousd,
        )
        return Lookup(vector, scope, again)

    async def keep(self, lookup: Lookup, answer: Answer) -> None:
        """Keep an answer for those who ask the same later; an abstention is none."""
        if not answer.abstained:
            payload = AnyAnswer.dump_python(answer, mode="json")
            await self._cache.keep(ROUTE, lookup.scope, answer.standalone, lookup.vector, payload)

    async def _scope(self, filters: Filter | None) -> list[Any]:
        """Everything besides the question that an answer depends on; a changed document changes it."""
        async with self._database.transaction() as connection:
            documents = await index_state(connection, self._database.tenant)
        models = [
            (deployment.model, deployment.settings.api_base, deployment.settings.context_tokens)
            for deployment in self._gateway.deployments()
        ]
        settings = {name: getattr(self._settings, name) for name in SETTINGS}
        return [documents, all_hashes(), models, settings, asdict(filters or Filter())]
