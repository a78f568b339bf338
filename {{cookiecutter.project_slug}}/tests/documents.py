"""Small documents of every format, made from nothing, so that a test sees what is in them."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from typing import Any

import xlsxwriter  # type: ignore[import-untyped]  # comes with python-pptx
from pptx import Presentation
from pptx.util import Inches

MAIN = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
SECTOR = 512
END = 0xFFFFFFFE
FREE = 0xFFFFFFFF


def pdf(*pages: str, locked: bool = False, **properties: str) -> bytes:
    """A PDF with these pages of text, as a program would write it."""
    count = len(pages)
    kids = " ".join(f"{number} 0 R" for number in range(4, 4 + 2 * count, 2))
    fonts = "<< /Font << /F1 2 0 R >> >>"
    objects = [
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "<< " + " ".join(f"/{key} ({value})" for key, value in properties.items()) + " >>",
    ]
    for number, text in enumerate(pages):
        shown = " ".join(f"({line}) Tj T*" for line in text.split("\n"))
        content = f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET"
        box = f"/MediaBox [0 0 600 800] /Resources {fonts}"
        objects.append(f"<< /Type /Page /Parent 1 0 R {box} /Contents {5 + 2 * number} 0 R >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    lock = f"<< /Filter /Standard /V 1 /R 2 /P -4 /O ({'o' * 32}) /U ({'u' * 32}) >>"
    return _pdf_of([*objects, "<< /Type /Catalog /Pages 1 0 R >>", lock], locked=locked)


def _pdf_of(objects: Sequence[str], *, locked: bool) -> bytes:
    """Number the objects, the last but one of which is the catalogue, and list where each stands."""
    out = bytearray(b"%PDF-1.4\n")
    starts = []
    for number, content in enumerate(objects, 1):
        starts.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{start:010} 00000 n \n" for start in starts)
    key = f"/Encrypt {len(objects)} 0 R /ID [<00> <00>]" if locked else ""
    trailer = f"<< /Size {len(objects) + 1} /Root {len(objects) - 1} 0 R /Info 3 0 R {key} >>"
    references = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return bytes(out) + f"{references}trailer\n{trailer}\nstartxref\n{len(out)}\n%%EOF\n".encode()


def zipped(parts: Mapping[str, str | bytes], *, stored: bool = False) -> bytes:
    """An archive of these parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def docx(body: str, *, before: str = "", parts: Mapping[str, str | bytes] | None = None) -> bytes:
    """A Word document: `body` is the XML of its paragraphs, `before` what stands before its root element."""
    relations = f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" Type="{OFFICE}/officeDocument" '
    content = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="xml" '
        'ContentType="application/xml"/></Types>',
        "_rels/.rels": relations + 'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<?xml version="1.0" encoding="UTF-8"?>{before}<w:document xmlns:w="{MAIN}">'
        f"<w:body>{body}</w:body></w:document>",
        **(parts or {}),
    }
    return zipped(content)


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of a Word document."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


STYLES = (
    f'<w:styles xmlns:w="{MAIN}"><w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:type="paragraph" w:styleId="Heading2"><w:name w:val="heading 2"/></w:style></w:styles>'
)
PROPERTIES = (
    f'<cp:coreProperties xmlns:cp="{PACKAGE}/metadata/core-properties" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:dcterms="http://purl.org/dc/terms/"><dc:title>In the properties</dc:title><dc:creator>A. Writer</dc:creator>'
    "<dcterms:created>2026-01-31T10:00:00Z</dcterms:created><cp:keywords></cp:keywords></cp:coreProperties>"
)


def pptx(
    *slides: tuple[str, str], notes: str = "", table: Sequence[Sequence[str]] = (), grouped: str = "", **properties: str
) -> bytes:
    """Slides of a title and a text; the last one gets the notes, the table and a group with a text."""
    deck: Any = Presentation()
    for title, text in slides:
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
    if notes:
        slide.notes_slide.notes_text_frame.text = notes
    if table:
        grid = slide.shapes.add_table(len(table), len(table[0]), Inches(1), Inches(1), Inches(4), Inches(2)).table
        for row, cells in enumerate(table):
            for column, text in enumerate(cells):
                grid.cell(row, column).text = text
    if grouped:
        inches = (Inches(1),) * 4
        slide.shapes.add_group_shape().shapes.add_textbox(*inches).text_frame.text = grouped
    for name, value in properties.items():
        setattr(deck.core_properties, name, value)
    out = io.BytesIO()
    deck.save(out)
    return out.getvalue()


