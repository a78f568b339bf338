"""What others would guess: secrets that are short, simple or placeholders, and passwords that everybody tries first.

Knows nothing of what they protect.
"""

import re
from urllib.parse import parse_qs, unquote, urlsplit

SHORTEST_SECRET, FEWEST_SIGNS = 32, 8
PLACEHOLDER = re.compile(r"(?i)change.?(?:me|this|it)|place.?holder|example|password|secret|your.?(?:key|own)|12345678")
WELL_KNOWN = {"", "app", "admin", "changeme", "default", "example", "owner", "password", "postgres", "root", "secret"}


def is_guessable(secret: str) -> bool:
    """Whether it is anything but 32 or more characters that look random."""
    too_simple = len(secret) < SHORTEST_SECRET or len(set(secret)) < FEWEST_SIGNS
    return too_simple or PLACEHOLDER.search(secret) is not None


def has_known_password(url: str) -> bool:
    """Whether a database's address has a password that people write for the time being.

    None at all is another way to log in.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # that it is no URL is told where it is used
        return False
    given = [unquote(p) for p in (parts.password,) if p is not None] + parse_qs(parts.query).get("password", [])
    return not {password.lower() for password in given}.isdisjoint(WELL_KNOWN | {unquote(parts.username or "").lower()})
