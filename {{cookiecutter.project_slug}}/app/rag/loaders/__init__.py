"""One module per format: its function `load` makes Markdown of a document's bytes.

A loader may raise what it likes on a damaged file: the caller turns every error into a refusal. Knows nothing of how a
format is recognised, of limits, or of chunks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

# By media type. A module is imported when its format is first met, and its library with it.
LOADERS = {
    "text/plain": "plain",
    "text/markdown": "markdown",
    "text/html": "web",
    "text/csv": "tables",
    "application/json": "records",
    "application/jsonl": "records",
    "message/rfc822": "mail",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "word",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "slides",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "sheets",
    "application/vnd.oasis.opendocument.spreadsheet": "sheets",
    "application/vnd.ms-excel": "sheets",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader makes of a document: Markdown, in pages where the format has them.

    `pages` may be lazy, so that `page_count` is checked before they are read; a format without pages has one text and
    a count of 0. An empty `title` leaves it to the file's name. `metadata` is what the document says of itself.
    """

    pages: Iterable[str]
    title: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    page_count: int = 0


def load(media_type: str, data: bytes) -> Loaded:
    """Read `data`, which is of this type; text is UTF-8. Raises whatever the format's library does."""
    loaded: Loaded = import_module(f"{__name__}.{LOADERS[media_type]}").load(data)
    return loaded
