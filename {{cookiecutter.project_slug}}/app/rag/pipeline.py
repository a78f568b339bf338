"""Question to answer, the whole way: retrieve, prompt, complete, check the citations, store. Start reading here.

An answer without one citation that holds is not shown as an answer: it becomes an abstention.
Knows nothing of HTTP or the terminal.
"""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from app.db.answers import save_answer
from app.db.engine import Database
from app.errors import InvalidInput
from app.gateway.gateway import Gateway
from app.prompts.fence import fence, neutral
from app.prompts.loader import Prompt, load_prompt
from app.rag.citations import CitationReader
from app.rag.citations import Event as CitationEvent
from app.rag.retrieval import Retriever
from app.settings import Settings
from app.types import Answer, Completion, Message, Passage, TextDelta

ABSTENTION = "The documents do not answer this question."

Event = CitationEvent | Answer


class Pipeline:
    """Answers questions from the documents of one tenant."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings
        self._retriever = Retriever(database, gateway, settings)

    async def ask(self, question: str) -> Answer:
        """Answer `question` and store the answer.

        Raises:
            InvalidInput: the question is empty or too long.
            NoDocuments: nothing has been ingested.
            ProviderError: the model failed.

        """
        began = time.monotonic()
        question = self._checked(question)
        passages = await self._retriever.retrieve(question)
        prompt = load_prompt("answer")
        completion = await self._gateway.complete(_messages(prompt, question, passages))
        reader = CitationReader(passages)
        for _ in (*reader.feed(completion.text), *reader.close()):
            pass
        return await self._finish(question, passages, prompt, completion, reader, began)

    async def stream(self, question: str) -> AsyncIterator[Event]:
        """Answer in pieces: text and citations as they are checked, then the whole stored Answer. Raises as `ask`."""
        began = time.monotonic()
        question = self._checked(question)
        passages = await self._retriever.retrieve(question)
        prompt = load_prompt("answer")
        reader = CitationReader(passages)
        completion: Completion | None = None
        async with aclosing(self._gateway.stream(_messages(prompt, question, passages))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    for shown in reader.feed(event.text):
                        yield shown
                else:
                    completion = event
        for shown in reader.close():
            yield shown
        assert completion is not None  # noqa: S101  # a stream ends with its completion or raises
        yield await self._finish(question, passages, prompt, completion, reader, began)

    def _checked(self, question: str) -> str:
        question = question.strip()
        if not question:
            raise InvalidInput("the question is empty")
        limit = self._settings.max_question_characters
        if len(question) > limit:
            raise InvalidInput(f"the question has {len(question):,} characters; {limit:,} are allowed")
        try:
            question.encode()
        except UnicodeEncodeError:
            raise InvalidInput("the question is not valid Unicode text") from None
        return question.replace("\0", "")

    async def _finish(
        self,
        question: str,
        passages: list[Passage],
        prompt: Prompt,
        completion: Completion,
        reader: CitationReader,
        began: float,
    ) -> Answer:
        answer = Answer(
            id=str(uuid.uuid4()),
            question=question,
            text=reader.text.strip(),
            abstained=not reader.citations,
            model=completion.model,
            notice=completion.notice,
            prompt_hash=prompt.content_hash,
            usage=completion.usage,
            cost_nanousd=completion.cost_nanousd,
            latency_ms=round((time.monotonic() - began) * 1000),
            citations=tuple(reader.citations),
            rejected=tuple(reader.rejected),
            passages=tuple(passages),
        )
        if answer.abstained:
            answer = replace(answer, text=ABSTENTION)
        async with self._database.transaction() as connection:
            await save_answer(connection, self._database.tenant, answer)
        return answer


def _messages(prompt: Prompt, question: str, passages: list[Passage]) -> list[Message]:
    return prompt.messages(passages=fence(passages), question=neutral(question))
