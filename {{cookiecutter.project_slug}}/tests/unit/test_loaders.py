"""Bytes become text of a known kind, or are refused with a reason; never anything in between."""

import io
import logging
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from app.errors import DocumentTooLarge, InvalidInput, UnsupportedDocument
from app.rag.loaders import detect, find_files, load_bytes, load_file
from app.types import Document

BOM = b"\xef\xbb\xbf"


def load(data: bytes | str, name: str = "notes.md") -> Document:
    """Load with a limit that never matters."""
    return load_bytes(data.encode() if isinstance(data, str) else data, source=name, max_bytes=1_000_000)


def pdf(*pages: str, password: str = "", **metadata: str) -> bytes:
    """A PDF with these pages of text, as a program would write it."""
    writer = PdfWriter()
    names = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(key): NameObject(value) for key, value in names.items()})
    fonts = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    for text in pages:
        shown = " ".join(f"({line}) Tj T*" for line in text.split("\n"))
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET".encode())
        page = writer.add_blank_page(600, 800)
        page[NameObject("/Contents")] = writer._add_object(content)
        page[NameObject("/Resources")] = fonts
    writer.add_metadata({f"/{key}": value for key, value in metadata.items()})
    if password:
        writer.encrypt(password)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


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
    ],
)
def test_the_content_says_what_a_document_is(data: bytes, name: str, media_type: str) -> None:
    """The name only tells Markdown and plain text apart."""
    assert detect(data, name) == media_type


def test_many_comments_do_not_slow_detection_down() -> None:
    """A text that begins with comments, but is no HTML, is known at once; backtracking would take years."""
    assert detect(b"<!-- a -->" * 60 + b"# Title", "a.md") == "text/markdown"


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "empty.md", "empty.md is empty"),
        (b"", "zero-bytes.pdf", "zero-bytes.pdf is empty"),
        (b" \n\t", "blank.txt", "blank.txt is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "picture.png", "picture.png is neither PDF nor UTF-8 text"),
        (b"PK\x03\x04\x14\x00\x06\x00", "letter.docx", "letter.docx is neither PDF nor UTF-8 text"),
        (b"\x00\x01\x02binary", "binary.md", "binary.md is neither PDF nor UTF-8 text"),
        ("caf\u00e9".encode("latin-1"), "latin.txt", "latin.txt is neither PDF nor UTF-8 text"),
        ("text".encode("utf-16"), "wide.txt", "wide.txt is neither PDF nor UTF-8 text"),
        (b"<html><script>only()</script>", "script.html", "script.html holds no text"),
        (b"<html>" + b"<div>" * 3_000 + b"deep", "deep.html", "nested too deeply"),
        (b"%PDF-1.7\nnothing of a PDF follows", "broken.pdf", "cannot be read"),
        (pdf("A page.")[:-200], "cut.pdf", "cannot be read"),
        (pdf("A page.", password="secret"), "locked.pdf", "may be damaged or locked"),
        (pdf(""), "scan.pdf", "a scanned PDF needs OCR first"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, name: str, reason: str) -> None:
    """No loader guesses: empty, binary, damaged and locked files are errors of the one who sent them."""
    with pytest.raises(UnsupportedDocument, match=reason):
        load(data, name)


@given(
    beginning=st.sampled_from([b"", BOM, b"<html>", b"<!doctype html><body>", b"%PDF-1.4\n", b"# "]),
    rest=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode(errors="ignore"))),
    name=st.sampled_from(["a.md", "a.txt"]),
)
def test_any_bytes_become_storable_text_or_are_refused(beginning: bytes, rest: bytes, name: str) -> None:
    """Whatever is sent, nothing comes out that the database cannot hold."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        document = load(beginning + rest, name)
    except InvalidInput:
        return
    assert document.text.strip()
    for value in (document.text, document.title):
        assert not {"\0", "\r"} & set(value.encode().decode())


@given(st.integers(min_value=0, max_value=10_000))
def test_a_pdf_that_was_cut_off_never_breaks_the_loader(length: int) -> None:
    """A download that stopped half-way is refused, or read as far as it goes."""
    whole = pdf("First page.", "Second page.")
    with suppress(InvalidInput):
        assert load(whole[:length], "cut.pdf").text


def test_a_document_as_large_as_the_limit_is_taken_and_no_larger(tmp_path: Path) -> None:
    """The limit is checked before a file is read, and for bytes that came another way."""
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 101)
    assert load_bytes(b"x" * 100, source="a.txt", max_bytes=100).text
    with pytest.raises(DocumentTooLarge, match="MAX_DOCUMENT_BYTES"):
        load_bytes(b"x" * 101, source="a.txt", max_bytes=100)
    with pytest.raises(DocumentTooLarge):
        load_file(file, max_bytes=100)


@pytest.mark.parametrize("data", ["one\ntwo\nthree", "one\r\ntwo\r\nthree", "one\rtwo\rthree", "\ufeffone\ntwo\nthree"])
def test_line_ends_and_the_byte_order_mark_make_no_difference(data: str) -> None:
    """Offsets count the same characters whichever system wrote the file."""
    assert load(data).text == "one\ntwo\nthree"


@pytest.mark.parametrize(
    ("markdown", "title"),
    [
        ("# A title\n\ntext", "A title"),
        ("text\n\n# A title ##\n", "A title"),
        ("# Learning C#\n", "Learning C#"),
        ("A title\n=======\n\n## Part\n", "A title"),
        ("```sh\n# a comment\n```\n\n# A title", "A title"),
        ("## Only a part\n\ntext", "notes"),
        ("text without any heading", "notes"),
        ("# " + " " * 50_000 + "far\n", "far"),
    ],
)
def test_the_first_heading_of_level_one_is_the_title(markdown: str, title: str) -> None:
    """Code is no heading, a closing row of # is no part of it, and without one the file's name serves."""
    assert load(markdown, "folder/notes.md").title == title


