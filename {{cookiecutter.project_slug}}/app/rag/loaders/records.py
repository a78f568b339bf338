"""JSON and JSON lines: records as text, `path.to.key: value` a line, a blank line between them."""

import json
from collections.abc import Iterator

from app.rag.loaders import Loaded


def load(data: bytes) -> Loaded:
    """A list gives a record for each item, as lines of JSON do; anything else is one record."""
    text = data.decode("utf-8-sig")
    try:
        value = json.loads(text)
    except ValueError:
        value = [json.loads(line) for line in text.split("\n") if line.strip()]
    records = value if isinstance(value, list) else [value]
    return Loaded(["\n\n".join("\n".join(_lines(record, "")) for record in records)])


def _lines(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from _lines(item, f"{path}[{number}]")
    elif text := ", ".join(map(_scalar, value)) if isinstance(value, list) else _scalar(value):
        yield f"{path}: {text}" if path else text


def _scalar(value: object) -> str:
    """Text as it is; true, 1.5 as JSON writes them; null is nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
