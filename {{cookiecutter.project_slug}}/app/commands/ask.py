"""`app ask` and `app ingest`: the documents, from the terminal. Knows nothing that the pipeline does not know."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.errors import InvalidInput
from app.rag.ingest import Ingester, IngestReport
from app.rag.loaders import find_files
from app.rag.pipeline import Pipeline
from app.session import err, opened, out, progress, usd
from app.types import Answer, Citation, TextDelta

cli = typer.Typer()


@cli.command(rich_help_panel="Documents")
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: Markdown, text, HTML, PDF.")],
    *,
    rebuild: Annotated[bool, typer.Option(help="Forget everything first: after a change of EMBEDDING_MODEL.")] = False,
) -> None:
    """Read documents into the index. What has not changed is skipped; exits with 1 if a file could not be read."""
    report = asyncio.run(_ingest(paths, rebuild=rebuild))
    out.print(_summary(report))
    if report.skipped:
        raise typer.Exit(1)


@cli.command(rich_help_panel="Documents")
def ask(
    question: Annotated[str, typer.Argument(help="In quotes; - reads it from standard input.")],
    ingest: Annotated[
        list[Path] | None, typer.Option(help="Bring the index up to date with this file or folder first.")
    ] = None,
) -> None:
    """Answer a question from the documents, with citations."""
    asyncio.run(_ask(sys.stdin.read() if question == "-" else question, ingest or []))


async def _ingest(paths: list[Path], *, rebuild: bool) -> IngestReport:
    files = list(find_files(paths))
    if not files:
        raise InvalidInput(f"there are no files in {', '.join(map(str, paths))}")
    async with opened() as parts:
        ingester = Ingester(*parts)
        if rebuild:
            await ingester.clear()
        return await _with_progress(ingester, files)


async def _with_progress(ingester: Ingester, files: list[Path]) -> IngestReport:
    with progress("reading documents", len(files)) as advance:
        return await ingester.ingest_files(files, on_file=lambda _: advance())


def _summary(report: IngestReport) -> str:
    counts = f"{len(report.unchanged)} unchanged, {len(report.skipped)} skipped"
    skipped = (escape(f"  skipped {source}: {reason}") for source, reason in report.skipped)
    return "\n".join([f"{len(report.added)} documents read ({report.chunks} chunks), {counts}", *skipped])


async def _ask(question: str, paths: list[Path]) -> None:
    files = list(find_files(paths))
    async with opened() as parts:
        if files:
            report = await _with_progress(Ingester(*parts), files)
            if report.added or report.skipped:
                err.print(f"[dim]{_summary(report)}[/dim]")
        await _say(Pipeline(*parts), question)


async def _say(pipeline: Pipeline, question: str) -> None:
    """Print the text as it comes, then its sources. Where it is cut, the error begins a line."""
    in_a_line = False
    try:
        async for event in pipeline.stream(question):
            if isinstance(event, TextDelta):
                out.print(event.text, end="", markup=False, highlight=False, soft_wrap=True)
                in_a_line = True
            elif isinstance(event, Answer):
                if in_a_line:
                    out.print()
                in_a_line = False
                _show_sources(event)
    finally:
        if in_a_line:
            out.print()


def _show_sources(answer: Answer) -> None:
    if answer.abstained:
        out.print(answer.text)
        for source in dict.fromkeys(p.source for p in answer.passages[:3]):
            out.print(f"[dim]  nearest: {escape(source)}[/dim]")
    for citation in answer.citations:
        out.print(_source_line(citation), soft_wrap=True, highlight=False)
    if answer.rejected:
        faults = ", ".join(rejected.fault for rejected in answer.rejected)
        out.print(f"[yellow]{len(answer.rejected)} citations did not hold and were left out: {faults}[/yellow]")
    note = f"{answer.notice} " if answer.notice else ""
    cost = usd(answer.cost_nanousd)
    out.print(f"[dim]{note}({answer.model}, {answer.latency_ms} ms, {cost})[/dim]", highlight=False, soft_wrap=True)


def _source_line(citation: Citation) -> str:
    return rf"  \[{citation.marker}] [bold]{escape(citation.source)}[/bold] [dim]{escape(citation.heading)}[/dim]"
