"""HTML as Markdown, without what is not content."""

import re

from bs4 import BeautifulSoup, ProcessingInstruction, Tag
from markdownify import MarkdownConverter

from app.rag.loaders import Loaded
from app.rag.loaders.markdown import first_heading

NO_CONTENT = ["script", "style", "noscript", "template", "svg", "nav", "head"]
HIDDEN = re.compile(r"(?<![\w-])(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
# What may stand in a scheme and not be seen: white space, control characters, marks of no width.
NOT_SEEN = re.compile(r"[\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE)
SAFE_SCHEMES = {"http", "https", "mailto"}
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
    for part in [*page(NO_CONTENT), *page(_is_hidden)]:
        part.decompose()
    for picture in page("img"):
        picture.replace_with(" ".join(str(picture.get("alt", "")).split()))
    for film in page("video"):
        film.unwrap()
    for link in page("a", href=True):
        scheme = SCHEME.match(NOT_SEEN.sub("", str(link["href"])))
        if scheme and scheme[0].lower() not in SAFE_SCHEMES:
            del link["href"]
    for instruction in page(string=lambda string: isinstance(string, ProcessingInstruction)):
        instruction.extract()
    converter = MarkdownConverter(heading_style="ATX", bullets="-", escape_asterisks=False, escape_underscores=False)
    text: str = converter.convert_soup(page)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _is_hidden(part: Tag) -> bool:
    """As the element itself says, not a style sheet; a whole page that is hidden is shown by its scripts."""
    said = str(part.get("aria-hidden", "")).strip().lower() == "true" or HIDDEN.search(str(part.get("style", "")))
    return part.name not in {"html", "body"} and (part.has_attr("hidden") or bool(said))
