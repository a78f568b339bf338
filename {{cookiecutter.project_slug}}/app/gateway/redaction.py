"""Take secrets out of text before anybody sees it. Knows nothing of where the text goes."""

import re
from collections.abc import Iterable

MASK = "[redacted]"
KEY_SHAPES = re.compile(r"(?i)\b(?:sk|pk|key|xox[bp]|gh[pousr])[-_][A-Za-z0-9_\-]{12,}|\bBearer\s+\S+|\bAIza[\w-]{20,}")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask each of `secrets`, and whatever looks like a key of a well-known provider."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        if secret:
            text = text.replace(secret, MASK)
    return KEY_SHAPES.sub(MASK, text)
