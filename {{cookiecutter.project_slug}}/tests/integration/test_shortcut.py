"""The short way of a stream says what the long one says, whatever the provider sends."""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.gateway import litellm_adapter, shortcut
from app.gateway.deployments import Deployment, resolve
from app.gateway.failures import Failure
from app.settings import Settings
from app.types import Completion, Pulse, TextDelta
from tests.provider import CallTools, CutStream, GarbledStream, NoUsage, Provider, Reply, Tool, _chunk, tokens

ASK = [{"role": "user", "content": "Go on."}]
LONG = " ".join(map(str, range(50)))


@dataclass(frozen=True)
class Raw(Reply):
    """A stream of just these events."""

    events: tuple[str, ...] = ()

    def _events(self, _: Any) -> Iterator[str]:
        yield from self.events


def raw(*deltas: dict[str, Any], finish: str = "stop") -> Raw:
    """These deltas, and a good end."""
    return Raw(events=(*map(_chunk, deltas), _chunk({}, finish), "[DONE]"))


ROLE = {"role": "assistant"}
CALL = {"tool_calls": [{"index": 0, **Tool().call("{}")}]}
COUNTED = json.dumps(json.loads(_chunk({"content": "it is"})) | {"usage": tokens(5, 6)})
SENT = {
    "text": Reply(LONG),
    "nothing": Reply(""),
    "no usage": NoUsage(LONG),
    "cut by length": Reply(LONG, finish="length"),
    "tools": CallTools(tools=(Tool(), Tool(id="call_2", arguments='{"city": "Rome"}'))),
    "text and tools": CallTools(text=LONG),
    "a refusal": Reply("", refusal="I must not."),
    "text and a refusal": Reply(LONG, refusal="I must not."),
    "cut": CutStream(LONG, after=9),
    "cut at once": CutStream(LONG, after=0),
    "dropped": CutStream(LONG, after=9, dropped=True),
    "garbled": GarbledStream(LONG, after=9),
    "an error": GarbledStream(LONG, after=9, event='{"error": {"message": "out of memory", "code": 500}}'),
    "no object": GarbledStream(LONG, after=9, event="[1]"),
    "no choice": GarbledStream(LONG, after=9, event='{"choices": []}'),
    "the role in each piece": raw(*[ROLE | {"content": "so "}] * 5),
    "the role never": raw(*[{"content": "so "}] * 5),
    "empty pieces": raw({"content": ""}, {"content": "so "}, {"content": None}, {"content": "", **CALL}),
    "text beside a tool": raw({"content": "so "}, {"content": "then ", **CALL}, finish="tool_calls"),
    "an unknown finish": raw({"content": "so "}, finish="because"),
    "no end": Raw(events=(_chunk({"content": "so "}), _chunk({}, "stop"))),
    "the usage with text": Raw(events=(_chunk({"content": "so "}), COUNTED, _chunk({}, "stop"), "[DONE]")),
    "a finish with text": Raw(events=(_chunk({"content": "so "}), _chunk({"content": "it is"}, "stop"), "[DONE]")),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """One for the file."""
    litellm_adapter.load()
    with Provider() as running:
        yield running


async def heard(deployment: Deployment) -> tuple[Any, ...]:
    """What came: the text, everything else in order, and how it ended."""
    text, others, failed = "", [], None
    events: AsyncGenerator[Any] = litellm_adapter.stream(deployment, ASK, {})
    try:
        async for event in events:
            if isinstance(event, TextDelta):
                text += event.text
            elif not isinstance(event, Pulse):
                others.append(event)
    except Failure as failure:
        failed = failure.kind
    return text, others, failed


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT.keys())
async def test_both_ways_say_the_same(provider: Provider, monkeypatch: pytest.MonkeyPatch, sent: Reply) -> None:
    """Text, tools, refusals, usage, cost and failures."""
    settings = Settings.model_validate({"chat": {"model": "openai/gpt-4o", "api_base": provider.url}})
    [deployment] = resolve(settings)["chat"]
    provider.always(sent)
    short = await heard(deployment)
    monkeypatch.setattr(shortcut, "PROVIDERS", frozenset())
    assert short == await heard(deployment)
    assert any(short)


async def test_text_goes_the_short_way(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK makes objects of the first piece and of the end, and of no piece between."""
    from openai import AsyncOpenAI  # noqa: PLC0415  # slow to import

    made: list[Any] = []
    make = AsyncOpenAI._process_response_data

    def counted(*arguments: Any, **named: Any) -> Any:
        made.append(named)
        return make(*arguments, **named)

    monkeypatch.setattr(AsyncOpenAI, "_process_response_data", counted)
    settings = Settings.model_validate({"chat": {"model": "openai/gpt-4o", "api_base": provider.url}})
    provider.always(Reply(LONG))
    text, [completion], failed = await heard(resolve(settings)["chat"][0])
    assert (text.split(), failed) == (LONG.split(), None)
    assert isinstance(completion, Completion)
    assert len(made) == 3
