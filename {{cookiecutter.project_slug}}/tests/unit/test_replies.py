"""What providers send, distrusted: counts that cannot be true, vectors out of order, finishes that are none."""

from types import SimpleNamespace as Sent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.failures import Failure
from app.gateway.replies import MOST_TOKENS, Said, embedded, finish_of, refusal
from app.types import Message, Pulse, TextDelta, ToolCall, Usage

QUESTION: list[Message] = [{"role": "user", "content": "How tall is a giraffe?"}]
ANYTHING = st.none() | st.integers() | st.floats() | st.text() | st.booleans()


def delta(**given: Any) -> Sent:
    """A piece of a stream."""
    return Sent(**({"content": None, "tool_calls": None} | given))


def fragment(index: int, arguments: str, **given: Any) -> Sent:
    """A piece of a tool call."""
    return Sent(index=index, id=given.get("id"), function=Sent(name=given.get("name"), arguments=arguments))


@pytest.mark.parametrize(
    "counted",
    [
        None,
        Sent(),
        Sent(prompt_tokens=None, completion_tokens=None),
        Sent(prompt_tokens=-5, completion_tokens=7),
        Sent(prompt_tokens=5, completion_tokens=-7),
        Sent(prompt_tokens=0, completion_tokens=7),
        Sent(prompt_tokens=5, completion_tokens=0),
        Sent(prompt_tokens="5", completion_tokens=7),
        Sent(prompt_tokens=1.5, completion_tokens=7),
        Sent(prompt_tokens=MOST_TOKENS + 1, completion_tokens=7),
    ],
)
def test_a_count_that_cannot_be_true_is_replaced_by_a_guess(counted: Any) -> None:
    """Missing, negative, none for a text that came, no whole numbers, or absurdly many."""
    usage = Said(text="five metres!").usage(counted, QUESTION)
    assert usage.estimated
    assert (usage.input_tokens > 0, usage.output_tokens) == (True, 3)


def test_a_true_count_is_taken() -> None:
    """Also of an answer without text; more cached tokens than there were is not more than all."""
    details = Sent(cached_tokens=9)
    assert Said().usage(Sent(prompt_tokens=5, completion_tokens=0), QUESTION) == Usage(5, 0)
    counted = Sent(prompt_tokens=5, completion_tokens=7, prompt_tokens_details=details)
    assert Said(text="x").usage(counted, QUESTION) == Usage(5, 7, cached_tokens=5)


@given(asked=ANYTHING, said=ANYTHING, cached=ANYTHING)
def test_usage_is_always_a_price_worthy_number(asked: Any, said: Any, cached: Any) -> None:
    """Whatever is sent, nobody gets a credit, and no column overflows."""
    counted = Sent(prompt_tokens=asked, completion_tokens=said, prompt_tokens_details=Sent(cached_tokens=cached))
    usage = Said(text="x").usage(counted, QUESTION)
    assert 0 <= usage.cached_tokens <= usage.input_tokens <= MOST_TOKENS
    assert 0 <= usage.output_tokens <= MOST_TOKENS


def test_pieces_join_and_what_shows_nothing_is_a_pulse() -> None:
    """Text, refusal, tool calls by their index; a piece of a thought is a sign of life."""
    said = Said()
    assert said.hear(delta(content="a")) == [TextDelta("a")]
    assert said.hear(delta(reasoning_content="hm")) == [Pulse()]
    assert said.hear(delta(refusal="no")) == [Pulse()]
    said.hear(delta(tool_calls=[fragment(0, '{"x"', id="1", name="f")]))
    said.hear(delta(tool_calls=[fragment(0, ": 1}")]))
    assert (said.text, said.refusal) == ("a", "no")
    assert said.tool_calls("tool_calls") == (ToolCall("1", "f", '{"x": 1}'),)


@pytest.mark.parametrize("arguments", ["[]", "{", '"text"', "[" * 100_000])
def test_arguments_that_are_no_object_are_garbled(arguments: str) -> None:
    """Unless the answer was cut at its limit: then its finish says so."""
    said = Said(calls={0: ToolCall("1", "f", arguments)})
    with pytest.raises(Failure) as caught:
        said.tool_calls("tool_calls")
    assert caught.value.kind == "garbled"
    assert len(said.tool_calls("length")) == 1


@pytest.mark.parametrize("odd", [None, {}, 7, {"refusal": {}}])
def test_an_odd_refusal_is_none(odd: Any) -> None:
    """Only text counts."""
    assert refusal(Sent(refusal=odd, provider_specific_fields=odd if isinstance(odd, dict) else None)) == ""


@pytest.mark.parametrize(
    ("native", "is_good"), [("eos", True), ("model_length", False), ("error", False), ("abort", False)]
)
def test_a_finish_that_litellm_hides_behind_stop_is_looked_at(native: str, is_good: bool) -> None:  # noqa: FBT001  # a parameter
    """What the provider called its end decides whether it was one."""
    choice = Sent(finish_reason="stop", provider_specific_fields={"native_finish_reason": native})
    if is_good:
        assert finish_of(choice) == "stop"
    else:
        with pytest.raises(Failure, match=native):
            finish_of(choice)


def vectors(*items: tuple[int, Any]) -> Sent:
    """A reply with vectors."""
    return Sent(data=[{"index": index, "embedding": vector} for index, vector in items], usage=None)


def test_vectors_are_put_in_order() -> None:
    """Each text gets its own vector, in whatever order they come."""
    found, usage, is_counted = embedded(vectors((1, [2.0]), (0, [1.0])), ["a", "b"])
    assert found == [[1.0], [2.0]]
    assert (usage.estimated, is_counted) == (True, False)


@pytest.mark.parametrize(
    "reply",
    [
        vectors((0, [1.0])),
        vectors((0, [1.0]), (0, [2.0])),
        vectors((0, [1.0]), (2, [2.0])),
        vectors((0, [1.0]), (1, [])),
        vectors((0, [1.0]), (1, [1.0, 2.0])),
        vectors((0, ["x"]), (1, [2.0])),
        vectors((0, [float("nan")]), (1, [2.0])),
    ],
)
def test_what_is_not_a_vector_for_each_text_is_garbled(reply: Any) -> None:
    """Missing, twice, of other lengths, or no numbers: nothing of it is stored."""
    with pytest.raises(Failure) as caught:
        embedded(reply, ["a", "b"])
    assert caught.value.kind == "garbled"
