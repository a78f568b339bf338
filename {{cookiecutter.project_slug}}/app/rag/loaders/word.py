"""DOCX: headings, lists and tables as Markdown; pictures are left out."""

import io

import mammoth
from bs4 import BeautifulSoup

from app.rag.loaders import Loaded
from app.rag.loaders.markdown import first_heading
from app.rag.loaders.office import read_properties
from app.rag.loaders.web import to_markdown

STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"


def load(data: bytes) -> Loaded:
    """The title is the first heading, then the one in the properties."""
    html = mammoth.convert_to_html(
        io.BytesIO(data), style_map=STYLES, include_embedded_style_map=False, convert_image=lambda _: []
    ).value
    text = to_markdown(BeautifulSoup(html, "html.parser"))
    title, metadata = read_properties(data)
    return Loaded([text], first_heading(text) or title, metadata)
