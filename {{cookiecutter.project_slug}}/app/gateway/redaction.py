"""Take secrets out of text before anybody sees it. Knows nothing of where the text goes."""

import base64
import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[redacted]"
KEY_SHAPES = re.compile(
    r"(?i)\b(?:sk|pk|key|xox[bp]|gh[pousr])[-_][A-Za-z0-9_\-]{12,}|\bBearer\s+\S+|\bAIza[\w-]{20,}"
    r"|(?<=\baiapp_[0-9a-f]{16}\.)[\w-]+"  # the secret of this application's own; its id may be told
)


# Shorter ones stand in ordinary words, and would mask those.
SHORTEST_SECRET = 6
# Providers like to repeat the beginning of a key; so much of it is masked with what follows.
BEGINNING = 8


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask each of `secrets`, also escaped, encoded or cut short, and what looks like a key of a known provider."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        if len(secret) >= SHORTEST_SECRET:
            text = re.sub("|".join(map(re.escape, _forms(secret))), MASK, text, flags=re.IGNORECASE)
            if len(secret) > 2 * BEGINNING:
                text = re.sub(re.escape(secret[:BEGINNING]) + r"[^\s\"'<>,;)]*", MASK, text, flags=re.IGNORECASE)
    return KEY_SHAPES.sub(MASK, text)


def _forms(secret: str) -> list[str]:
    """As it is, and as URLs, HTML, JSON and basic authentication write it; the longest first."""
    basic = [base64.b64encode(f"{before}{secret}".encode()).decode() for before in ("", ":")]
    forms = {secret, quote(secret, safe=""), html.escape(secret), json.dumps(secret)[1:-1], *basic}
    return sorted(forms, key=len, reverse=True)
