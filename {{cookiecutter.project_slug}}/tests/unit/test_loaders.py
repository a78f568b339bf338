"""Bytes of a known format become Markdown with title, pages and metadata, or are refused with a reason."""

import re
import sys
import unicodedata
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import DocumentTooLarge, InvalidInput, UnsupportedDocument
from app.rag.detect import TEXT_STARTS
from app.rag.loaders import LOADERS
from app.rag.loading import load_bytes
from app.rag.sources import CONTROL
from app.types import Document
from tests.conftest import PROJECT
from tests.documents import OFFICE, PACKAGE, PROPERTIES, STYLES, docx, eml, ods, paragraph, pdf, pptx, xls, xlsx, zipped

BOM = b"\xef\xbb\xbf"


def load(data: bytes | str, name: str = "notes.md") -> Document:
    """Load with a limit that never matters."""
    return load_bytes(data.encode() if isinstance(data, str) else data, source=name, max_bytes=1_000_000)


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "empty.md", "empty.md is empty"),
        (b" \n\t", "blank.txt", "blank.txt is empty"),
        (b"<html><script>only()</script>", "script.html", "script.html holds no text"),
        (b"<html>" + b"<div>" * 3_000 + b"deep", "deep.html", "deep.html are nested too deeply"),
        (b"%PDF-1.7\nnothing of a PDF follows", "broken.pdf", "broken.pdf cannot be read"),
        (pdf("A page.")[:-200], "cut.pdf", "cut.pdf cannot be read .* only a part of a file"),
        (pdf("A page.", locked=True), "locked.pdf", "locked.pdf: it is locked with a password"),
        (pdf(""), "scan.pdf", "a scanned PDF needs OCR first"),
        (xls([["a"]], locked=True), "locked.xls", "locked.xls cannot be read .* locked"),
        (zipped({"word/document.xml": "<w:document"}), "broken.docx", "broken.docx cannot be read"),
        (xlsx({"A": []}), "empty.xlsx", "empty.xlsx holds no text"),
        (xls([["a"]])[:1_024], "cut.xls", "cut.xls cannot be read"),
        (b"QUJD" * 20_000, "data.txt", "leave encoded data out"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, name: str, reason: str) -> None:
    """No loader guesses: empty, damaged and locked files are errors of the one who sent them."""
    with pytest.raises(UnsupportedDocument, match=reason):
        load(data, name)


STARTS = [
    *(b"", BOM, b"<html>", b"<!doctype html><body>", b"%PDF-1.4\n", b"# ", b"---\na: ", b"PK\x03\x04", b"[", b'{"a":'),
    b"From: a\nTo: b\n",
]


@given(
    beginning=st.sampled_from(STARTS),
    rest=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode(errors="ignore"))),
    name=st.sampled_from(["a.md", "a.txt", "a.csv"]),
)
def test_any_bytes_become_storable_text_or_are_refused(beginning: bytes, rest: bytes, name: str) -> None:
    """Whatever is sent, nothing comes out that the database cannot hold, and accents have one form."""
    try:
        document = load(beginning + rest, name)
    except InvalidInput:
        return
    assert document.text.strip()
    for value in (document.text, document.title, *document.metadata, *document.metadata.values()):
        assert not CONTROL.search(value)
        assert unicodedata.is_normalized("NFC", value)


WHOLE = {
    "cut.pdf": pdf("First page.", "Second page."),
    "cut.docx": docx(paragraph("Text.")),
    "cut.xlsx": xlsx({"A": [["a"], ["b"]]}),
    "cut.pptx": pptx(("One", "text")),
    "cut.xls": xls([["a"], ["b"]]),
}


@given(st.sampled_from(sorted(WHOLE)), st.floats(min_value=0, max_value=1))
@example("cut.xls", 0.1)
def test_a_file_that_was_cut_off_never_breaks_the_loader(name: str, share: float) -> None:
    """A download that stopped half-way is refused, or read as far as it goes."""
    with suppress(InvalidInput):
        assert load(WHOLE[name][: int(share * len(WHOLE[name]))], name).text


