"""`app ask`: an answer, in the terminal. Knows nothing that the pipeline does not know."""

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.commands.documents import bring_up_to_date, summary
from app.rag.citations import FLAG
from app.rag.pipeline import Pipeline
from app.session import err, key_value, opened, out, usd
from app.types import Answer, Citation, Filter, TextDelta

cli = typer.Typer()


@cli.command(rich_help_panel="Documents")
def ask(
    question: Annotated[str, typer.Argument(help="In quotes; - reads it from standard input.")],
    ingest: Annotated[
        list[Path] | None, typer.Option(help="Bring the index up to date with this file or folder first.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only documents with this metadata; may be repeated.")
    ] = None,
    below: Annotated[str, typer.Option(metavar="PATH", help="Only documents whose source begins so.")] = "",
) -> None:
    """Answer a question from the documents, with citations."""
    filters = Filter(dict(key_value(given, "--where") for given in where or []), below)
    asyncio.run(_ask(sys.stdin.read() if question == "-" else question, ingest or [], filters))


async def _ask(question: str, paths: list[Path], filters: Filter) -> None:
    async with opened() as parts:
        if paths:
            report = await bring_up_to_date(parts, paths)
            if report.added or report.changed or report.skipped:
                err.print(f"[dim]{summary(report)}[/dim]")
        await _say(Pipeline(*parts), question, filters)


async def _say(pipeline: Pipeline, question: str, filters: Filter) -> None:
    """Print the text as it comes, then its sources. Where it is cut, the error begins a line."""
    in_a_line = False
    try:
        async for event in pipeline.stream(question, filters=filters):
            if isinstance(event, TextDelta):
                out.print(event.text, end="", markup=False, highlight=False, soft_wrap=True)
                in_a_line = True
            elif isinstance(event, Answer):
                if in_a_line:
                    out.print()
                in_a_line = False
                _show_sources(event, filters)
    finally:
        if in_a_line:
            out.print()


def _show_sources(answer: Answer, filters: Filter) -> None:
    if answer.abstained:
        _show_reason(answer, filters)
    for citation in answer.citations:
        out.print(_source_line(citation), soft_wrap=True, highlight=False)
    if answer.rejected:
        _show_rejected(answer)
    if left_out := [passage for passage in answer.passages if passage.use == "found"]:
        out.print(f"[dim]  {len(left_out)} more passages were found; the model reads PASSAGE_TOKENS of them[/dim]")
    note = f"{answer.notice} " if answer.notice else ""
    made = ", ".join(filter(None, [answer.model, f"{answer.latency_ms} ms", usd(answer.cost_nanousd)]))
    out.print(f"[dim]{note}({made})[/dim]", highlight=False, soft_wrap=True)


def _show_rejected(answer: Answer) -> None:
    flagged = FLAG in answer.text
    faults = ", ".join(rejected.fault for rejected in answer.rejected)
    what = "were marked with a question mark" if flagged else "were left out"
    out.print(f"[yellow]{len(answer.rejected)} citations did not hold and {what}: {faults}[/yellow]")
    for rejected in answer.rejected if flagged else ():
        line = f'  passage {rejected.marker}, {rejected.fault}: "{rejected.quote}"'
        out.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _show_reason(answer: Answer, filters: Filter) -> None:
    out.print(answer.text)
    for source in dict.fromkeys(p.source for p in answer.passages[:3]):
        out.print(f"[dim]  nearest: {escape(source)}[/dim]", highlight=False, soft_wrap=True)
    limits = [part for key, value in filters.metadata.items() for part in ("--where", f"{key}={value}")]
    limits += ["--below", filters.source_prefix] if filters.source_prefix else []
    hint = shlex.join(["app", "explain", answer.question, *limits])
    out.print(f"  {escape(answer.reason)}\n  [dim]{escape(hint)} shows more[/dim]", highlight=False, soft_wrap=True)


def _source_line(citation: Citation) -> str:
    page = "" if citation.page is None else f", page {citation.page}"
    return rf"  \[{citation.marker}] [bold]{escape(citation.source)}[/bold]{page} [dim]{escape(citation.heading)}[/dim]"