@pytest.mark.parametrize(
    ("html", "title"),
    [
        ("<html><head><title>In the tab</title></head><body><h1>On the page</h1><p>x", "On the page"),
        ("<html><head><title>In\n the  tab</title></head><body><p>x", "In the tab"),
        ("<html><body><p>x", "notes"),
    ],
)
def test_a_page_is_titled_by_its_heading_then_by_its_tab(html: str, title: str) -> None:
    """The heading that a reader sees comes first."""
    assert load(html, "notes.html").title == title


def test_html_becomes_markdown_of_its_content_alone() -> None:
    """Menus, scripts, styles, comments and instructions to programs are no content."""
    page = load(
        "<?xml version='1.0'?><html><head><style>p {}</style></head><nav><svg><style>a {}</style></svg>menu</nav>"
        "<h1>Fruit</h1><!-- secret --><script>run()</script><p>An <b>apple</b> a_day.</p><ul><li>pear<li>fig</ul>"
        "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"
    )
    assert page.text.startswith("# Fruit\n\nAn **apple** a_day.\n\n- pear")
    assert "| 1 |" in page.text
    for absent in ("menu", "run", "secret", "xml", "{}"):
        assert absent not in page.text


def test_html_is_read_as_utf8_whatever_it_declares() -> None:
    """The bytes were checked to be UTF-8, so a wrong declaration cannot garble them."""
    page = load("<html><head><meta charset='iso-8859-1'></head><body><p>Caf\u00e9, 5 \u20ac</p>")
    assert page.text == "Caf\u00e9, 5 \u20ac"


def test_a_pdf_gives_its_pages_in_order_with_paragraphs_joined() -> None:
    """A nearly full line goes on in the next one; a short one ends its paragraph."""
    paragraph = "A paragraph that goes over the end of the line\nand stops here, at a length like the first one\nEnd."
    document = load(pdf(paragraph, "Second page."), "paper.bin")
    assert document.text == paragraph.replace("\n", " ") + "\n\nSecond page."
    assert document.media_type == "application/pdf"


def test_the_title_of_a_pdf_comes_from_its_metadata() -> None:
    """What a database cannot hold is left out of it; without metadata the file's name serves."""
    assert load(pdf("Text.", Title="A\0 title"), "paper.pdf").title == "A title"
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("Text."))))
    writer.metadata = None
    out = io.BytesIO()
    writer.write(out)
    assert load(out.getvalue(), "folder/paper.pdf").title == "paper"


def test_the_hash_is_of_the_bytes() -> None:
    """The same bytes have the same hash under any name; one byte more has another."""
    assert load("same", "a.md").content_hash == load("same", "b.txt").content_hash
    assert load("same").content_hash != load("same ").content_hash


def test_a_name_that_is_not_unicode_is_refused() -> None:
    """File systems allow names that no database takes; the message shows the name in a printable form."""
    with pytest.raises(InvalidInput, match=r"bad\\udcff.md") as caught:
        load("text", "bad\udcff.md")
    caught.value.message.encode()


def test_a_name_that_no_index_holds_is_refused() -> None:
    """The limit is in bytes, as the database counts."""
    assert load("text", "\u00e9" * 1_000).source
    with pytest.raises(InvalidInput, match="more than 2,000 bytes"):
        load("text", "\u00e9" * 1_001)


def test_files_are_found_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    """A folder gives everything below it, a file gives itself."""
    for name in ("b.md", "a.md", "sub/c.md", ".hidden.md", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    below = [file.relative_to(tmp_path).as_posix() for file in find_files([tmp_path])]
    assert below == ["a.md", "b.md", "sub/c.md"]
    hidden = tmp_path / ".hidden.md"
    assert list(find_files([hidden])) == [hidden]


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """A typing error is found before anything is read."""
    with pytest.raises(InvalidInput, match=r"missing\.md does not exist"):
        list(find_files([tmp_path / "missing.md"]))


def test_the_source_is_relative_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source stays the same when the project moves; a file elsewhere keeps its whole path."""
    (tmp_path / "project").mkdir()
    inside, outside = tmp_path / "project" / "a.md", tmp_path / "b.md"
    for file in (inside, outside):
        file.write_text("text")
    monkeypatch.chdir(tmp_path / "project")
    assert load_file(Path("a.md"), max_bytes=100).source == "a.md"
    assert load_file(inside, max_bytes=100).source == "a.md"
    assert load_file(outside, max_bytes=100).source == outside.resolve().as_posix()


@pytest.mark.parametrize("data", [b"QUJD" * 20_000, b"A whole book on one line. " * 20_000])
def test_what_would_cost_the_splitter_minutes_is_refused(data: bytes) -> None:
    """Encoded data and endless lines are no text; the message says what to do."""
    with pytest.raises(UnsupportedDocument, match="break it up"):
        load_bytes(data, source="long.txt", max_bytes=1_000_000)
