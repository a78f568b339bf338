"""PDF: the text that is in it, page by page; pictures of text need OCR first."""

import re
from collections.abc import Iterator

import pypdfium2 as pdfium

from app.errors import UnsupportedDocument
from app.rag.loaders import Loaded

NEAR_FULL_LINE = 0.75
HYPHENATED = re.compile("[\x02\ufffe]\\s*")  # how PDFium marks a word that goes on in the next line
DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?")


def load(data: bytes) -> Loaded:
    """Paragraphs are joined again; title, author and date come from the document's properties."""
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise UnsupportedDocument("it is locked with a password; save a copy without one") from error
        raise
    properties = document.get_metadata_dict(skip_empty=True)
    metadata = {"author": properties.get("Author", ""), "date": _date(properties.get("CreationDate", ""))}
    return Loaded(
        _pages(document),
        properties.get("Title", ""),
        {key: value for key, value in metadata.items() if value},
        page_count=len(document),
    )


def _pages(document: pdfium.PdfDocument) -> Iterator[str]:
    """Each page is closed before the next one is opened: a long document does not stay in memory."""
    for page in document:
        text = page.get_textpage()
        yield _unwrapped(HYPHENATED.sub("", text.get_text_range()))
        text.close()
        page.close()


def _unwrapped(page: str) -> str:
    """Join the lines of a paragraph: a line that is nearly full goes on in the next one."""
    lines = [line.strip() for line in page.splitlines()]
    full = NEAR_FULL_LINE * max(map(len, lines), default=0)
    return "".join(line + (" " if len(line) >= full else "\n\n") for line in lines).strip()


def _date(stamp: str) -> str:
    """`D:20260131...` as 2026-01-31."""
    found = DATE.match(stamp)
    return "-".join(filter(None, found.groups())) if found else ""
