"""Bytes to Document: checked, recognised, read, and cleaned so that it can be stored.

Untrusted bytes come here in a process of their own: see child.py. Knows nothing of chunks or of the database.
"""

import re
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import PurePath

from app.errors import DocumentTooLarge, InvalidInput, UnsupportedDocument
from app.rag import archive
from app.rag.detect import ZIP_STARTS, detect, to_utf8
from app.rag.loaders import Loaded, load
from app.rag.sources import CONTROL, check_name, check_size, hash_content
from app.types import Document, Origin

MAX_PAGES = 2_000
WIDE = 2  # bytes of memory for each byte of text: Python keeps a text as wide as its widest character
LONGEST_VALUE = 1_000  # of metadata
LONGEST_TITLE = 500
LINE_END = re.compile("\r\n|[\r\v\f\x85]")
LONG_WORD = re.compile(r"(?<!\S)\S{50000}")  # encoded data: nobody can read it, and the splitter takes long over it


def load_bytes(
    data: bytes,
    *,
    source: str,
    max_bytes: int,
    max_pages: int = MAX_PAGES,
    origin: Origin = "file",
    metadata: Mapping[str, str] | None = None,
) -> Document:
    """Turn the bytes of one document into text; `metadata` wins over what the document says of itself.

    Raises:
        UnsupportedDocument: no loader reads it, or it is damaged, locked or empty.
        DocumentTooLarge: more bytes, text, pages or parts than are allowed.
        InvalidInput: the name cannot be stored.

    """
    check_name(source)
    check_size(source, len(data), max_bytes)
    if not data.strip():
        raise UnsupportedDocument(f"{source} is empty")
    media_type, title, own, text, starts = _read(data, source, max_bytes, max_pages)
    if LONG_WORD.search(text):
        raise UnsupportedDocument(f"{source} has a word that no text has; leave encoded data out")
    if not text.strip():
        raise UnsupportedDocument(f"{source} holds no text (a scanned PDF needs OCR first)")
    return Document(
        source=source,
        title=" ".join(_clean(title).split())[:LONGEST_TITLE] or PurePath(source).stem,
        text=text,
        media_type=media_type,
        content_hash=hash_content(data),
        origin=origin,
        metadata=clean_metadata({**own, **(metadata or {})}),
        page_starts=starts,
    )


def _read(
    data: bytes, source: str, max_bytes: int, max_pages: int
) -> tuple[str, str, Mapping[str, str], str, tuple[int, ...]]:
    """Give media type, title, metadata, text and page starts; whatever a library raises becomes a refusal."""
    try:
        if data.startswith(ZIP_STARTS):
            archive.check(data, max_parts=max_pages, max_bytes=max_bytes)
        data = to_utf8(data)
        media_type = detect(data, source)
        loaded = load(media_type, data)
        text, starts = _joined(loaded, max_bytes, max_pages)
    except InvalidInput as error:
        named = error.message if error.message.startswith(source) else f"{source}: {error.message}"
        raise type(error)(named) from error
    except RecursionError as error:
        raise UnsupportedDocument(f"the elements of {source} are nested too deeply") from error
    except MemoryError:
        raise  # this process has no room left: whoever started it says so
    except BaseException as error:  # each library meets damaged files with errors of many kinds
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):  # which is Rust's
            raise
        raise UnsupportedDocument(
            f"{source} cannot be read ({type(error).__name__}); it may be damaged, locked, or only a part of a file"
        ) from error
    return media_type, loaded.title, loaded.metadata, text, starts


def _joined(loaded: Loaded, max_bytes: int, max_pages: int) -> tuple[str, tuple[int, ...]]:
    """The pages as one text, a blank line between them, and where each of them begins."""
    if loaded.page_count > max_pages:
        raise DocumentTooLarge(f"it has {loaded.page_count:,} pages; MAX_DOCUMENT_PAGES allows {max_pages:,}")
    pages, starts, length = [], [], 0
    for page in map(_clean, loaded.pages):
        starts.append(length)
        pages.append(page)
        length += len(page) + len("\n\n")
        if length > max_bytes + len("\n\n"):
            break
    text = "\n\n".join(pages)
    if len(text.encode()) > max_bytes:
        raise DocumentTooLarge("it holds more text than MAX_DOCUMENT_BYTES allows; split it into several files")
    if sys.getsizeof(text) > WIDE * max_bytes + sys.getsizeof("\uffff"):
        raise DocumentTooLarge("its text needs too much memory, as one emoji makes every character wide; split it")
    return text, tuple(starts) if loaded.page_count else ()


def clean_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a document is filed under, as it is stored; what is clean stays as it is."""
    return {_clean(key): _clean(value)[:LONGEST_VALUE] for key, value in metadata.items()}


def _clean(text: str) -> str:
    """`text` in composed characters (NFC), with one kind of line end, and without what no terminal should get."""
    storable = text.encode(errors="replace").decode()
    return unicodedata.normalize("NFC", CONTROL.sub("", LINE_END.sub("\n", storable)))
