"""Typed replies through the real litellm: what goes over the wire, what is repaired, and what is given up."""

import json
import re
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, create_model

from app.api.errors import public
from app.db.engine import Database
from app.errors import ContentFiltered, DeadlineExceeded, InvalidOutput
from app.gateway.cache import Cache
from app.gateway.gateway import Gateway
from app.gateway.structured import _json_in, parse
from app.settings import Settings
from app.types import Message
from tests.conftest import PROJECT
from tests.provider import Hang, Provider, Reply

CANARY = "canary-7d41"
MESSAGES: list[Message] = [{"role": "system", "content": "You sort letters."}, {"role": "user", "content": "Late!"}]
GOOD = '{"topic": "delivery", "days": 3}'


class Ticket(BaseModel):
    """What a letter is about."""

    topic: Literal["invoice", "delivery"]
    days: int = Field(0, ge=0, description="how late it is")


TREE: TypeAlias = "list[Tree]"


class Tree(BaseModel):
    """A model that holds itself."""

    below: TREE


def _gateway(provider: Provider, *, json_schema: bool = True, cache: Cache | None = None, **given: Any) -> Gateway:
    chat = {"model": "openai/test-model", "api_base": provider.url, "json_schema": json_schema}
    return Gateway(Settings(**({"chat": chat} | given)), cache=cache)


def _form(provider: Provider) -> dict[str, Any]:
    return dict(provider.requests[-1].body["response_format"]["json_schema"])


async def test_a_schema_goes_to_a_provider_that_takes_it(provider: Provider) -> None:
    """As OpenAI's strict mode demands: closed, every field required, no default; the messages stay as they are."""
    provider.then(Reply(GOOD))
    parsed = await parse(_gateway(provider), MESSAGES, Ticket, parameters={"seed": 7})
    assert (parsed.value, parsed.repairs) == (Ticket(topic="delivery", days=3), 0)
    assert parsed.completion.text == GOOD
    body = provider.requests[0].body
    assert (body["messages"], body["seed"], body["response_format"]["type"]) == (MESSAGES, 7, "json_schema")
    form = _form(provider)
    assert (form["name"], form["strict"]) == ("Ticket", True)
    assert form["schema"]["required"] == ["topic", "days"]
    assert form["schema"]["additionalProperties"] is False
    assert form["schema"]["properties"]["days"] == {
        "description": "how late it is",
        "minimum": 0,
        "title": "Days",
        "type": "integer",
    }


async def test_models_inside_a_model_are_as_strict(provider: Provider) -> None:
    """A reference stands alone, and what it refers to is closed as well."""
    letters = create_model("Letters", first=(Ticket, Field(description="the first")), rest=(list[Ticket] | None, None))
    provider.then(Reply(json.dumps({"first": json.loads(GOOD), "rest": None})))
    await parse(_gateway(provider), MESSAGES, letters)
    schema = _form(provider)["schema"]
    assert _form(provider)["strict"] is True
    assert schema["properties"]["first"] == {"$ref": "#/$defs/Ticket"}
    assert schema["$defs"]["Ticket"]["required"] == ["topic", "days"]
    assert schema["$defs"]["Ticket"]["additionalProperties"] is False


@pytest.mark.parametrize("kind", [Any, list[Any], dict[str, int], tuple[int, str], set[int]])
async def test_what_strict_mode_does_not_know_is_sent_as_a_hint(provider: Provider, kind: Any) -> None:
    """A provider would refuse the whole request, so strictness is not claimed."""
    provider.then(Reply('{"it": {}}'), Reply('{"it": []}'), Reply('{"it": [1, "a"]}'))
    box = create_model("Box[it]", it=(kind, ...))
    await parse(_gateway(provider), MESSAGES, box)
    form = _form(provider)
    assert (form["name"], form["strict"]) == ("Box_it_", False)
    assert form["schema"] == box.model_json_schema()


async def test_without_the_ability_the_schema_is_a_part_of_the_prompt(provider: Provider) -> None:
    """It joins the system message, since some models take one only, and the JSON is found in the prose."""
    provider.then(Reply(f"Sure [1]! Here it is:\n```json\n{GOOD}\n```\nAnything else?"))
    parsed = await parse(_gateway(provider, json_schema=False), MESSAGES, Ticket)
    assert parsed.value == Ticket(topic="delivery", days=3)
    body = provider.requests[0].body
    assert "response_format" not in body
    system, user = body["messages"]
    assert system["content"].startswith("You sort letters.\n\nReply with JSON only")
    assert json.loads(system["content"].partition("schema:\n")[2]) == Ticket.model_json_schema()
    assert user == MESSAGES[1]


