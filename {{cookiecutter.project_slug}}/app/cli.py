"""The command line: ingest, ask, serve, eval, migrate. Each command opens what it needs and closes it again.

Errors are one line and a non-zero exit. Knows nothing that the pipeline or the API do not know.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.db.engine import Database, open_database
from app.db.engine import migrate as run_migrations
from app.errors import AppError, ConfigurationError, InvalidInput
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester, IngestReport
from app.rag.loaders import find_files
from app.rag.pipeline import Pipeline
from app.settings import Settings, load_settings
from app.telemetry import configure_logging
from app.types import Answer, Citation, TextDelta

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask questions about documents and get answers whose citations were checked.",
)
out = Console()
err = Console(stderr=True)


def main() -> NoReturn:
    """Run the command line; an error of ours is a sentence, not a traceback."""
    try:
        cli()
    except KeyboardInterrupt:
        err.print("interrupted; run it again to finish")
        sys.exit(130)
    except (AppError, OSError, UnicodeError) as error:
        message = error.message if isinstance(error, AppError) else str(error)
        err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
        sys.exit(2)
    sys.exit(0)


@cli.command()
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


@cli.command()
def ask(
    question: Annotated[str, typer.Argument(help="In quotes; - reads it from standard input.")],
    ingest: Annotated[
        list[Path] | None, typer.Option(help="Bring the index up to date with this file or folder first.")
    ] = None,
) -> None:
    """Answer a question from the documents, with citations."""
    asyncio.run(_ask(sys.stdin.read() if question == "-" else question, ingest or []))


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="HOST by default.")] = None,
    port: Annotated[int | None, typer.Option(help="PORT by default.", min=0, max=65_535)] = None,
) -> None:
    """Serve the HTTP API; its documentation is at /docs."""
    import uvicorn  # noqa: PLC0415  # only here

    from app.api.main import create_app  # noqa: PLC0415  # only here

    settings = load_settings()
    app = create_app(settings)
    host, port = host or settings.host, settings.port if port is None else port
    models = f"chat: {settings.chat_model}, embedding: {settings.embedding_model}"
    err.print(f"http://{host}:{port}/docs  ({models})", soft_wrap=True)
    uvicorn.run(app, host=host, port=port, log_config=None, timeout_graceful_shutdown=20)


@cli.command("eval")
def evaluate(
    dataset: Annotated[Path, typer.Option(help="JSONL, one case a line.")] = Path("evals/datasets/field-guide.jsonl"),
    documents: Annotated[
        list[Path] | None, typer.Option(help="What the cases ask about; default corpus and docs.")
    ] = None,
    split: Annotated[str, typer.Option(help="tune, gate or all.")] = "gate",
    thresholds: Annotated[Path, typer.Option(help="What the gate demands.")] = Path("evals/thresholds.toml"),
    reports: Annotated[Path, typer.Option(help="Where latest.json and latest.md go.")] = Path("evals/reports"),
) -> None:
    """Run the evaluation. Exits with 0 pass, 1 worse than the thresholds allow, 2 cannot judge."""
    raise typer.Exit(
        asyncio.run(_evaluate(dataset, documents or [Path("corpus"), Path("docs")], split, thresholds, reports))
    )


@cli.command()
def tune(
    dataset: Annotated[Path, typer.Option(help="JSONL, one case a line.")] = Path("evals/datasets/field-guide.jsonl"),
    documents: Annotated[
        list[Path] | None, typer.Option(help="What the cases ask about; default corpus and docs.")
    ] = None,
) -> None:
    """Show what each ABSTAIN_BELOW would answer and refuse, on the dataset's tune split."""
    asyncio.run(_tune(dataset, documents or [Path("corpus"), Path("docs")]))


@cli.command()
def migrate() -> None:
    """Bring the schema of DATABASE_URL up to date. The built-in Postgres needs no such step."""
    settings = _start()
    if settings.database_url is None:
        raise ConfigurationError("set DATABASE_URL; the built-in Postgres brings itself up to date")
    asyncio.run(run_migrations(settings.database_url.get_secret_value()))
    out.print("the schema is up to date")


def _start() -> Settings:
    settings = load_settings()
    configure_logging(settings)
    return settings


