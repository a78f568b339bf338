"""HTML as Markdown, without what is not content."""

import re

from bs4 import BeautifulSoup, ProcessingInstruction
from markdownify import MarkdownConverter

from app.rag.loaders import Loaded
from app.rag.loaders.markdown import first_heading

NO_CONTENT = ["script", "style", "noscript", "template", "svg", "nav", "head"]
DESCRIBED = {"author", "date", "description", "keywords"}


def load(data: bytes) -> Loaded:
    """The title is the first heading, then the one in the tab; `<meta>` gives the metadata."""
    page = BeautifulSoup(data.decode("utf-8-sig"), "html.parser")
    title = page.title.get_text() if page.title else ""
    named = ((str(meta["name"]).lower(), str(meta.get("content", ""))) for meta in page("meta", attrs={"name": True}))
    metadata = {name: content for name, content in named if name in DESCRIBED and content}
    text = to_markdown(page)
    return Loaded([text], first_heading(text) or title, metadata)


def to_markdown(page: BeautifulSoup) -> str:
    """What a reader sees of the page; `page` is used up."""
    for part in page(NO_CONTENT):
        part.decompose()
    for instruction in page(string=lambda string: isinstance(string, ProcessingInstruction)):
        instruction.extract()
    converter = MarkdownConverter(heading_style="ATX", bullets="-", escape_asterisks=False, escape_underscores=False)
    text: str = converter.convert_soup(page)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