def xlsx(sheets: Mapping[str, Sequence[Sequence[Any]]], *, hidden: Sequence[str] = (), **properties: str) -> bytes:
    """A workbook of these sheets of rows; some may be hidden, the last of them from the menu too."""
    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True, "default_date_format": "yyyy-mm-dd"}) as book:
        book.set_properties(properties)
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            if name in hidden:
                (sheet.very_hidden if name == hidden[-1] else sheet.hide)()
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
    return out.getvalue()


def ods(rows: Sequence[Sequence[str]]) -> bytes:
    """An OpenDocument workbook of one sheet."""
    space = "urn:oasis:names:tc:opendocument:xmlns"
    lines = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{cell}</text:p></table:table-cell>' for cell in row
        )
        + "</table:table-row>"
        for row in rows
    )
    content = (
        f'<office:document-content xmlns:office="{space}:office:1.0" xmlns:table="{space}:table:1.0" '
        f'xmlns:text="{space}:text:1.0"><office:body><office:spreadsheet><table:table table:name="Fruit">{lines}'
        "</table:table></office:spreadsheet></office:body></office:document-content>"
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    manifest = f'<manifest:manifest xmlns:manifest="{space}:manifest:1.0"/>'
    return zipped({"mimetype": kind, "content.xml": content, "META-INF/manifest.xml": manifest})


def compound(streams: Mapping[str, bytes]) -> bytes:
    """A file as Office wrote it before 2007: streams in a file system of their own, of sectors of 512 bytes."""
    padded = {name: content.ljust(4_096, b"\0") for name, content in streams.items()}  # smaller ones are kept elsewhere
    data, table, entries = bytearray(), [0xFFFFFFFD, END], [_entry("Root Entry", 5, END, 0, child=1)]
    for number, (name, content) in enumerate(padded.items(), 1):
        first, count = len(table), -(-len(content) // SECTOR)
        table += [*range(first + 1, first + count), END]
        entries.append(_entry(name, 2, first, len(content), right=number + 1 if number < len(padded) else FREE))
        data += content.ljust(count * SECTOR, b"\0")
    header = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(10)
    header += struct.pack("<IIIIIIIII", 1, 1, 0, 4_096, END, 0, END, 0, 0) + struct.pack("<I", FREE) * 108
    sectors = struct.pack(f"<{len(table)}I", *table).ljust(SECTOR, b"\xff") + b"".join(entries).ljust(SECTOR, b"\0")
    return header + sectors + bytes(data)


def _entry(name: str, kind: int, start: int, size: int, *, child: int = FREE, right: int = FREE) -> bytes:
    """A name in the directory of a compound file."""
    written = name.encode("utf-16-le")
    links = struct.pack("<HBBIII", len(written) + 2, kind, 1, FREE, right, child)
    return written.ljust(64, b"\0") + links + bytes(36) + struct.pack("<III", start, size, 0)


def xls(rows: Sequence[Sequence[str]], *, locked: bool = False) -> bytes:
    """A workbook as Excel wrote it before 2007, of one sheet of texts."""

    def record(kind: int, content: bytes) -> bytes:
        return struct.pack("<HH", kind, len(content)) + content

    def begin(kind: int) -> bytes:
        return record(0x809, struct.pack("<HHHHII", 0x600, kind, 0, 0, 0, 0))

    def label(row: int, column: int, text: str) -> bytes:
        return record(0x204, struct.pack("<HHHHB", row, column, 0, len(text), 0) + text.encode("latin-1"))

    name = b"\x05\0Fruit"
    lock = record(0x2F, b"\1\0" * 27) if locked else b""
    start = len(begin(5) + lock) + 4 + 6 + len(name) + len(record(0x0A, b""))
    book = begin(5) + lock + record(0x85, struct.pack("<IBB", start, 0, 0) + name) + record(0x0A, b"")
    cells = b"".join(label(row, column, text) for row, line in enumerate(rows) for column, text in enumerate(line))
    return compound({"Workbook": book + begin(0x10) + cells + record(0x0A, b"")})


def eml(body: str = "", *, html: str = "", attached: Mapping[str, bytes] | None = None, **head: str) -> bytes:
    """A letter; `html` is a second form of its body, or the only one."""
    message = EmailMessage()
    for name, value in head.items():
        message[name] = value
    if body:
        message.set_content(body)
    if html and body:
        message.add_alternative(html, subtype="html")
    elif html:
        message.set_content(html, subtype="html")
    for name, content in (attached or {}).items():
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return bytes(message)
