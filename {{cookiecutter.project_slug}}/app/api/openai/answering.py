"""Who answers: the model `chat` is the gateway's, `documents` is the pipeline; both give pieces, and then the whole.

Knows nothing of OpenAI's wire formats but that of messages.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from app.api.deps import Work
from app.api.openai.models import CHAT, DOCUMENTS, model_named
from app.errors import InvalidParameter, ProviderRejected, RequestRejected
from app.gateway import parts
from app.gateway.parts import PARAMETERS
from app.types import Answer, Completion, Message, Place, TextDelta, ToolCall, ToolCallDelta, Turn, Usage

TO_WRITE_FOR = ("tools", "response_format")  # and the offline model only quotes
SHAPES_THE_REPLY = (*TO_WRITE_FOR, "stop")  # the rest of the parameters may go without effect


@dataclass(frozen=True)
class Asked:
    """A request, whichever format it came in. `parameters` are the gateway's."""

    model: str
    messages: list[Message]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """The whole reply. `extension` is what OpenAI's format has no place for: citations, notice, answer_id."""

    text: str
    finish_reason: str
    usage: Usage
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    extension: dict[str, Any] = field(default_factory=dict)


Piece = TextDelta | ToolCallDelta | Reply


def asked_for(model: str, messages: list[Message], given: dict[str, Any]) -> Asked:
    """The request, with what the gateway knows of the parameters given.

    Raises:
        ModelNotFound: no model that writes has this name.

    """
    model_named(model, CHAT, DOCUMENTS)
    return Asked(model, messages, {name: value for name, value in given.items() if name in PARAMETERS})


async def reply(work: Work, asked: Asked) -> Reply:
    """The whole reply.

    Raises:
        InvalidInput: of a message or a parameter; names it.
        AppError: as `Gateway.complete` and `Pipeline.ask` do.

    """
    if asked.model == CHAT:
        _check_can_write(work, asked)
        with _their_own_words():
            return _said(await work.gateway.complete(asked.messages, context=work.context, parameters=asked.parameters))
    question, history = _conversation(work, asked)
    place = Place(work.caller.owner)
    return _answered(await work.pipeline.ask(question, history=history, place=place, context=work.context))


async def pieces(work: Work, asked: Asked) -> AsyncGenerator[Piece]:
    """Pieces as they come, the whole reply last. Raises as `reply` does."""
    async with aclosing(_chat(work, asked) if asked.model == CHAT else _documents(work, asked)) as events:
        async for event in events:
            if event != TextDelta(""):
                yield event


async def _chat(work: Work, asked: Asked) -> AsyncGenerator[Piece]:
    _check_can_write(work, asked)
    stream = work.gateway.stream(asked.messages, context=work.context, parameters=asked.parameters)
    with _their_own_words():
        async with aclosing(stream) as events:
            async for event in events:
                yield _said(event) if isinstance(event, Completion) else event


@contextmanager
def _their_own_words() -> Iterator[None]:
    """What a provider refuses here is what the client sent, so the mistake is the client's."""
    try:
        yield
    except ProviderRejected as error:
        raise RequestRejected(detail=error.message) from error


async def _documents(work: Work, asked: Asked) -> AsyncGenerator[Piece]:
    question, history = _conversation(work, asked)
    place = Place(work.caller.owner)
    stream = work.pipeline.stream(question, history=history, place=place, context=work.context)
    shown = ""
    async with aclosing(stream) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                shown += event.text
                yield event
            elif isinstance(event, Answer):
                rest = _not_shown(event, shown)
                yield TextDelta(rest)
                yield replace(_answered(event), text=shown + rest)


def _check_can_write(work: Work, asked: Asked) -> None:
    if work.gateway.deployments()[0].is_offline:
        _refuse(asked, TO_WRITE_FOR, "the offline model only quotes documents: set CHAT_MODEL to a language model")


def _refuse(asked: Asked, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if asked.parameters.get(name):
            raise InvalidParameter(name, f"{name}: {why}")


def _not_shown(answer: Answer, shown: str) -> str:
    """What is still to be said. Text that is out cannot be taken back: an answer that has changed stands below it."""
    if shown.strip() == answer.text:
        return ""
    return f"\n\n{answer.notice}\n\n{answer.text}" if shown else answer.text


def _said(completion: Completion) -> Reply:
    return Reply(
        text=completion.text,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        refusal=completion.refusal,
        tool_calls=completion.tool_calls,
        extension={"notice": completion.notice} if completion.notice else {},
    )


def _answered(answer: Answer) -> Reply:
    citations = [asdict(citation) for citation in answer.citations]
    extension = {"citations": citations, "notice": answer.notice, "answer_id": answer.id}
    return Reply(answer.text, "stop", answer.usage, extension=extension)


def _conversation(work: Work, asked: Asked) -> tuple[str, list[Turn]]:
    """The last question, and what was said before it."""
    _refuse(asked, SHAPES_THE_REPLY, f"the model {DOCUMENTS} does not take it")
    parts.check(asked.messages, most_bytes=work.settings.max_attachment_bytes)
    turns: list[tuple[str, list[str]]] = []
    for message in asked.messages:
        text = _text(message)
        if message["role"] == "user":
            turns.append((text, []))
        elif message["role"] != "assistant" or message.get("tool_calls"):
            raise InvalidParameter(
                "messages", f"the model {DOCUMENTS} takes messages of user and assistant: it has its own instructions"
            )
        elif turns:  # a greeting that stands before the first question answers nothing
            turns[-1][1].append(text)
    if asked.messages[-1]["role"] != "user":
        raise InvalidParameter("messages", "the last message has to be the user's question")
    return turns[-1][0], [Turn(question, "\n".join(answers).strip()) for question, answers in turns[:-1]]


def _text(message: Message) -> str:
    content = message.get("content")
    if not isinstance(content, list):
        return content or ""
    if any(part["type"] != "text" for part in content):
        raise InvalidParameter("messages", f"the model {DOCUMENTS} takes text, and neither images nor sound")
    return "\n".join(part["text"] for part in content)
