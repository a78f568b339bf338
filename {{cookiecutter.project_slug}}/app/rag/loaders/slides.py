"""PPTX: each slide is a page with its title as heading, its text, its tables and its notes."""

import io
from collections.abc import Iterator
from typing import Any

from pptx import Presentation

from app.rag.loaders import Loaded
from app.rag.loaders.office import read_properties
from app.rag.loaders.tables import lines


def load(data: bytes) -> Loaded:
    """The title comes from the properties."""
    slides = Presentation(io.BytesIO(data)).slides
    title, metadata = read_properties(data)
    pages = (_page(number, slide) for number, slide in enumerate(slides, 1))
    return Loaded(pages, title, metadata, page_count=len(slides))


def _page(number: int, slide: Any) -> str:  # noqa: ANN401  # python-pptx ships no types
    heading = slide.shapes.title
    name = " ".join(heading.text_frame.text.split()) if heading is not None else ""
    parts = [f"## Slide {number}" + (f": {name}" if name else "")]
    for shape in slide.shapes:
        if heading is None or shape.shape_id != heading.shape_id:
            parts.extend(_texts(shape))
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame):
        parts.append(f"Notes: {frame.text}" if frame.text.strip() else "")
    return "\n\n".join(part.strip().replace("\v", "\n") for part in parts if part.strip())


def _texts(shape: Any) -> Iterator[str]:  # noqa: ANN401  # as above
    """The text of a shape, of a table, or of a group's shapes."""
    if shape.has_text_frame:
        yield shape.text_frame.text
    elif getattr(shape, "has_table", False):
        yield "\n".join(lines([cell.text for cell in row.cells] for row in shape.table.rows))
    else:
        for inner in getattr(shape, "shapes", ()):
            yield from _texts(inner)
