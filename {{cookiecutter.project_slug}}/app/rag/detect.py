"""What a document is, by its bytes; its name decides only between kinds of plain text.

What cannot be read is named, with what to do about it. Knows nothing of how a format is read.
"""

import csv
import io
import json
import re
import zipfile
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from itertools import islice
from pathlib import PurePath

from app.errors import UnsupportedDocument

SNIFFED = 8_192
MARKDOWN_NAMES = {".md", ".markdown", ".mdown"}
TABLE_NAMES = {".csv", ".tsv", ".tab"}
DELIMITERS = ",;\t|"
ROWS = 20
CLEAR = 3  # rows and columns
MAIL_HEADER = re.compile(rb"[!-9;-~]+")
MAIL_SIGNS = {b"to", b"subject", b"date", b"received", b"message-id", b"mime-version"}
READABLE = "Markdown, plain text, HTML, PDF, DOCX, PPTX, XLSX, XLS, ODS, CSV, JSON, JSON lines or EML"

# Possessive (*+): otherwise every comment at the beginning doubles the time that a page without HTML takes.
XML_HEAD = r"(?is)(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+"
PDF_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*%PDF-")
# Text that says what it is at its beginning.
TEXT_STARTS = {"text/html": re.compile((XML_HEAD + r"<(?:!doctype\s+html|html|head|body)\b").encode())}
REFUSED_TEXT = {
    "an SVG picture; give the text that belongs to it": (XML_HEAD + r"<svg\b").encode(),
    "XML with a DOCTYPE; give the text that is in it": (XML_HEAD + r"<!doctype\s").encode(),
    "rich text (RTF); save it as DOCX": rb"\{\\rtf",
    "PostScript; make a PDF of it": rb"%!PS",
}
REFUSED = {
    "packed by gzip; unpack it first": rb"\x1f\x8b",
    "an archive; unpack it and give its files": rb"BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|(?s:.{257})ustar",
    "a picture; text in it needs OCR first": rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\0|MM\0\*|BM|RIFF....WEBP",
    "a sound or a film; give a transcript": rb"ID3|OggS|fLaC|RIFF|\xff[\xe2-\xfb]|\x1aE\xdf\xa3|....ftyp",
    "a program, not a document": rb"MZ|\x7fELF|\xfe\xed\xfa|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe",
    "a SQLite database; export its tables as CSV": rb"SQLite format 3\0",
}

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
OFFICE = "application/vnd.openxmlformats-officedocument."
ZIP_PARTS = {
    "word/document.xml": f"{OFFICE}wordprocessingml.document",
    "ppt/presentation.xml": f"{OFFICE}presentationml.presentation",
    "xl/workbook.xml": f"{OFFICE}spreadsheetml.sheet",
    "xl/workbook.bin": f"{OFFICE}spreadsheetml.sheet",
}
ODS = "application/vnd.oasis.opendocument.spreadsheet"
REFUSED_ZIPS = {
    "application/vnd.oasis.opendocument.text": "an OpenDocument text; save it as DOCX",
    "application/vnd.oasis.opendocument.presentation": "an OpenDocument presentation; save it as PPTX",
    "application/epub+zip": "an e-book (EPUB); give its pages as HTML",
}

COMPOUND_START = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # Office before 2007, and locked Office since
REFUSED_COMPOUNDS = {
    "EncryptedPackage": "locked with a password; save a copy without one",
    "WordDocument": "a Word document of before 2007 (.doc); save it as DOCX",
    "PowerPoint Document": "a presentation of before 2007 (.ppt); save it as PPTX",
    "__properties_version1.0": "an Outlook message (.msg); save it as EML",
}


def detect(data: bytes, name: str) -> str:
    """The media type of `data`, one of those in LOADERS.

    Raises:
        UnsupportedDocument: it is something else; the message says what, and what to do.
        zipfile.BadZipFile: an archive that is damaged.

    """
    if data.startswith(ZIP_STARTS):
        return _in_zip(data, name)
    if data.startswith(COMPOUND_START):
        return _in_compound(data, name)
    fault = _text_fault(data)
    # Some programs write a few bytes before the header; but a text may speak of it.
    if PDF_START.match(data) or (fault and b"%PDF-" in data[:1024]):
        return "application/pdf"
    if _is_mail(data[:SNIFFED]):
        return "message/rfc822"
    known = next((kind for kind, start in TEXT_STARTS.items() if start.match(data[:SNIFFED])), "")
    if known and not fault:
        return known
    for reason, start in (REFUSED if fault else REFUSED_TEXT).items():
        if re.match(start, data[:SNIFFED]):
            raise UnsupportedDocument(f"{name} is {reason}")
    if fault:
        raise UnsupportedDocument(
            f"{name} is no format that is known, and no UTF-8 text ({fault}): save it as UTF-8, or give {READABLE}"
        )
    return _kind_of_text(data, PurePath(name).suffix.lower())


