"""What a call costs: exact integers, by the settings first, unknown where nobody knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.deployments import Deployment
from app.gateway.prices import Facts, estimate_tokens, facts, largest_usage
from app.settings import DeploymentSettings
from app.types import Usage

KNOWN = {
    "max_input_tokens": 128_000,
    "input_cost_per_token": 1.5e-07,
    "cache_read_input_token_cost": 7.5e-08,
    "output_cost_per_token": 6e-07,
    "supports_response_schema": True,
    "supports_vision": None,
}


NOTHING = {"max_tokens": 0}


def deployment(**given: object) -> Deployment:
    """A deployment with these settings."""
    return Deployment("chat", "CHAT", DeploymentSettings.model_validate({"model": "openai/x"} | given))


def test_what_litellm_knows_is_taken_per_million() -> None:
    """Prices in USD per million tokens, and abilities; what is not said is not there."""
    known = facts(deployment(), KNOWN)
    assert (known.context_tokens, known.json_schema, known.images, known.audio) == (128_000, True, False, False)
    prices = (known.input_price, known.cached_input_price, known.output_price)
    assert prices == pytest.approx((0.15, 0.075, 0.6))
    assert known.priced


def test_the_settings_win() -> None:
    """Each setting replaces what litellm says; an own input price brings no foreign price of cached tokens."""
    known = facts(deployment(input_price=2, context_tokens=5, json_schema=False, images=True), KNOWN)
    assert (known.input_price, known.cached_input_price, known.context_tokens) == (2, None, 5)
    assert (known.json_schema, known.images) == (False, True)


def test_of_an_unknown_model_nothing_is_known() -> None:
    """No price means that no cost can be told."""
    known = facts(deployment(), {})
    assert known == Facts()
    assert not known.priced
    assert known.cost(Usage(10, 10)) is None


def test_cached_tokens_have_their_own_price() -> None:
    """They are a part of the input; without a price of their own they cost as much as the rest."""
    usage = Usage(100, 10, cached_tokens=40)
    assert Facts(input_price=1, cached_input_price=0.5, output_price=2).cost(usage) == 60_000 + 20_000 + 20_000
    assert Facts(input_price=1, output_price=2).cost(usage) == 100_000 + 20_000


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(1, 10**5))
def test_a_cost_is_a_whole_number_and_exact(asked: int, said: int, cents: int) -> None:
    """Nothing is lost between dollars per million and billionths of a dollar."""
    price = cents / 100
    assert Facts(input_price=price, output_price=price).cost(Usage(asked, said)) == (asked + said) * cents * 10


def test_a_reservation_is_rather_too_high() -> None:
    """More than four characters a token would allow, more still for other scripts, and a lump for a picture."""
    english = largest_usage([{"role": "user", "content": "word " * 400}], {"max_tokens": 50})
    assert english.output_tokens == 50
    assert english.input_tokens > 2_000 / 4
    assert largest_usage([{"role": "user", "content": "\u6f22" * 100}], NOTHING).input_tokens >= 100
    picture = {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {}}]}
    assert largest_usage([picture], NOTHING).input_tokens > 1_000
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "x" * 300}}]}
    assert largest_usage([call], NOTHING).input_tokens > 100
    tools = {"tools": [{"function": {"description": "x" * 300}}], "max_tokens": 9, "max_completion_tokens": 7}
    assert largest_usage([], tools).input_tokens > 100
    assert largest_usage([], tools).output_tokens == 9


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("four", 1), ("fives", 2)])
def test_a_guess_is_four_characters_a_token(text: str, tokens: int) -> None:
    """Rounded up, so that an answer is never nothing."""
    assert estimate_tokens(text) == tokens