def test_a_document_as_large_as_the_limit_is_taken_and_no_larger() -> None:
    """The limit is on what comes in, and on the text that comes out."""
    assert load_bytes(b"x" * 100, source="a.txt", max_bytes=100).text
    assert load_bytes("\u00e9".encode() * 50, source="a.txt", max_bytes=100).text
    with pytest.raises(DocumentTooLarge, match="MAX_DOCUMENT_BYTES"):
        load_bytes(b"x" * 101, source="a.txt", max_bytes=100)
    table = ("a column with a long name\n" + "x\n" * 500).encode()
    with pytest.raises(DocumentTooLarge, match="more text than MAX_DOCUMENT_BYTES"):
        load_bytes(table, source="a.csv", max_bytes=2_000)
    with pytest.raises(DocumentTooLarge, match="one emoji"):
        load_bytes(b"x" * 900 + "\U0001f600".encode(), source="a.txt", max_bytes=1_000)


@pytest.mark.parametrize("data", [pdf("a", "b", "c"), pptx(("a", ""), ("b", ""), ("c", "")), xlsx({"a": [], "b": []})])
def test_a_document_of_too_many_pages_is_refused_before_they_are_read(data: bytes) -> None:
    """Pages, slides and sheets, or the parts of their archive, are counted first."""
    with pytest.raises(DocumentTooLarge, match="MAX_DOCUMENT_PAGES allows 1"):
        load_bytes(data, source="long", max_bytes=1_000_000, max_pages=1)


@pytest.mark.parametrize("data", ["one\ntwo\nthree", "one\r\ntwo\r\nthree", "one\rtwo\rthree", "\ufeffone\ntwo\nthree"])
def test_line_ends_and_the_byte_order_mark_make_no_difference(data: str) -> None:
    """Offsets count the same characters whichever system wrote the file."""
    assert load(data).text == "one\ntwo\nthree"


def test_no_document_gives_orders_to_a_terminal() -> None:
    """Control characters and changes of direction leave text, title and metadata; what parts lines becomes a line."""
    orders = "\x1b[2J\x9b1m\x07\x08\x7f\u202e\u2066"
    document = load(f'---\nby: "A.\\e[2J"\n---\n# Ti{orders}tle\n\na\tb\fc\x85d{orders}')
    assert (document.text, document.title) == ("# Ti[2J1mtle\n\na\tb\nc\nd[2J1m", "Ti[2J1mtle")
    assert document.metadata == {"by": "A.[2J"}
    assert load('{"a": "\\u001b[2J"}', "a.json").text == "a: [2J"
    assert load("<html><p>a&#27;[2J").text == "a[2J"
    assert load("\u05d0\u202b\u05d1\u200f c").text == "\u05d0\u05d1\u200f c"
    with pytest.raises(InvalidInput, match=r"'\\x1b.md' holds control characters"):
        load_bytes(b"too long", source="\x1b.md", max_bytes=1)


def test_decomposed_accents_match_composed_ones() -> None:
    """A question is typed in one form, and a file from a Mac may hold the other."""
    assert load("cafe\u0301", "a.txt").text == "caf\u00e9"


def test_text_in_utf16_is_read_where_it_says_so() -> None:
    """Some editors write it; the hash is of the bytes as they came."""
    document = load("caf\u00e9".encode("utf-16"), "wide.txt")
    assert document.text == "caf\u00e9"
    assert document.content_hash != load("caf\u00e9", "wide.txt").content_hash


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
        ("---\ntitle: In front\n---\n\ntext", "In front"),
        ("---\ntitle: In front\n---\n\n# A title", "A title"),
    ],
)
def test_the_first_heading_of_level_one_is_the_title(markdown: str, title: str) -> None:
    """Code is no heading, a closing row of # is no part of it, and without one the front matter or the name serves."""
    assert load(markdown, "folder/notes.md").title == title


