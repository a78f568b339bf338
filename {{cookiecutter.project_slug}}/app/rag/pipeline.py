"""Question to answer, the whole way: retrieve, prompt, complete, check the citations, store. Start reading here.

An answer without one citation that holds is not shown as an answer: it becomes an abstention.
Knows nothing of HTTP or the terminal.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from app.db.answers import save_answer
from app.db.engine import Database
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.prompts.fence import fence, neutral
from app.prompts.loader import load_prompt
from app.rag import abstention
from app.rag.abstention import ABSTENTION
from app.rag.asking import checked_filter, checked_question
from app.rag.citations import CitationReader
from app.rag.citations import Event as CitationEvent
from app.rag.evidence import Evidence, read_evidence
from app.rag.followup import stand_alone
from app.rag.reading import fitting
from app.rag.retrieval import Retriever
from app.rag.reuse import Lookup, Reuse
from app.settings import Settings
from app.types import Answer, Completion, Filter, Message, Passage, Place, TextDelta, Turn, Usage

DECLINED = "The model declined to answer."
CHANGED = "A document changed while this was answered, and the citations were checked again."
UNFINISHED = {
    "length": "The answer was cut at MAX_OUTPUT_TOKENS.",
    "content_filter": "The provider's content filter cut the answer.",
}
# What stands for the model's reply where there was nothing to read.
NOBODY_ASKED = Completion(text="", model="", finish_reason="stop", usage=Usage(), cost_nanousd=0)

ALONE = Place()
Event = CitationEvent | Answer


@dataclass(frozen=True)
class _Asked:
    """One question on its way; `evidence` is what the model reads, `left_out` what it does not."""

    began: float
    context: CallContext
    lookup: Lookup | None
    question: str
    standalone: str
    place: Place
    evidence: Evidence
    left_out: tuple[Passage, ...]
    messages: list[Message]
    reader: CitationReader


class Pipeline:
    """Answers questions from the documents of one tenant."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings
        self._prompt = load_prompt(settings.answer_prompt)
        self._retriever = Retriever(database, gateway, settings)
        self._reuse = Reuse(database, gateway, settings)

    async def ask(
        self,
        question: str,
        *,
        filters: Filter | None = None,
        history: Sequence[Turn] = (),
        place: Place = ALONE,
        context: CallContext | None = None,
    ) -> Answer:
        """Answer `question` from the documents that `filters` allow, and store the answer.

        With a `history`, oldest first, the question is understood as the next one of that conversation. A `context`
        says for whom models are called, and until when; without one it is for the tenant, and DEADLINE_SECONDS.

        Raises:
            InvalidInput: the question is empty or too long, or a filter is none.
            NoDocuments: nothing has been ingested.
            NotFound: the conversation in `place` is not there any more.
            ProviderError: the model failed.

        """
        asked = await self._begin(question, filters, history, place, context)
        if isinstance(asked, Answer):
            return asked
        completion = await self._gateway.complete(asked.messages, context=asked.context)
        _read(asked.reader, completion.text)
        return await self._finish(asked, completion)

    async def stream(
        self,
        question: str,
        *,
        filters: Filter | None = None,
        history: Sequence[Turn] = (),
        place: Place = ALONE,
        context: CallContext | None = None,
    ) -> AsyncGenerator[Event]:
        """Answer in pieces, then the stored Answer, which has the last word. Takes and raises what `ask` does.

        Nothing is shown before the first citation that holds: until then it may still become an abstention.
        """
        asked = await self._begin(question, filters, history, place, context)
        if isinstance(asked, Answer):
            if not asked.abstained:
                yield TextDelta(asked.text)
            for citation in asked.citations:
                yield citation
            yield asked
            return
        completion: Completion | None = None
        held: list[CitationEvent] = []
        async with aclosing(self._gateway.stream(asked.messages, context=asked.context)) as events:
            async for event in events:
                if isinstance(event, Completion):
                    completion = event
                    held += asked.reader.close()
                elif isinstance(event, TextDelta):
                    held += asked.reader.feed(event.text)
                if asked.reader.citations:
                    for shown in held:
                        yield shown
                    held.clear()
        assert completion is not None  # noqa: S101  # a stream ends with its completion or raises
        yield await self._finish(asked, completion)

    async def _begin(
        self, question: str, filters: Filter | None, history: Sequence[Turn], place: Place, context: CallContext | None
    ) -> _Asked | Answer:
        """Everything up to the model's call; an answer, where one was given before or nothing is there to read."""
        began, context = time.monotonic(), context or self._gateway.context(tenant=self._database.tenant)
        gateway, settings = self._gateway, self._settings
        question, filters = checked_question(question, settings), checked_filter(filters)
        standalone = await stand_alone(question, history, gateway=gateway, settings=settings, context=context)
        lookup = await self._reuse.look(standalone, context, filters)
        if lookup and lookup.found:
            again = replace(lookup.found, question=question, conversation_id=place.conversation_id)
            return await self._stored(replace(again, latency_ms=_milliseconds(began)), place)
        found = await self._retriever.retrieve(standalone, context, lookup.vector if lookup else None, filters=filters)
        read = await fitting(found, self._messages(standalone, ()), gateway=gateway, settings=settings)
        evidence = (await read_evidence(self._database, read)).standing()
        asked = _Asked(
            began=began,
            context=context,
            lookup=lookup,
            question=question,
            standalone=standalone,
            place=place,
            evidence=evidence,
            left_out=tuple(found[len(read) :]),
            messages=self._messages(standalone, evidence.passages),
            reader=self._reader(evidence),
        )
        return asked if evidence.passages else await self._finish(asked, NOBODY_ASKED)

    def _reader(self, evidence: Evidence) -> CitationReader:
        flag = self._settings.citation_faults == "flag"
        return CitationReader(evidence.passages, flag=flag, settle=evidence.settle)

    async def _finish(self, asked: _Asked, completion: Completion) -> Answer:
        """The answer, its citations checked against what the store holds by now, stored."""
        reader, notices = asked.reader, [completion.notice, DECLINED * bool(completion.refusal)]
        now = await read_evidence(self._database, asked.evidence.passages)
        if now != asked.evidence:
            reader = self._reader(now)
            _read(reader, completion.text)
            notices.append(CHANGED)
        abstained = not reader.citations
        answer = Answer(
            id=str(uuid.uuid4()),
            question=asked.question,
            text=ABSTENTION if abstained else reader.text.strip(),
            abstained=abstained,
            model=completion.model,
            notice=" ".join(filter(None, [*notices, UNFINISHED.get(completion.finish_reason)])),
            prompt_hash=self._prompt.content_hash,
            usage=completion.usage,
            cost_nanousd=asked.context.cost_nanousd,
            latency_ms=_milliseconds(asked.began),
            standalone=asked.standalone,
            conversation_id=asked.place.conversation_id,
            reason=await self._reason(asked, completion, reader) if abstained else "",
            citations=tuple(reader.citations),
            rejected=tuple(reader.rejected),
            passages=_used(asked.evidence.passages, reader.cited) + asked.left_out,
        )
        if asked.lookup and completion.finish_reason == "stop":
            await self._reuse.keep(asked.lookup, answer)
        return await self._stored(answer, asked.place)

    async def _reason(self, asked: _Asked, completion: Completion, reader: CitationReader) -> str:
        if completion is NOBODY_ASKED:
            return abstention.NOTHING_FOUND
        below = self._settings.abstain_below
        return await asyncio.to_thread(
            abstention.reason, completion, asked.messages, reader.rejected, abstain_below=below
        )

    def _messages(self, question: str, passages: Sequence[Passage]) -> list[Message]:
        return self._prompt.messages(passages=fence(passages), question=neutral(question))

    async def _stored(self, answer: Answer, place: Place) -> Answer:
        async with self._database.transaction() as connection:
            await save_answer(connection, self._database.tenant, answer, place.owner)
        return answer


def _read(reader: CitationReader, text: str) -> None:
    for _ in (*reader.feed(text), *reader.close()):
        pass


def _used(passages: Sequence[Passage], cited: set[int]) -> tuple[Passage, ...]:
    return tuple(replace(p, use="cited" if n in cited else "read") for n, p in enumerate(passages))


def _milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)