def to_utf8(data: bytes) -> bytes:
    """UTF-16 that begins with its byte order mark, as UTF-8; anything else as it is."""
    if data.startswith((BOM_UTF16_BE, BOM_UTF16_LE)):
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError:
            return data
    return data


def delimiter(text: str) -> str:
    """What separates the cells of a table: what cuts its first lines most evenly, then into the most; or a comma."""
    return max(DELIMITERS, key=lambda sign: _evenness(_widths(text, sign)))


def _evenness(widths: list[int]) -> tuple[bool, int]:
    usual = sorted(widths)[len(widths) // 2] if widths else 0
    return usual > 1 and len(set(widths)) == 1, usual


def _widths(text: str, sign: str) -> list[int]:
    """Cells in each of the first rows; a last line that is cut does not count."""
    lines = text[:SNIFFED].splitlines(keepends=True)
    whole = lines if len(text) <= SNIFFED else lines[:-1]
    try:
        return [len(row) for row in islice(csv.reader(whole, delimiter=sign, strict=True), ROWS) if row]
    except csv.Error:
        return []


def _in_zip(data: bytes, name: str) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        kind = archive.read("mimetype")[:100].decode(errors="replace").strip() if "mimetype" in names else ""
    if kind == ODS:
        return ODS
    if kind in REFUSED_ZIPS:
        raise UnsupportedDocument(f"{name} is {REFUSED_ZIPS[kind]}")
    found = [media_type for part, media_type in ZIP_PARTS.items() if part in names]
    if not found:
        raise UnsupportedDocument(f"{name} is a zip archive; unpack it and give its files")
    return found[0]


def _in_compound(data: bytes, name: str) -> str:
    """The names of the streams inside stand in UTF-16."""
    for stream, reason in REFUSED_COMPOUNDS.items():
        if stream.encode("utf-16-le") in data:
            raise UnsupportedDocument(f"{name} is {reason}")
    return "application/vnd.ms-excel"


def _text_fault(data: bytes) -> str:
    """Why `data` is no UTF-8 text; nothing if it is."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"byte 0x{data[error.start]:02X} at offset {error.start:,}"
    zero = data.find(b"\0")
    return f"byte 0x00 at offset {zero:,}" if zero >= 0 else ""


def _is_mail(head: bytes) -> bool:
    """A sender and one more field of a letter, in lines that all are fields."""
    fields = set()
    for line in head.splitlines():
        field, colon, _ = line.partition(b":")
        if not line:
            break
        if not line.startswith((b" ", b"\t")):
            if not (colon and MAIL_HEADER.fullmatch(field)):
                return False
            fields.add(field.lower())
    return b"from" in fields and not fields.isdisjoint(MAIL_SIGNS)


def _kind_of_text(data: bytes, suffix: str) -> str:
    if json_type := _kind_of_json(data):
        return json_type
    if suffix in MARKDOWN_NAMES:
        return "text/markdown"
    text = data[: 4 * SNIFFED].decode("utf-8-sig", errors="ignore")
    widths = _widths(text, delimiter(text))
    even, width = _evenness(widths)
    # A text may have a comma in each line, so a table without a name that says so has to be a clear one.
    is_clear = even and width >= CLEAR and len(widths) >= CLEAR
    return "text/csv" if suffix in TABLE_NAMES or is_clear else "text/plain"


def _kind_of_json(data: bytes) -> str:
    """One value is JSON; lines that each are a list or an object are JSON lines."""
    text = data.decode("utf-8-sig").strip()
    if not text.startswith(("{", "[")):
        return ""
    try:
        json.loads(text)
    except ValueError:
        return "application/jsonl" if _is_json_lines(text) else ""
    return "application/json"


def _is_json_lines(text: str) -> bool:
    lines = (line for line in text.split("\n") if line.strip())
    try:
        return all(isinstance(json.loads(line), dict | list) for line in islice(lines, ROWS))
    except ValueError:
        return False
