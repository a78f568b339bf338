"""Question to answer, the whole way: retrieve, prompt, complete, check the citations, store. Start reading here.

An answer without one citation that holds is not shown as an answer: it becomes an abstention.
Knows nothing of HTTP or the terminal.
"""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from app.db.answers import save_answer
from app.db.engine import Database
from app.errors import InvalidInput
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.prompts.fence import fence, neutral
from app.prompts.loader import Prompt, load_prompt
from app.rag.citations import CitationReader
from app.rag.citations import Event as CitationEvent
from app.rag.retrieval import Retriever
from app.rag.reuse import Lookup, Reuse
from app.settings import Settings
from app.types import Answer, Completion, Message, Passage, TextDelta

ABSTENTION = "The documents do not answer this question."
DECLINED = "The model declined to answer."
UNFINISHED = {
    "length": "The answer was cut at MAX_OUTPUT_TOKENS.",
    "content_filter": "The provider's content filter cut the answer.",
}

Event = CitationEvent | Answer


@dataclass(frozen=True)
class _Turn:
    """One question on its way."""

    began: float
    context: CallContext
    lookup: Lookup | None
    question: str
    passages: list[Passage]
    prompt: Prompt
    messages: list[Message]
    reader: CitationReader


class Pipeline:
    """Answers questions from the documents of one tenant."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings
        self._retriever = Retriever(database, gateway, settings)
        self._reuse = Reuse(database, gateway, settings)

    async def ask(self, question: str) -> Answer:
        """Answer `question` and store the answer.

        Raises:
            InvalidInput: the question is empty or too long.
            NoDocuments: nothing has been ingested.
            ProviderError: the model failed.

        """
        turn = await self._begin(question)
        if isinstance(turn, Answer):
            return turn
        completion = await self._gateway.complete(turn.messages, context=turn.context)
        for _ in (*turn.reader.feed(completion.text), *turn.reader.close()):
            pass
        return await self._finish(turn, completion)

    async def stream(self, question: str) -> AsyncGenerator[Event]:
        """Answer in pieces, then the stored Answer. Raises as `ask`.

        Nothing is shown before the first citation that holds: until then it may still become an abstention.
        """
        turn = await self._begin(question)
        if isinstance(turn, Answer):
            yield TextDelta(turn.text)
            for citation in turn.citations:
                yield citation
            yield turn
            return
        completion: Completion | None = None
        held: list[CitationEvent] = []
        async with aclosing(self._gateway.stream(turn.messages, context=turn.context)) as events:
            async for event in events:
                if isinstance(event, Completion):
                    completion = event
                    held += turn.reader.close()
                elif isinstance(event, TextDelta):
                    held += turn.reader.feed(event.text)
                if turn.reader.citations:
                    for shown in held:
                        yield shown
                    held.clear()
        assert completion is not None  # noqa: S101  # a stream ends with its completion or raises
        yield await self._finish(turn, completion)

    async def _begin(self, question: str) -> _Turn | Answer:
        """Everything up to the model's call; an answer, where one was given before."""
        began, context = time.monotonic(), self._gateway.context(tenant=self._database.tenant)
        question = self._checked(question)
        lookup = await self._reuse.look(question, context)
        if lookup and lookup.found:
            return await self._stored(replace(lookup.found, latency_ms=_milliseconds(began)))
        passages = await self._retriever.retrieve(question, context, lookup.vector if lookup else None)
        prompt = load_prompt("answer")
        messages = prompt.messages(passages=fence(passages), question=neutral(question))
        return _Turn(began, context, lookup, question, passages, prompt, messages, CitationReader(passages))

    def _checked(self, question: str) -> str:
        question = question.replace("\0", "").strip()
        if not question:
            raise InvalidInput("the question is empty")
        limit = self._settings.max_question_characters
        if len(question) > limit:
            raise InvalidInput(f"the question has {len(question):,} characters; {limit:,} are allowed")
        try:
            question.encode()
        except UnicodeEncodeError:
            raise InvalidInput("the question is not valid Unicode text") from None
        return question

    async def _finish(self, turn: _Turn, completion: Completion) -> Answer:
        """The checked answer, stored."""
        abstained, unfinished = not turn.reader.citations, UNFINISHED.get(completion.finish_reason)
        answer = Answer(
            id=str(uuid.uuid4()),
            question=turn.question,
            text=ABSTENTION if abstained else turn.reader.text.strip(),
            abstained=abstained,
            model=completion.model,
            notice=" ".join(filter(None, [completion.notice, DECLINED * bool(completion.refusal), unfinished])),
            prompt_hash=turn.prompt.content_hash,
            usage=completion.usage,
            cost_nanousd=turn.context.cost_nanousd,
            latency_ms=_milliseconds(turn.began),
            citations=tuple(turn.reader.citations),
            rejected=tuple(turn.reader.rejected),
            passages=tuple(turn.passages),
        )
        if turn.lookup and completion.finish_reason == "stop":
            await self._reuse.keep(turn.lookup, answer)
        return await self._stored(answer)

    async def _stored(self, answer: Answer) -> Answer:
        async with self._database.transaction() as connection:
            await save_answer(connection, self._database.tenant, answer)
        return answer


def _milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)
