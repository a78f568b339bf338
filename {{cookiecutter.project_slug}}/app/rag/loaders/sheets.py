"""XLSX, XLS and ODS: each sheet is a page with its name as heading and its rows as lines."""

import io

from python_calamine import CalamineWorkbook, SheetVisibleEnum

from app.rag.loaders import Loaded
from app.rag.loaders.office import read_properties
from app.rag.loaders.tables import lines


def load(data: bytes) -> Loaded:
    """The first row of a sheet that is not empty names the columns; formulas count with their last value.

    Hidden sheets are left out, as a reader does not see them; the pages are those that are shown.
    """
    book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    title, metadata = read_properties(data) if data.startswith(b"PK") else ("", {})
    shown = [sheet.name for sheet in book.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
    return Loaded((_page(book, name) for name in shown), title, metadata, page_count=len(shown))


def _page(book: CalamineWorkbook, name: str) -> str:
    rows = book.get_sheet_by_name(name).iter_rows()
    text = "\n".join(lines(map(_cell, row) for row in rows))
    return f"## {' '.join(name.split())}\n\n{text}" if text else ""


def _cell(value: object) -> str:
    """As a reader sees it: a whole number without a point, a date as ISO 8601 has it."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