def test_front_matter_becomes_metadata() -> None:
    """Flat values only; the text begins after it."""
    head = "author: A. Writer\ndate: 2026-01-31\ndraft: true\nversion: 1.5\nempty:\ntags: [a, b]"
    document = load(f"---\r\n{head}\n---\nText.")
    assert document.metadata == {"author": "A. Writer", "date": "2026-01-31", "draft": "true", "version": "1.5"}
    assert document.text == "Text."


@pytest.mark.parametrize(
    "text", ["---\na rule\n---\ntext", "---\na: [\n---\ntext", "---\na: 2026-13-45\n---\ntext", "---\na"]
)
def test_what_is_no_front_matter_stays_in_the_text(text: str) -> None:
    """A line of dashes may also be a rule."""
    document = load(text)
    assert (document.text, document.metadata) == (text, {})


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


@pytest.mark.parametrize(
    "attribute",
    ["hidden", "aria-hidden=TRUE", "style='color: red; Display : none'", "style='visibility:hidden !important'"],
)
def test_what_a_page_hides_is_no_content(attribute: str) -> None:
    """Nobody who looks at the page could check a quote from it."""
    assert load(f"<html><p>a<div {attribute}>secret <b>too</b></div><p {attribute}>secret</p><p>b").text == "a\n\nb"


@pytest.mark.parametrize(
    "html",
    [
        "<body style='display:none'><p>a",
        "<p style='backface-visibility: hidden'>a",
        "<p aria-hidden=false>a",
        "<p style='display:block'>a",
    ],
)
def test_what_a_page_shows_is_content(html: str) -> None:
    """A page that is hidden as a whole is shown by its scripts."""
    assert load(f"<html>{html}").text == "a"


def test_a_picture_is_what_it_is_called() -> None:
    """Its address is nothing to read, least of all where it is the picture itself."""
    data = "data:image/png;base64," + "QUJD" * 20_000
    page = f"<html><p>A <img src='{data}' alt='red\n apple'> and <img src=b.png>.<h1><img src='{data}'>Fruit</h1>"
    film = f"<video src='{data}' poster='{data}'><source src='{data}'>A film</video>"
    assert load(f"{page}<p>{film}").text == "A red apple and.\n\n# Fruit\n\nA film"


@pytest.mark.parametrize(
    "href",
    [
        *("javascript:x()", "JavaScript:x()", " java\tscr\nipt:x()", "\x01javascript:x()", "java&#9;script&colon;x()"),
        *("data:text/html,x", "vbscript:x", "\u202ejava\u200bscript:x()", "file:///etc/passwd"),
    ],
)
def test_a_link_that_would_run_something_is_only_its_text(href: str) -> None:
    """However the scheme is written."""
    assert load(f'<html><p>see <a href="{href}">here</a>').text == "see here"


@pytest.mark.parametrize(
    "href", ["https://example.org/a:b", "HTTP://example.org", "mailto:a@example.org", "/a", "b.html?c=d:e", "#part"]
)
def test_a_link_to_a_page_keeps_its_target(href: str) -> None:
    """Also a relative one, or one within the page."""
    assert load(f'<html><p>see <a href="{href}">here</a>').text == f"see [here]({href})"


def test_a_picture_within_markdown_is_left_out() -> None:
    """A line of encoded data would refuse the page; pictures that are elsewhere stay as they are written."""
    data = "data:image/png;base64," + "QUJD" * 20_000
    page = f'![one]({data})![two]( <{data}> "b") ![three](c.png) ![][four] (data: x)\n\n[four]: <{data}>\nend'
    assert load(page).text == "![one]![two] ![three](c.png) ![][four] (data: x)\n\n\nend"