async def test_without_a_system_message_the_schema_becomes_one(provider: Provider) -> None:
    """It stands in front of everything else."""
    provider.then(Reply(GOOD))
    await parse(_gateway(provider, json_schema=False), MESSAGES[1:], Ticket)
    assert [message["role"] for message in provider.requests[0].body["messages"]] == ["system", "user"]


async def test_one_fallback_without_the_ability_decides_for_all(provider: Provider) -> None:
    """The question must suit whoever answers in the end."""
    provider.then(Reply(GOOD))
    other = {"model": "openai/other-model", "api_base": provider.url, "json_schema": False}
    await parse(_gateway(provider, chat_2=other), MESSAGES, Ticket)
    assert "response_format" not in provider.requests[0].body


async def test_a_list_on_top_goes_through_the_prompt(provider: Provider) -> None:
    """Providers want an object on top of a schema; asked in words, a model may write a list."""
    provider.then(Reply("```json\n[1, 2]\n```"), Reply('{"below": [{"below": []}]}'))
    assert (await parse(_gateway(provider), MESSAGES, RootModel[list[int]])).value.root == [1, 2]
    assert (await parse(_gateway(provider), MESSAGES, Tree)).value == Tree(below=[Tree(below=[])])
    assert not any("response_format" in call.body for call in provider.requests)


async def test_a_wrong_reply_is_shown_to_the_model_with_what_is_wrong(provider: Provider) -> None:
    """The second question holds the first reply and pydantic's words for it."""
    wrong = '{"topic": "weather", "days": -1}'
    provider.then(Reply(wrong), Reply(GOOD))
    parsed = await parse(_gateway(provider), MESSAGES, Ticket)
    assert (parsed.value.topic, parsed.repairs) == ("delivery", 1)
    *before, said, correction = provider.requests[1].body["messages"]
    assert (before, said) == (MESSAGES, {"role": "assistant", "content": wrong})
    assert "topic: Input should be 'invoice' or 'delivery'" in correction["content"]
    assert "days: Input should be greater than or equal to 0" in correction["content"]


async def test_only_the_last_mistake_is_shown_and_the_list_is_short(provider: Provider) -> None:
    """However much is wrong, a repair stays a small question."""
    numbers = create_model("Numbers", numbers=(list[int], ...))
    provider.then(Reply("no"), Reply(json.dumps({"numbers": ["x"] * 500})), Reply('{"numbers": []}'))
    parsed = await parse(_gateway(provider), MESSAGES, numbers)
    assert parsed.repairs == 2
    assert len(provider.requests[2].body["messages"]) == len(MESSAGES) + 2
    assert len(provider.requests[2].body["messages"][-1]["content"]) < 1_200


@pytest.mark.parametrize("text", ["", "half a \ud83d"])
async def test_what_cannot_be_sent_back_is_told_in_other_words(provider: Provider, text: str) -> None:
    """An empty reply and half a character are mistakes of the model, not invalid input of the caller."""
    provider.then(Reply(text), Reply(GOOD))
    parsed = await parse(_gateway(provider), MESSAGES, Ticket)
    assert parsed.repairs == 1
    assert provider.requests[1].body["messages"][-2]["content"] in {"(nothing)", "half a ?"}


async def test_when_the_repairs_are_used_up_the_raw_text_is_kept_apart(provider: Provider) -> None:
    """The error holds the last text in `raw`, and neither its message nor what clients see repeats any of it."""
    provider.always(Reply('{"topic": "%s", "%s": 1}' % (CANARY, CANARY)))  # noqa: UP031  # braces
    with pytest.raises(InvalidOutput) as failed:
        await parse(_gateway(provider, max_repairs=1), MESSAGES, Ticket)
    assert len(provider.requests) == 2
    assert CANARY in failed.value.raw
    assert CANARY not in json.dumps(public(failed.value)) + str(failed.value.__context__)
    assert failed.value.message == "openai/test-model wrote no valid Ticket, with 1 repairs: literal_error"


async def test_a_call_may_allow_no_repairs(provider: Provider) -> None:
    """`max_repairs` of the call goes before the setting."""
    provider.always(Reply("no"))
    with pytest.raises(InvalidOutput, match=r"with 0 repairs: json_invalid$"):
        await parse(_gateway(provider), MESSAGES, Ticket, max_repairs=0)
    assert len(provider.requests) == 1


