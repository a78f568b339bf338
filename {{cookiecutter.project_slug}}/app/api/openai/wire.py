"""JSON as a body and as events, in ASCII, so that half a character which a model wrote cannot break it.

Knows nothing of what it holds.
"""

import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response
from fastapi.sse import format_sse_event


def whole(data: Mapping[str, Any]) -> Response:
    """A body."""
    return Response(_encoded(data), media_type="application/json")


def sse(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event."""
    return format_sse_event(event=name, data_str=_encoded(data))


def _encoded(data: Mapping[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))