@asynccontextmanager
async def _opened() -> AsyncIterator[tuple[Database, Gateway, Settings]]:
    """Open the database while the models load: each takes a while and neither needs the other."""
    settings = _start()
    gateway = Gateway(settings)
    warming = asyncio.create_task(gateway.warm())
    try:
        async with open_database(settings) as database:
            yield database, gateway, settings
    finally:
        await warming


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error; give what advances it."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        yield partial(progress.advance, progress.add_task("", total=total))


async def _ingest(paths: list[Path], *, rebuild: bool = False) -> IngestReport:
    files = list(find_files(paths))
    if not files:
        raise InvalidInput(f"there are no files in {', '.join(map(str, paths))}")
    async with _opened() as opened:
        ingester = Ingester(*opened)
        if rebuild:
            await ingester.clear()
        return await _with_progress(ingester, files)


async def _with_progress(ingester: Ingester, files: list[Path]) -> IngestReport:
    with _progress("reading documents", len(files)) as advance:
        return await ingester.ingest_files(files, on_file=lambda _: advance())


def _summary(report: IngestReport) -> str:
    counts = f"{len(report.unchanged)} unchanged, {len(report.skipped)} skipped"
    skipped = (escape(f"  skipped {source}: {reason}") for source, reason in report.skipped)
    return "\n".join([f"{len(report.added)} documents read ({report.chunks} chunks), {counts}", *skipped])


async def _ask(question: str, paths: list[Path]) -> None:
    files = list(find_files(paths))
    async with _opened() as opened:
        if files:
            report = await _with_progress(Ingester(*opened), files)
            if report.added or report.skipped:
                err.print(f"[dim]{_summary(report)}[/dim]")
        in_a_line = False
        async for event in Pipeline(*opened).stream(question):
            if isinstance(event, TextDelta):
                out.print(event.text, end="", markup=False, highlight=False, soft_wrap=True)
                in_a_line = True
            elif isinstance(event, Answer):
                if in_a_line:
                    out.print()
                _show_sources(event)


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
    cost = "price unknown" if answer.cost_nanousd is None else f"${answer.cost_nanousd / 1e9:.6f}"
    note = f"{answer.notice} " if answer.notice else ""
    out.print(f"[dim]{note}({answer.model}, {answer.latency_ms} ms, {cost})[/dim]", highlight=False, soft_wrap=True)


def _source_line(citation: Citation) -> str:
    return rf"  \[{citation.marker}] [bold]{escape(citation.source)}[/bold] [dim]{escape(citation.heading)}[/dim]"


async def _evaluate(dataset: Path, documents: list[Path], split: str, thresholds: Path, reports: Path) -> int:
    from app.evals import gate, report, runner  # noqa: PLC0415  # half a second that other commands do not need
    from app.evals.dataset import load_dataset  # noqa: PLC0415  # as above

    if split not in {"tune", "gate", "all"}:
        raise InvalidInput(f"--split is {split!r}; it can be tune, gate or all")
    cases = load_dataset(dataset, None if split == "all" else split)  # type: ignore[arg-type]  # just checked
    demanded = gate.load_thresholds(thresholds)
    async with _opened() as opened:
        with _progress("asking", len(cases.cases)) as advance:
            run = await runner.run(cases, documents, *opened, on_case=advance)
    decision = gate.decide(run, demanded)
    out.print(report.table(run, demanded))
    for reason in decision.reasons:
        out.print(f"[red]{escape(reason)}[/red]")
    report.write(run, demanded, decision, reports)
    out.print(f"{report.VERDICTS[decision.verdict]}; every case is in {reports / 'latest.json'}")
    return int(decision.verdict)


async def _tune(dataset: Path, documents: list[Path]) -> None:
    from app.evals.dataset import load_dataset  # noqa: PLC0415  # slow, and only here
    from app.evals.tune import sweep  # noqa: PLC0415  # slow, and only here

    cases = load_dataset(dataset, "tune")
    async with _opened() as (database, gateway, settings):
        points = await sweep(cases, documents, database, gateway, settings)
    table = Table("ABSTAIN_BELOW", "answered", "abstained", "balanced", title=f"{cases.name}, tune split")
    best = max(points, key=lambda point: point.balanced)
    for point in points:
        row = (f"{point.threshold:.3f}", *(f"{v:.2f}" for v in (point.answered, point.abstained, point.balanced)))
        table.add_row(*row, style="bold green" if point is best else None)
    out.print(table)
    out.print(f"best here: {best.threshold:.3f}; set now: {settings.abstain_below:.3f}")