def test_html_says_who_wrote_it() -> None:
    """Of what a page says of itself, the part that a question may be limited to."""
    named = "<meta name=Author content='A. Writer'><meta name=viewport content=x><meta charset=utf-8><meta name=date>"
    assert load(f"<html><head>{named}</head><p>x").metadata == {"author": "A. Writer"}


def test_html_is_read_as_utf8_whatever_it_declares() -> None:
    """The bytes were checked to be UTF-8, so a wrong declaration cannot garble them."""
    page = load("<html><head><meta charset='iso-8859-1'></head><body><p>Caf\u00e9, 5 \u20ac</p>")
    assert page.text == "Caf\u00e9, 5 \u20ac"


def test_a_pdf_gives_its_pages_in_order_with_paragraphs_joined() -> None:
    """A nearly full line goes on in the next one; a short one ends its paragraph. Where a page begins is kept."""
    text = "A paragraph that goes over the end of the line\nand stops here, at a length like the first one\nEnd."
    document = load(pdf(text, "", "Third page."), "paper.bin")
    assert document.text == text.replace("\n", " ") + "\n\n\n\nThird page."
    assert [document.text[start:][:5] for start in document.page_starts] == ["A par", "\n\nThi", "Third"]


def test_a_word_that_a_line_end_broke_is_whole_again() -> None:
    """PDF marks no hyphens; the reader does."""
    page = load(
        pdf("A line that is as long as the next one and ends in re-\ntrieval, which was broken by the end of it")
    )
    assert "retrieval, which" in page.text


def test_the_properties_of_a_pdf_are_title_and_metadata() -> None:
    """Without them the file's name serves, and a date may be only a year."""
    document = load(pdf("Text.", Title="A\\000 title", Author="A. Writer", CreationDate="D:20260131120000"), "a.pdf")
    assert (document.title, document.metadata) == ("A title", {"author": "A. Writer", "date": "2026-01-31"})
    assert load(pdf("Text.", CreationDate="2026"), "folder/paper.pdf").metadata == {"date": "2026"}
    assert load(pdf("Text.", CreationDate="today"), "folder/paper.pdf").title == "paper"


def test_a_word_document_keeps_headings_and_tables_and_leaves_pictures_out() -> None:
    """As Markdown, with its properties as metadata."""
    related = f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" Type="{OFFICE}/'
    parts = {
        "word/styles.xml": STYLES,
        "docProps/core.xml": PROPERTIES,
        "word/_rels/document.xml.rels": related + 'styles" Target="styles.xml"/></Relationships>',
    }
    cell = "<w:tc>" + paragraph("a cell") + "</w:tc>"
    table = f"<w:tbl><w:tr>{cell}{cell}</w:tr></w:tbl>"
    document = load(docx(paragraph("Guide", "Heading1") + paragraph("Text.") + table, parts=parts), "a.docx")
    assert document.text.startswith("# Guide\n\nText.\n\n|")
    assert "| a cell | a cell |" in document.text
    assert (document.title, document.metadata) == ("Guide", {"author": "A. Writer", "date": "2026-01-31"})
    assert load(docx(paragraph("Text."), parts=parts), "a.docx").title == "In the properties"
    parts["docProps/core.xml"] = PROPERTIES.replace("dcterms:created", "dcterms:modified")
    assert load(docx(paragraph("Text."), parts=parts), "a.docx").metadata == {"author": "A. Writer"}
    assert load(docx(paragraph("Text.")), "folder/a.docx").title == "a"


@pytest.mark.parametrize(
    ("target", "text"), [("https://example.org", "[here](https://example.org)"), ("JAVASCRIPT:x()", "here")]
)
def test_a_link_of_a_word_document_is_as_safe_as_one_of_a_page(target: str, text: str) -> None:
    """It goes through the same hands."""
    related = f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" Type="{OFFICE}/hyperlink" '
    parts = {"word/_rels/document.xml.rels": f'{related}Target="{target}" TargetMode="External"/></Relationships>'}
    link = f'<w:p><w:hyperlink xmlns:r="{OFFICE}" r:id="r1"><w:r><w:t>here</w:t></w:r></w:hyperlink></w:p>'
    assert load(docx(link, parts=parts), "a.docx").text == text


