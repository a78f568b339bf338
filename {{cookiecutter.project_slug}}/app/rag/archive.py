"""Zip archives, which most Office documents are: checked before a loader opens them.

The sizes come from the archive's own directory, so nothing is unpacked that is too much. Archives inside an archive are
never opened. Knows nothing of the formats inside.
"""

import io
import re
import zipfile
from typing import IO

from app.errors import DocumentTooLarge, UnsupportedDocument

UNPACKED_PER_BYTE = 10  # of MAX_DOCUMENT_BYTES: XML packs about so well
BOMB_BYTES = 10_000_000  # what unpacks to less does no harm, however well it was packed
BOMB_RATIO = 100
SNIFFED = 512
XML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
XML_NAMES = (".xml", ".rels", ".vml")
DECLARATION = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
OTHER_ENCODING = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["'](?!utf-8["']|us-ascii["'])""", re.IGNORECASE)


def check(data: bytes, *, max_parts: int, max_bytes: int) -> None:
    """Refuse an archive that is a bomb, is locked, or holds XML that declares entities.

    Raises:
        DocumentTooLarge: more than `max_parts`, or unpacked more than ten times `max_bytes`.
        UnsupportedDocument: any other reason.
        zipfile.BadZipFile: it is damaged; other errors of zipfile are possible.

    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        _check_sizes(parts, len(data), max_parts=max_parts, max_bytes=max_bytes)
        for part in parts:
            with archive.open(part) as file:
                _check_xml(part.filename, file.read(SNIFFED), file)


def _check_sizes(parts: list[zipfile.ZipInfo], packed: int, *, max_parts: int, max_bytes: int) -> None:
    if len(parts) > max_parts:
        raise DocumentTooLarge(f"it is an archive of {len(parts):,} parts; MAX_DOCUMENT_PAGES allows {max_parts:,}")
    if any(part.flag_bits & 1 for part in parts):
        raise UnsupportedDocument("it is locked with a password; save a copy without one")
    unpacked = sum(part.file_size for part in parts)
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise UnsupportedDocument(f"it unpacks to {unpacked / packed:,.0f} times its size, as only a zip bomb does")
    if unpacked > (most := UNPACKED_PER_BYTE * max_bytes):
        raise DocumentTooLarge(
            f"it unpacks to {unpacked / 1e6:,.0f} MB; {most / 1e6:,.0f} MB, "
            f"{UNPACKED_PER_BYTE} times MAX_DOCUMENT_BYTES, are allowed"
        )


def _check_xml(name: str, start: bytes, rest: IO[bytes]) -> None:
    """Office writes UTF-8 without declarations; entities can grow without end, or name files of this machine."""
    if not XML_START.match(start):
        if name.lower().endswith(XML_NAMES) and start.strip():
            raise UnsupportedDocument(f"its part {name} is not XML in UTF-8")
        return
    if OTHER_ENCODING.search(start):
        raise UnsupportedDocument(f"its part {name} is not in UTF-8")
    if DECLARATION.search(start + rest.read()):
        raise UnsupportedDocument(f"its part {name} has a DOCTYPE or ENTITY, which no Office program writes")