async def test_a_cut_reply_is_called_cut(provider: Provider) -> None:
    """The model is told to write less, and the operator that max_tokens was too small."""
    provider.always(Reply('{"topic": "deli', finish="length"))
    with pytest.raises(InvalidOutput, match="cut at max_tokens"):
        await parse(_gateway(provider, max_repairs=1), MESSAGES, Ticket)
    assert "write less" in provider.requests[1].body["messages"][-1]["content"]


async def test_a_refusal_is_not_argued_with(provider: Provider) -> None:
    """One call, and what the model said is kept in `raw` only."""
    provider.then(Reply("", refusal=f"I will not: {CANARY}."))
    with pytest.raises(InvalidOutput, match="refused") as failed:
        await parse(_gateway(provider), MESSAGES, Ticket)
    assert failed.value.raw == f"I will not: {CANARY}."
    assert CANARY not in failed.value.message
    assert len(provider.requests) == 1


async def test_a_filtered_reply_is_not_asked_for_again(provider: Provider) -> None:
    """The filter would say the same again."""
    provider.then(Reply('{"topic": ', finish="content_filter"))
    with pytest.raises(ContentFiltered):
        await parse(_gateway(provider), MESSAGES, Ticket)
    assert len(provider.requests) == 1


async def test_repairs_share_one_deadline_and_one_context(provider: Provider) -> None:
    """The second call gets what the first has left, and both are noted in the same context."""
    provider.then(Reply("no"), Hang())
    gateway = _gateway(provider)
    context = gateway.context(seconds=2)
    with pytest.raises(DeadlineExceeded):
        await parse(gateway, MESSAGES, Ticket, context=context)
    assert len(provider.requests) == 2
    assert [inference.outcome for inference in context.inferences] == ["ok", "deadline_exceeded"]


async def test_only_a_valid_reply_is_cached(provider: Provider, database: Database) -> None:
    """The wrong one is asked for anew by the next caller, and the good one is not."""
    gateway = _gateway(provider, cache=Cache(database, mode="on", max_age_seconds=60))
    provider.then(Reply("no"))
    with pytest.raises(InvalidOutput):
        await parse(gateway, MESSAGES, Ticket, max_repairs=0)
    provider.then(Reply(GOOD))
    first = await parse(gateway, MESSAGES, Ticket, max_repairs=0)
    again = await parse(gateway, MESSAGES, Ticket, max_repairs=0)
    assert (first.completion.cached, again.completion.cached) == ("", "exact")
    assert first.value == again.value
    assert len(provider.requests) == 2


async def test_the_example_in_the_howto_works(provider: Provider) -> None:
    """Its code is taken from the page and run."""
    page = (PROJECT / "docs" / "howto" / "structured-output.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    example: dict[str, Any] = {"__name__": "example"}
    exec(code, example)  # noqa: S102  # our own documentation
    provider.then(Reply('{"reason": "It asks where the parcel is.", "topic": "delivery", "order_number": null}'))
    gateway = _gateway(provider)
    ticket = await example["classify"](gateway, gateway.context(), "Where is my parcel?")
    assert (ticket.topic, ticket.order_number) == ("delivery", None)
    assert _form(provider)["strict"] is True


PROSE = st.text('[]1,.:"}é \n', max_size=20).map("Well: {}".format)
VALUES = st.dictionaries(st.text(max_size=5), st.recursive(st.integers() | st.text(max_size=5), st.lists), max_size=3)


@given(before=PROSE, value=VALUES, after=PROSE, fenced=st.booleans())
def test_json_is_found_wherever_it_stands(before: str, value: dict[str, Any], after: str, fenced: bool) -> None:  # noqa: FBT001  # drawn
    """An introduction, a code fence and a farewell change nothing."""
    written = json.dumps(value)
    text = f"{before}\n```json\n{written}\n```\n{after}" if fenced else f"{before}{written}{after}"
    assert json.loads(_json_in(text)) == value


@given(st.text(st.sampled_from('{}[]"`:,1a \n')))
def test_any_text_is_searched_without_an_error(text: str) -> None:
    """What is found is a part of the text, be it JSON or not."""
    assert _json_in(text) in text


def test_deep_nesting_is_only_a_mistake() -> None:
    """A model that opens brackets without end does not end the program."""
    text = '{"a":' * 100_000
    assert _json_in(text) == text