def test_slides_are_pages_with_title_text_table_and_notes() -> None:
    """The title of a slide is a heading."""
    table = [["fruit", "price"], ["apple", "3"]]
    slides = [("One", "A text"), ("", "More")]
    document = load(pptx(*slides, notes="Say it", table=table, grouped="In a group", title="Deck", author="Me"), "a")
    last = ["## Slide 2", "More", "- fruit: apple; price: 3", "In a group", "Notes: Say it"]
    pages = ["## Slide 1: One\n\nA text", "\n\n".join(last)]
    assert document.text == "\n\n".join(pages)
    assert document.page_starts == (0, len(pages[0]) + 2)
    assert (document.title, document.metadata["author"]) == ("Deck", "Me")


def test_sheets_are_pages_whose_rows_say_what_their_cells_are() -> None:
    """Empty rows, cells and sheets are left out; whole numbers have no point."""
    rows: list[list[object]] = [[], ["fruit", "price", ""], ["apple", 3, "ripe"], ["", ""], ["pear", 2.5]]
    document = load(xlsx({"Fruit": rows, "Empty": [], "One": [["alone", "here"]]}, title="Book", author="Me"), "a.xlsx")
    assert document.text == (
        "## Fruit\n\n- fruit: apple; price: 3; column 3: ripe\n- fruit: pear; price: 2.5\n\n\n\n## One\n\nalone; here"
    )
    assert [document.text[start:][:6] for start in document.page_starts] == ["## Fru", "\n\n## O", "## One"]
    assert (document.title, document.metadata["author"]) == ("Book", "Me")


def test_hidden_sheets_are_left_out() -> None:
    """Whoever opens the workbook does not see them; pages count what is seen."""
    book = {name: [[f"text of {name}"]] for name in ("A", "B", "C", "D")}
    document = load(xlsx(book, hidden=["B", "C"]), "a.xlsx")
    assert document.text == "## A\n\ntext of A\n\n## D\n\ntext of D"
    assert [document.text[start:][:4] for start in document.page_starts] == ["## A", "## D"]


@pytest.mark.parametrize("make", [ods, xls])
def test_older_and_other_workbooks_give_the_same_text(make: type) -> None:
    """OpenDocument, and Excel of before 2007."""
    assert load(make([["fruit", "price"], ["apple", "3"]]), "a").text == "## Fruit\n\n- fruit: apple; price: 3"


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("fruit,price\napple,3\npear,\n", "- fruit: apple; price: 3\n- fruit: pear"),
        ("fruit;price\n\napple;3,5\n", "- fruit: apple; price: 3,5"),
        ("fruit\tprice\napple\t3", "- fruit: apple; price: 3"),
        ('fruit,note\napple,"red,\nround"\n', "- fruit: apple; note: red, round"),
        ("fruit,\napple,3,4", "- fruit: apple; column 2: 3; column 3: 4"),
        ("fruit,price\n", "fruit; price"),
        ("fruit\napple\npear", "- fruit: apple\n- fruit: pear"),
    ],
)
def test_a_row_of_csv_names_its_columns(table: str, text: str) -> None:
    """So that a chunk from the middle of a table still says what its cells are."""
    assert load(table, "a.csv").text == text


