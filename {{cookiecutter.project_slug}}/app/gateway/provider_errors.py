"""What litellm raises, as a Failure: classified, cut short, its secrets masked.

Knows the errors by their attributes, so that litellm need not be imported.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.gateway.deployments import Deployment
from app.gateway.failures import ALARMING, Failure, classify
from app.gateway.redaction import redact

SHOWN_OF_AN_ERROR = 300
# How litellm names the same thing three times before it says anything.
NAMES = re.compile(r"^(?:litellm\.\w+: |\w+Error: |\w+Exception:? -? ?)+")
UNREACHABLE = re.compile("connection error|cannot connect to host", re.IGNORECASE)
BROKE_OFF = "MidStreamFallbackError"  # litellm's own, for its router, which is not used here


@contextmanager
def translated(deployment: Deployment) -> Iterator[None]:
    """Raise a Failure for every error in here."""
    try:
        yield
    except Failure as failure:
        raise Failure(failure.kind, f"{deployment.model}: {failure.detail}") from None
    except Exception as error:  # noqa: BLE001  # litellm raises errors of every kind
        raise _failure(error, deployment) from None


def _failure(error: Exception, deployment: Deployment) -> Failure:
    said = redact(_said(error), deployment.secrets)[:SHOWN_OF_AN_ERROR]
    status = getattr(error, "status_code", None)
    name = type(error).__name__
    if name == BROKE_OFF:
        return Failure("unreachable", f"{deployment.model} broke off: {said}")
    if name == "APIConnectionError" or UNREACHABLE.search(said) or not isinstance(status, int):
        place = deployment.settings.api_base or "its provider's address"
        setting = f"{deployment.variable}_API_BASE"
        hint = f"{deployment.model} at {place} cannot be reached: is it running, and is {setting} right? ({said})"
        return Failure("unreachable", hint)
    kind = classify(status, f"{name} {_code(error)} {said}")
    names = ", ".join(f"{deployment.variable}_{name}" for name in ("API_KEY", "MODEL", "API_BASE"))
    hint = f"; one of these is not right: {names}" if kind in ALARMING else ""
    return Failure(kind, f"{deployment.model} ({status}): {said}{hint}", retry_after=_retry_after(error))


def _said(error: Exception) -> str:
    """The first line: after it litellm may add a traceback, and some providers the whole request."""
    first = (str(error).strip().splitlines() or [""])[0]
    return NAMES.sub("", first) or type(error).__name__


def _code(error: Exception) -> str:
    """The wire format's error code, which litellm replaces by the status here and there."""
    body: Any = getattr(error, "body", None)
    return str(body.get("code") if isinstance(body, dict) else getattr(error, "code", None))


def _retry_after(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:  # none, or a date
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
