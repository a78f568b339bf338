"""Turn tools/corpus_pdf/*.md into the PDF articles of the shipped corpus: `make corpus-pdf`.

The PDFs exist so that the PDF loader meets real files; their Markdown is kept here to be edited. The output is
the same bytes for the same input.
"""

from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.units import cm
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "tools" / "corpus_pdf"
CORPUS = ROOT / "{{cookiecutter.project_slug}}" / "corpus"
STYLES = getSampleStyleSheet()


def flow(markdown: str) -> list[Flowable]:
    """Headings, paragraphs and flat lists as what reportlab lays out."""
    out: list[Flowable] = []
    tokens = MarkdownIt("commonmark").parse(markdown)
    for opening, inline in pairwise(tokens):
        if inline.type != "inline":
            continue
        if opening.type == "heading_open":
            style = STYLES["Title"] if opening.tag == "h1" else STYLES["Heading2"]
        else:
            style = STYLES["BodyText"]
        bullet = "\N{BULLET}" if opening.hidden else None
        out += [Paragraph(inline.content, style, bulletText=bullet), Spacer(1, 0.15 * cm)]
    return out


def main() -> None:
    """Write one PDF per source."""
    for source in sorted(SOURCES.glob("*.md")):
        markdown = source.read_text(encoding="utf-8")
        title = markdown.partition("\n")[0].removeprefix("# ")
        target = CORPUS / f"{source.stem}.pdf"
        page = SimpleDocTemplate(
            str(target), pagesize=A4, title=title, margin=2 * cm, invariant=1, author="cookiecutter-ai-app"
        )
        page.build(flow(markdown))
        print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