def test_a_cell_may_hold_an_article() -> None:
    """More than the csv module takes when nobody tells it otherwise."""
    assert len(load("id,text\n1," + "word " * 40_000, "a.csv").text) > 199_000


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('[{"a": {"b": 1, "c": ["x", true]}, "d": null}, {"a": "y"}]', "a.b: 1\na.c: x, true\n\na: y"),
        ('{"a": 1}\n\n{"a": 2}\n', "a: 1\n\na: 2"),
        ('{"a": [{"b": 1}, [2]]}', "a[0].b: 1\na[1]: 2"),
        ('["x", 1.5]', "x\n\n1.5"),
        ('{"a": "two\\nlines"}', "a: two\nlines"),
    ],
)
def test_json_becomes_lines_of_path_and_value(data: str, text: str) -> None:
    """A list, or lines of JSON, are records with a blank line between them; null is nothing."""
    assert load(data, "a.json").text == text


def test_a_line_that_is_no_json_is_refused() -> None:
    """Half a record is worse than none."""
    with pytest.raises(UnsupportedDocument, match=r"a\.jsonl cannot be read"):
        load('{"a": 1}\n' * 30 + "{", "a.jsonl")


def test_a_letter_begins_with_its_head() -> None:
    """Subject, people and date can be asked for; what is attached is named, and not read."""
    head = {
        "From": "Ann <ann@example.org>",
        "To": "bob@example.org",
        "Subject": "Fruit",
        "Date": "31 Jan 2026 10:00 +0000",
    }
    letter = load(eml("Apples.", html="<p>no", attached={"list.pdf": b"x"}, **head), "a.eml")
    assert letter.text.startswith("From: Ann <ann@example.org>\nTo: bob@example.org\nDate: ")
    assert letter.text.endswith("\nAttached, not read: list.pdf\n\nApples.\n")
    assert letter.title == "Fruit"
    assert letter.metadata == {"from": "Ann <ann@example.org>", "to": "bob@example.org", "date": "2026-01-31"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (eml(html="<h1>Fruit</h1><p>Apples.", From="a", To="b"), "# Fruit\n\nApples."),
        (b"From: a\nTo: b\nContent-Type: text/plain; charset=latin-1\n\ncaf\xe9", "caf\u00e9"),
        (b"From: a\nTo: b\nContent-Type: text/plain; charset=nobody-knows\n\nfruit", "fruit"),
        (b"From: a\nTo: b\nContent-Type: image/png\n\nfruit", "To: b"),
    ],
)
def test_the_body_of_a_letter_is_read_in_any_form(data: bytes, text: str) -> None:
    """HTML where there is no plain text, in the character set that the letter names."""
    assert load(data, "a.eml").text.strip().endswith(text)


def test_metadata_that_is_given_wins() -> None:
    """What the caller knows of a document is more certain than what the document says."""
    document = load_bytes(b"---\na: 1\nb: 2\n---\ntext", source="a.md", max_bytes=99, metadata={"b": "3"})
    assert document.metadata == {"a": "1", "b": "3"}


def test_the_hash_is_of_the_bytes() -> None:
    """The same bytes have the same hash under any name; one byte more has another."""
    assert load("same", "a.md").content_hash == load("same", "b.txt").content_hash
    assert load("same").content_hash != load("same ").content_hash


def test_the_example_in_the_howto_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loader and its two lines are taken from the page, and a document is read with them."""
    page = (PROJECT / "docs" / "howto" / "add-a-document-format.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module = ModuleType("subtitles")
    exec(code, vars(module))  # noqa: S102  # our own documentation
    monkeypatch.setitem(sys.modules, "app.rag.loaders.subtitles", module)
    tables: tuple[dict[str, Any], ...] = (LOADERS, TEXT_STARTS)
    for table, line in zip(tables, re.findall(r'`("text/vtt": .*?),`', page), strict=True):
        [entry] = eval("{" + line + "}", {"re": re}).items()  # noqa: S307  # as above
        monkeypatch.setitem(table, *entry)
    document = load("WEBVTT - Fruit\n\n00:01.000 --> 00:02.000\nApples.\n", "talk.vtt")
    assert (document.title, document.text.strip(), document.media_type) == ("Fruit", "Apples.", "text/vtt")
