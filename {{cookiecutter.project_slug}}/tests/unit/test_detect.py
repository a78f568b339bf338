"""What a document is, is known by its bytes; what cannot be read is named, with what to do about it."""

import gzip

import pytest

from app.errors import UnsupportedDocument
from app.rag.detect import detect, to_utf8
from tests.documents import compound, docx, eml, ods, paragraph, pptx, xls, xlsx, zipped

BOM = b"\xef\xbb\xbf"
OFFICE = "application/vnd.openxmlformats-officedocument."
OPEN = "application/vnd.oasis.opendocument."
LETTER = b"From: a@example.org\nTo: b@example.org\n\nHello"


@pytest.mark.parametrize(
    ("data", "name", "media_type"),
    [
        (b"# A", "a.md", "text/markdown"),
        (b"# A", "A.MARKDOWN", "text/markdown"),
        (b"# A", "a.txt", "text/plain"),
        (b"# A", "no-suffix", "text/plain"),
        (b"<!doctype html><p>A", "a.md", "text/html"),
        (b"\n <HTML lang=en><p>A", "a.txt", "text/html"),
        (BOM + b"<!doctype html><p>A", "a.html", "text/html"),
        (b"<?xml version='1.0'?><!-- a --> <!-- b -->\n<html><p>A", "a.html", "text/html"),
        (b"<p>only a piece</p>", "a.md", "text/markdown"),
        (b"<htmlish>", "a.txt", "text/plain"),
        (b"%PDF-1.7\n", "a.txt", "application/pdf"),
        (b"\xff\x00junk\n%PDF-1.7\n", "a.bin", "application/pdf"),
        (b"A PDF begins with %PDF-1.7.", "about-pdf.md", "text/markdown"),
        (docx(paragraph("A")), "a.zip", f"{OFFICE}wordprocessingml.document"),
        (pptx(("A", "b")), "a.docx", f"{OFFICE}presentationml.presentation"),
        (xlsx({"A": [["a"]]}), "a.pdf", f"{OFFICE}spreadsheetml.sheet"),
        (ods([["a"]]), "a", f"{OPEN}spreadsheet"),
        (xls([["a"]]), "a.doc", "application/vnd.ms-excel"),
        (LETTER, "a.txt", "message/rfc822"),
        (eml("caf\u00e9", From="a", Subject="b"), "a", "message/rfc822"),
        (b"Received: by x\n\tfor y\nFrom: a\n\n\xe9", "a", "message/rfc822"),
        (b"From: the beginning of a note\n\nText", "a.txt", "text/plain"),
        (b"From: a\nTo: b\nand then: no field\n", "a.txt", "text/plain"),
        (b"From: a\nTo the end", "a.txt", "text/plain"),
        (b' {"a": 1}', "a", "application/json"),
        (b"[1]", "a.md", "application/json"),
        (b'{"a": 1}\n\n{"a": 2}', "a.json", "application/jsonl"),
        (b"[a link](b.md) and text", "a.md", "text/markdown"),
        (b"{not json", "a.txt", "text/plain"),
        (b'{"a": 1}\n{not json', "a.txt", "text/plain"),
        (b"[1]\n2\n", "a.txt", "text/plain"),
        (b"[1]" + b"\n" * 30 + b"text", "a.txt", "text/plain"),
        (b"a;b\n1;2", "a.csv", "text/csv"),
        (b"a", "a.TSV", "text/csv"),
        (b"a,b,c\n1,2,3\n4,5,6\n", "a", "text/csv"),
        (b"a,b,c\n" + (b"x" * 2_000 + b",y,z\n") * 10, "a", "text/csv"),
        (b"a,b,c\n1,2,3\n", "a.txt", "text/plain"),
        (b"a,b,c\n1,2,3\n4,5\n", "a.txt", "text/plain"),
        (b"a,b,c\n1,2,3\n4,5,6\n", "a.md", "text/markdown"),
        (b"Well, I said\nyes, he said\nno, she said", "a.txt", "text/plain"),
        (b'a,"b,c\n', "a.txt", "text/plain"),
    ],
)
def test_the_content_says_what_a_document_is(data: bytes, name: str, media_type: str) -> None:
    """The name only tells kinds of plain text apart."""
    assert detect(data, name) == media_type


def test_many_comments_do_not_slow_detection_down() -> None:
    """A text that begins with comments, but is no HTML, is known at once; backtracking would take years."""
    assert detect(b"<!-- a -->" * 60 + b"# Title", "a.md") == "text/markdown"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(b"text", mtime=0), "is packed by gzip; unpack it first"),
        (b"7z\xbc\xaf'\x1c", "is an archive; unpack it"),
        (b"a" * 257 + b"ustar\0", "is an archive; unpack it"),
        (zipped({"a.md": "text"}), "is a zip archive; unpack it and give its files"),
        (zipped({}), "is a zip archive"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is a picture; text in it needs OCR first"),
        (b"\xff\xd8\xff\xe0", "is a picture"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 ", "is a picture"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "is a sound or a film; give a transcript"),
        (b"\x7fELF\x02\x01\x01\x00", "is a program"),
        (b"MZ\x90\x00", "is a program"),
        (b"SQLite format 3\0", "is a SQLite database; export its tables as CSV"),
        (b"<?xml version='1.0'?><svg xmlns='x'><text>A", "is an SVG picture"),
        (b"<!DOCTYPE svg [<!ENTITY a 'b'>]><svg>&a;", "is XML with a DOCTYPE"),
        (rb"{\rtf1\ansi Text}", "save it as DOCX"),
        (b"%!PS-Adobe-3.0", "make a PDF of it"),
        (compound({"WordDocument": b"x"}), "is a Word document of before 2007"),
        (compound({"PowerPoint Document": b"x"}), "save it as PPTX"),
        (compound({"EncryptionInfo": b"x", "EncryptedPackage": b"x"}), "is locked with a password"),
        (compound({"__properties_version1.0": b"x"}), "save it as EML"),
        (zipped({"mimetype": f"{OPEN}text", "content.xml": "x"}), "is an OpenDocument text; save it as DOCX"),
        (zipped({"mimetype": "application/epub+zip"}), "is an e-book"),
        (b"\x00\x01\x02binary", r"no UTF-8 text \(byte 0x00 at offset 0\)"),
        ("caf\u00e9".encode("latin-1"), r"\(byte 0xE9 at offset 3\): save it as UTF-8"),
        ("text".encode("utf-16-le"), r"\(byte 0x00 at offset 1\)"),
        ("text".encode("utf-32"), "no UTF-8 text"),
        ("text".encode("utf-16") + b"\x00", r"\(byte 0xFF at offset 0\)"),
        ("<html>caf\u00e9".encode("latin-1"), r"\(byte 0xE9 at offset 9\): save it as UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, reason: str) -> None:
    """Whatever its name says; the message says what to do."""
    with pytest.raises(UnsupportedDocument, match=f"^a.pdf is .*{reason}|^a.pdf {reason}"):
        detect(to_utf8(data), "a.pdf")
