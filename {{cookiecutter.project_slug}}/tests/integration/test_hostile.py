"""Files that are made to harm: each is refused with a reason or read, in little time and memory of ours."""

import gzip
import io
import struct
import time
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Iterator

import pytest

from app.errors import InvalidInput
from app.rag.parsing import Parser
from app.settings import Settings
from tests.documents import compound, docx, paragraph, pdf, xlsx, zipped

SECONDS = 5
BYTES = 100_000_000
LAUGHS = "<!DOCTYPE {} [<!ENTITY a0 'lol'>{}]>"
ENTITIES = "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10))


def nested(depth: int) -> bytes:
    """Archives in archives: twice as many at each step."""
    data = zipped({"a.txt": bytes(1_000)})
    for _ in range(depth):
        data = zipped({"a.zip": data, "b.zip": data})
    return data


def lying() -> bytes:
    """A zip bomb that says it is small."""
    size = 50_000_000
    return docx("", parts={"word/a.xml": b"<" + bytes(size - 1)}).replace(struct.pack("<I", size), struct.pack("<I", 9))


def rewritten(data: bytes, part: str, old: str, new: str) -> bytes:
    """An archive with a part changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    return zipped(parts | {part: bytes(parts[part]).decode().replace(old, new)})  # type: ignore[arg-type]


def wide_sheet() -> bytes:
    """Two cells in opposite corners of a sheet that has 17 billion."""
    far = '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    return rewritten(xlsx({"A": [["x"]]}), "xl/worksheets/sheet1.xml", "</sheetData>", far)


def circle() -> bytes:
    """A PDF whose tree of pages holds itself."""
    return pdf("text").replace(b"/Kids [4 0 R] /Count 1", b"/Kids [1 0 R] /Count 9")


def laughing_sheet() -> bytes:
    """Entities in the texts of a workbook."""
    start = "<sst"
    return rewritten(xlsx({"A": [["x"]]}), "xl/sharedStrings.xml", start, LAUGHS.format("sst", ENTITIES) + start)


@pytest.fixture(scope="module", autouse=True)
def _measured() -> Iterator[None]:
    """Count every byte that this process takes."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.fixture(scope="module")
async def parser() -> AsyncIterator[Parser]:
    """A parser that gives up after a second, so that this module does not take minutes."""
    made = Parser(Settings(parse_seconds=1))
    yield made
    await made.aclose()


async def outcome(parser: Parser, name: str, data: bytes) -> str:
    """The reason of the refusal, or what was read, within the limits on time and memory."""
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    began = time.monotonic()
    try:
        parsed = await parser.parse(data, source=name)
    except InvalidInput as error:
        said = error.message
    else:
        said = f"read: {parsed.document.text}"
        assert all(chunk.text == parsed.document.text[chunk.start : chunk.end] for chunk in parsed.chunks)
    assert time.monotonic() - began < SECONDS
    assert tracemalloc.get_traced_memory()[1] - before < BYTES
    return said


REFUSED = {
    "bomb.zip": (zipped({"a": bytes(100_000_000)}), "only a zip bomb does"),
    "bomb.docx": (docx("", parts={"word/a.xml": b"<" + bytes(50_000_000)}), "only a zip bomb does"),
    "lying.docx": (lying(), "may be damaged"),
    "nested.zip": (nested(10), "is a zip archive"),
    "parts.docx": (docx("", parts=dict.fromkeys(map(str, range(5_000)), "")), "archive of 5,003 parts"),
    "pages.pdf": (pdf(*["page"] * 10_000), "has 10,000 pages; MAX_DOCUMENT_PAGES allows 2,000"),
    "circle.pdf": (circle(), "cannot be read|holds no text"),
    "laughs.docx": (docx(paragraph("&a9;"), before=LAUGHS.format("a", ENTITIES)), "has a DOCTYPE or ENTITY"),
    "laughs.xlsx": (laughing_sheet(), "has a DOCTYPE or ENTITY"),
    "laughs.svg": ((LAUGHS.format("svg", ENTITIES) + "<svg>&a9;</svg>").encode(), "is XML with a DOCTYPE"),
    "packed.md.gz": (gzip.compress(b"text"), "packed by gzip; unpack it first"),
    "picture.pdf": (b"\x89PNG\r\n\x1a\n", "is a picture"),
    "garbage.docx": (b"PK\x03\x04garbage", "may be damaged"),
    "garbage.pdf": (b"%PDF-1.7 garbage", "may be damaged"),
    "garbage.xls": (compound({"Workbook": b"garbage" * 1_000}), "may be damaged"),
    "latin.txt": (b"caf\xe9", "byte 0xE9 at offset 3"),
    "wide.xlsx": (wide_sheet(), "PARSE_MEMORY_BYTES|MAX_DOCUMENT_BYTES"),
    "deep.html": (b"<html>" + b"<div>" * 500_000, "PARSE_SECONDS=1|nested too deeply"),
    "deep.json": (b"[" * 5_000_000, "nested too deeply"),
    "deep.md": (b"---\na: " + b"[" * 9_000 + b"\n---\ntext", "nested too deeply|PARSE_SECONDS"),
    "data.txt": (b"QUJD" * 5_000_000, "leave encoded data out"),
    "accents.txt": (("a" + "\u0301\u0316" * 2_000_000).encode(), "PARSE_SECONDS=1"),
    "headings.md": (b"# a\n" * 5_000_000, "PARSE_SECONDS=1"),
    "quote.csv": (b'"' + b"a,\n" * 6_000_000, "PARSE_SECONDS=1|may be damaged|PARSE_MEMORY_BYTES"),
    "columns.csv": (b"a" * 30_000 + b",b\n" + b"1,2\n" * 20_000, "MAX_DOCUMENT_BYTES|PARSE_"),
    "big.txt": (bytes(100_000_000), "has 100.0 MB; MAX_DOCUMENT_BYTES allows 20.0 MB"),
}
READ = {
    "laughs.html": (f"<!doctype html>{LAUGHS.format('html', ENTITIES)}<p>text &a9;</p>".encode(), "text &a9"),
    "nested.docx": (docx(paragraph("text"), parts={"word/embeddings/a.zip": nested(8)}), "text"),
    "aliases.md": (
        b"---\na0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 30))
        + b"---\ntext",
        "text",
    ),
    "rtl.txt": (
        ("\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\u064b. " * 50_000).encode(),
        "\u05e9\u05dc\u05d5\u05dd",
    ),
    "accents.md": (b"# e\xcc\x81\n\n" + b"e\xcc\x81 " * 50_000, "# \u00e9\n\n\u00e9 "),
    "line.txt": (b"A whole book on one line. " * 100_000, "A whole book"),
    "quotes.md": (b"> " * 300_000, "> >"),
    "comments.html": (b"<html>text" + b"<!--" * 1_000, "text"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_hostile_file_is_refused_with_the_reason(name: str, parser: Parser) -> None:
    """In time, whether a check finds it or a limit ends it; the file is named."""
    data, reason = REFUSED[name]
    said = await outcome(parser, name, data)
    assert name in said
    assert any(part in said for part in reason.split("|")), said


@pytest.mark.parametrize("name", READ)
async def test_a_file_that_only_looks_hostile_is_read(name: str, parser: Parser) -> None:
    """Nothing in it grows, and every chunk is exact."""
    data, text = READ[name]
    assert text in await outcome(parser, name, data)


async def test_after_all_of_these_a_document_is_read(parser: Parser) -> None:
    """No child was left in a bad state."""
    for number in range(8):
        assert await outcome(parser, "a.txt", f"Text {number}.".encode()) == f"read: Text {number}."
