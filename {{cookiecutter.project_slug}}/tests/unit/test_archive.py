"""An archive that is a bomb, is locked, or holds XML with entities is refused before a loader opens it."""

import struct
import zipfile

import pytest

from app.errors import DocumentTooLarge, UnsupportedDocument
from app.rag.archive import check
from tests.documents import docx, paragraph, zipped

ENTITY = "<!DOCTYPE a [<!ENTITY b 'c'>]>"


def look(data: bytes, *, max_parts: int = 100, max_bytes: int = 10_000_000) -> None:
    """Check with limits that rarely matter."""
    check(data, max_parts=max_parts, max_bytes=max_bytes)


def test_an_ordinary_archive_passes() -> None:
    """Well packed text, a chart's own workbook, and pictures are all usual."""
    inner = zipped({"xl/workbook.xml": "<a/>"})
    picture = b"\x89PNG" + ENTITY.encode()
    look(docx(paragraph("text" * 10_000), parts={"word/a.xlsx": inner, "word/a.png": picture, "word/empty.xml": ""}))


def test_more_parts_than_pages_are_allowed_are_refused() -> None:
    """The limit itself is taken."""
    look(zipped(dict.fromkeys(map(str, range(100)), "x")))
    with pytest.raises(DocumentTooLarge, match="101 parts; MAX_DOCUMENT_PAGES allows 100"):
        look(zipped(dict.fromkeys(map(str, range(101)), "x")))


def test_what_unpacks_to_too_much_is_refused() -> None:
    """However it is packed; ten times what a document may have is allowed."""
    look(zipped({"a": b"x" * 1_000, "b": b"x" * 9_000}, stored=True), max_bytes=1_000)
    with pytest.raises(DocumentTooLarge, match="unpacks to 0 MB"):
        look(zipped({"a": b"x" * 1_001, "b": b"x" * 9_000}, stored=True), max_bytes=1_000)


def test_a_zip_bomb_is_told_by_its_ratio() -> None:
    """Before anything is unpacked; a small file may be packed as well as it likes."""
    look(zipped({"a": bytes(9_000_000)}))
    with pytest.raises(UnsupportedDocument, match="times its size, as only a zip bomb does"):
        look(zipped({"a": bytes(11_000_000)}))


def test_a_bomb_that_lies_about_its_size_is_unpacked_no_further_than_it_says() -> None:
    """The directory is what counts: the rest of such a part is never read."""
    size = 30_000_000
    data = zipped({"word/document.xml": b"<" + bytes(size - 1)})
    with pytest.raises(zipfile.BadZipFile):
        look(data.replace(struct.pack("<I", size), struct.pack("<I", 1_000)))


def test_a_locked_archive_is_refused() -> None:
    """The flag in the directory says so."""
    data = bytearray(zipped({"a": "x"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UnsupportedDocument, match="locked with a password"):
        look(bytes(data))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("word/document.xml", f"<?xml version='1.0'?>{ENTITY}<a>&b;</a>".encode()),
        ("word/any.bin", b"\xef\xbb\xbf \n<!-- long -->" + b" " * 5_000 + ENTITY.encode()),
        ("word/a.xml", b"<a><!entity b 'c'></a>"),
        ("word/a.xml", f"<?xml version='1.0' encoding='utf-16'?>{ENTITY}".encode("utf-16")),
        ("_rels/.RELS", "<a/>".encode("utf-16-be")),
        ("word/a.xml", b'<?xml version="1.0" encoding="cp037"?><a/>'),
        ("word/a.xml", b"<?xml version='1.0' encoding='UTF-7'?><a/>"),
    ],
)
def test_xml_that_could_declare_entities_is_refused(name: str, part: bytes) -> None:
    """Under any name and in any encoding: entities grow without end, or name files of this machine."""
    with pytest.raises(UnsupportedDocument, match=r"its part .*(DOCTYPE|UTF-8)"):
        look(zipped({name: part}))


@pytest.mark.parametrize(
    "declared", ["<?xml version='1.0' encoding='utf-8'?>", '<?xml version="1.0" encoding="US-ASCII"?>', ""]
)
def test_xml_in_utf8_passes(declared: str) -> None:
    """As every Office program writes it."""
    look(zipped({"word/document.xml": f"{declared}<a>text</a>"}))
