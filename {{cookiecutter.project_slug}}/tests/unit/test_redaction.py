"""No secret stays readable in a text that leaves the application."""

import base64

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.gateway.redaction import MASK, redact

SECRETS = st.lists(st.text(alphabet="abcXYZ019", min_size=6, max_size=20), max_size=4)


@given(secrets=SECRETS, around=st.lists(st.text(alphabet="abcXYZ019 -", max_size=6), min_size=5, max_size=5))
def test_no_given_secret_survives(secrets: list[str], around: list[str]) -> None:
    """Wherever they stand, also when one is the beginning of another."""
    assume(not any(secret in MASK for secret in secrets))
    text = "".join(before + secret for before, secret in zip(around, [*secrets, ""], strict=False))
    cleaned = redact(text, secrets)
    assert not any(secret in cleaned for secret in secrets)


def test_a_secret_that_begins_another_leaves_no_rest() -> None:
    """The longest is masked first."""
    assert redact("the key is test-key-1234", ["test-key", "test-key-1234"]) == f"the key is {MASK}"


SECRET = "p\u00e4ss w&rd/1234567890"


@pytest.mark.parametrize(
    "written",
    [
        SECRET.upper(),
        "p%C3%A4ss%20w%26rd%2F1234567890",
        "p\u00e4ss w&amp;rd/1234567890",
        "p\\u00e4ss w&rd/1234567890",
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f":{SECRET}".encode()).decode(),
        f"{SECRET[:12]}...",
    ],
)
def test_a_secret_is_known_in_other_clothes(written: str) -> None:
    """In capitals, in a URL, in HTML, in JSON, in basic authentication, and cut short."""
    assert redact(f"sent: {written}", [SECRET]) == f"sent: {MASK}"


def test_a_very_short_secret_masks_no_words() -> None:
    """`none`, as some local servers have it, stands in ordinary text."""
    assert redact("none of these", ["none", ""]) == "none of these"


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcdefghijkl0123",
        "sk-ant-api03-abc_DEF-0123456789",
        "pk-lf-01234567-89ab",
        "ghp_0123456789abcdefABCDEF",
        "xoxb-123456789012-abcdef",
        "AIzaSyA0123456789abcdefghij_K-L",
        "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x",
    ],
)
def test_what_looks_like_a_key_is_masked_unasked(key: str) -> None:
    """Providers repeat the key in their errors, also one that this application does not know."""
    assert redact(f"Incorrect key: {key} (see the docs)") == f"Incorrect key: {MASK} (see the docs)"


def test_of_a_key_of_this_application_the_id_is_told() -> None:
    """It is no secret, and says which key to revoke."""
    assert redact("sent: aiapp_66245be1a8f4fafe.msM8B6-w_0HIQ, twice") == f"sent: aiapp_66245be1a8f4fafe.{MASK}, twice"


@pytest.mark.parametrize("text", ["", "a risk-free desk-job", "sk-short", "the bearer", "key: value", "task_force_one"])
def test_ordinary_words_are_left_alone(text: str) -> None:
    """An empty secret masks nothing either."""
    assert redact(text, ["", "absent-secret"]) == text
