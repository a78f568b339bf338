"""Bytes to Document: Markdown, plain text, HTML and PDF, told apart by content and not by name.

Each loader is one function from bytes to (title, text). Knows nothing of chunks, models or the database.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from app.errors import DocumentTooLarge, InvalidInput, UnsupportedDocument
from app.types import Document

SNIFFED = 8_192
LONGEST_NAME = 2_000  # bytes; an entry of the index over sources cannot hold more than 2,700
MARKDOWN_NAMES = {".md", ".markdown", ".mdown"}
NEAR_FULL_LINE = 0.75
# Possessive (*+): otherwise every comment at the beginning doubles the time that a page without HTML takes.
HTML_START = re.compile(
    rb"(?is)(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+<(?:!doctype\s+html|html|head|body)\b"
)
PDF_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*%PDF-")

# The splitter's time grows with the square of these: encoded data, or a whole book on one line.
LONGEST_RUN = re.compile(r"[^\n]{500000}|\S{50000}")

Loader = Callable[[bytes], tuple[str, str]]


def find_files(paths: list[Path]) -> Iterator[Path]:
    """Every file at or below `paths`, sorted, without hidden ones.

    Raises:
        InvalidInput: a path does not exist.

    """
    for path in paths:
        if not path.exists():
            raise InvalidInput(f"{path} does not exist")
        if path.is_file():
            yield path
        else:
            inside = (file for file in path.rglob("*") if file.is_file())
            yield from sorted(f for f in inside if not any(p.startswith(".") for p in f.relative_to(path).parts))


def load_file(path: Path, *, max_bytes: int) -> Document:
    """Read a file into a document.

    Raises:
        UnsupportedDocument: no loader reads it.
        DocumentTooLarge: it is larger than `max_bytes`.

    """
    source, data = read_file(path, max_bytes=max_bytes)
    return load_bytes(data, source=source, max_bytes=max_bytes)


def read_file(path: Path, *, max_bytes: int) -> tuple[str, bytes]:
    """Read a file's source and bytes; the source is the path, relative where it lies below the working directory."""
    _check_size(path.name, path.stat().st_size, max_bytes)
    absolute = path.resolve()
    inside = absolute.is_relative_to(Path.cwd())
    source = (absolute.relative_to(Path.cwd()) if inside else absolute).as_posix()
    _check_name(source)
    return source, path.read_bytes()


def hash_content(data: bytes) -> str:
    """The hash by which a document is known again."""
    return hashlib.sha256(data).hexdigest()


def load_bytes(data: bytes, *, source: str, max_bytes: int) -> Document:
    """Turn the bytes of one document into text. Raises as `load_file` does."""
    _check_size(source, len(data), max_bytes)
    _check_name(source)
    if not data.strip():
        raise UnsupportedDocument(f"{source} is empty")
    media_type = detect(data, source)
    title, text = map(_storable, LOADERS[media_type](data))
    if LONGEST_RUN.search(text):
        raise UnsupportedDocument(f"{source} has a line or a word that no text has; break it up, or leave data out")
    if not text.strip():
        raise UnsupportedDocument(f"{source} holds no text (a scanned PDF needs OCR first)")
    return Document(
        source=source,
        title=" ".join(title.split()) or Path(source).stem,
        text=text,
        media_type=media_type,
        content_hash=hash_content(data),
    )


def detect(data: bytes, name: str) -> str:
    """The media type, by content; only Markdown and plain text are told apart by the name.

    Raises:
        UnsupportedDocument: neither PDF nor UTF-8 text.

    """
    is_text = _is_text(data)
    # Some programs write a few bytes before the header; but a text may speak of it.
    if PDF_START.match(data) or (b"%PDF-" in data[:1024] and not is_text):
        return "application/pdf"
    if not is_text:
        raise UnsupportedDocument(f"{name} is neither PDF nor UTF-8 text; give Markdown, plain text, HTML or PDF")
    if HTML_START.match(data[:SNIFFED]):
        return "text/html"
    return "text/markdown" if Path(name).suffix.lower() in MARKDOWN_NAMES else "text/plain"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _storable(text: str) -> str:
    """`text` with one kind of line end, and without what neither UTF-8 nor Postgres can hold."""
    return text.encode(errors="replace").decode().replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")


def _check_name(source: str) -> None:
    if source != _storable(source):
        raise InvalidInput(f"the name {source!r} is not valid Unicode")
    if len(source.encode()) > LONGEST_NAME:
        raise InvalidInput(f"the name {source[:40]}... has more than {LONGEST_NAME:,} bytes")


def _check_size(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DocumentTooLarge(f"{name} has {size / 1e6:.1f} MB; MAX_DOCUMENT_BYTES allows {max_bytes / 1e6:.1f} MB")


def _load_text(data: bytes) -> tuple[str, str]:
    return "", data.decode("utf-8-sig")


def _load_markdown(data: bytes) -> tuple[str, str]:
    text = _load_text(data)[1]
    return _first_heading(text), text


def _first_heading(markdown: str) -> str:
    """The first heading of level one; a parser, because a `#` may also stand in code or end a name."""
    tokens = MarkdownIt("commonmark").disable("inline").parse(markdown)
    return next((inline.content for opening, inline in pairwise(tokens) if opening.tag == "h1"), "")


def _load_html(data: bytes) -> tuple[str, str]:
    """HTML as Markdown, without what is not content."""
    from bs4 import BeautifulSoup, ProcessingInstruction  # noqa: PLC0415  # only HTML needs it
    from markdownify import MarkdownConverter  # noqa: PLC0415  # as above

    page = BeautifulSoup(_load_text(data)[1], "html.parser")
    title = page.title.get_text() if page.title else ""
    for part in page(["script", "style", "noscript", "template", "svg", "nav", "head"]):
        part.decompose()
    for instruction in page(string=lambda string: isinstance(string, ProcessingInstruction)):
        instruction.extract()
    converter = MarkdownConverter(heading_style="ATX", bullets="-", escape_asterisks=False, escape_underscores=False)
    try:
        text = re.sub(r"\n{3,}", "\n\n", converter.convert_soup(page)).strip()
    except RecursionError:
        raise UnsupportedDocument("the elements of the HTML are nested too deeply") from None
    return _first_heading(text) or title, text


def _load_pdf(data: bytes) -> tuple[str, str]:
    """The text of a PDF's pages, a blank line between them."""
    from pypdf import PdfReader  # noqa: PLC0415  # only PDF needs it

    try:
        reader = PdfReader(io.BytesIO(data))
        pages = [_unwrapped(page.extract_text()) for page in reader.pages]
        title = (reader.metadata.title or "") if reader.metadata else ""
    except Exception as error:  # pypdf meets broken files with errors of many kinds
        raise UnsupportedDocument(
            f"the PDF cannot be read ({type(error).__name__}); it may be damaged or locked"
        ) from error
    return title, "\n\n".join(pages)


def _unwrapped(page: str) -> str:
    """Join the lines of a paragraph: a line that is nearly full goes on in the next one."""
    lines = [line.strip() for line in page.splitlines()]
    full = NEAR_FULL_LINE * max(map(len, lines), default=0)
    return "".join(line + (" " if len(line) >= full else "\n\n") for line in lines).strip()


LOADERS: dict[str, Loader] = {
    "text/markdown": _load_markdown,
    "text/plain": _load_text,
    "text/html": _load_html,
    "application/pdf": _load_pdf,
}
