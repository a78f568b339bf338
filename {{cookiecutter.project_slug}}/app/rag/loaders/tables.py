"""CSV, and the form in which every table becomes text.

Each row names its columns again, so that a chunk from the middle of a table still says what its cells are.
"""

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest

from app.rag.detect import delimiter
from app.rag.loaders import Loaded

csv.field_size_limit(sys.maxsize)  # a cell may hold an article; what a whole document may hold is limited elsewhere


def load(data: bytes) -> Loaded:
    """One line for each row; the first row names the columns."""
    text = data.decode("utf-8-sig")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter(text))
    return Loaded(["\n".join(lines(rows))])


def lines(rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """`- column: value; column: value` for each row but the first, which names the columns; empty cells are left out.

    Where there is only one row, its cells.
    """
    cells = ([" ".join(cell.split()) for cell in row] for row in rows)
    filled = (row for row in cells if any(row))
    header = next(filled, [])
    first = next(filled, None)
    if first is None:
        yield "; ".join(filter(None, header))
        return
    for row in chain([first], filled):
        named = zip_longest(header[: len(row)], row, fillvalue="")
        filled_in = ((name or f"column {number}", cell) for number, (name, cell) in enumerate(named, 1))
        yield "- " + "; ".join(f"{name}: {cell}" for name, cell in filled_in if cell)
