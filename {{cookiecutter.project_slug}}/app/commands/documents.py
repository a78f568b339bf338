"""`app ingest`, `documents`, `verify` and `reembed`: what the index holds. Knows nothing that app/rag does not know."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from app.db import store
from app.db.engine import Database
from app.db.verify import Check
from app.db.verify import verify as verify_index
from app.errors import InvalidInput
from app.gateway.gateway import Gateway
from app.rag.ingest import ITS_OWN_FAULT, Ingester, IngestReport, Options, is_below, source_of
from app.rag.reembed import Reembedder
from app.rag.sources import find_files, read_stdin
from app.session import key_value, opened, out, progress
from app.settings import Settings

cli = typer.Typer()
Parts = tuple[Database, Gateway, Settings]

STDIN = "-"
WEB = ("https://", "http://")
REPAIRS = {
    "ingest": "read the documents again: `app ingest --rebuild PATH`",
    "reembed": "embed what is missing: `app reembed`; remove a model that is not used: `app reembed --drop MODEL`",
    "drop": "make the model's vectors anew: `app reembed --drop MODEL`, then `app reembed`",
}


@cli.command(rich_help_panel="Documents")
def ingest(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, patterns, https addresses; - is standard input.")],
    *,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What questions may be limited to; may be repeated.")
    ] = None,
    sync: Annotated[bool, typer.Option(help="Remove what is no longer in the folders.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be done.")] = False,
    rebuild: Annotated[bool, typer.Option(help="Read and embed what has not changed, too.")] = False,
    name: Annotated[str, typer.Option(help="What standard input is called.")] = "stdin",
) -> None:
    """Read documents into the index. What has not changed is left alone; exits with 1 if something was skipped."""
    began = time.monotonic()
    options = Options(dict(key_value(given, "--metadata") for given in metadata or []), again=rebuild, dry=dry_run)
    folders = [folder for folder in map(Path, paths) if folder.is_dir()]
    if sync and not folders:
        raise InvalidInput("--sync removes what is no longer in a folder: name one")
    report = asyncio.run(_ingest(paths, options, name=name, synced=folders if sync else []))
    out.print(_plan(report) if dry_run else f"{summary(report)}; {time.monotonic() - began:.1f} s", soft_wrap=True)
    _show_skipped(report)
    if report.skipped:
        raise typer.Exit(1)


@cli.command(rich_help_panel="Documents")
def documents() -> None:
    """List what can be asked about."""
    table = Table(*(Column(name, overflow="fold") for name in ("source", "title", "chunks", "origin", "metadata")))
    for stored in asyncio.run(_documents()):
        filed = ", ".join(f"{key}={value}" for key, value in stored.metadata.items())
        table.add_row(*map(escape, (stored.source, stored.title, str(stored.chunks), stored.origin, filed)))
    out.print(table)


@cli.command(rich_help_panel="Documents")
def verify() -> None:
    """Check that the index holds together. Changes nothing; exits with 1 if something is wrong."""
    checks = asyncio.run(_verify())
    table = Table("there are only", "but for")
    for check in checks:
        table.add_row(check.name, f"[red]{check.faults:,}[/red]" if check.faults else "0")
    out.print(table)
    wrong = dict.fromkeys(check.repair for check in checks if check.faults)
    for repair in wrong:
        out.print(REPAIRS[repair], soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    out.print("the index holds together")


@cli.command(rich_help_panel="Documents")
def reembed(
    drop: Annotated[str, typer.Option(metavar="MODEL", help="Remove this model's vectors instead.")] = "",
) -> None:
    """Embed every chunk with EMBEDDING_MODEL too, beside the model that serves; docs/howto/ingest.md says how."""
    out.print(asyncio.run(_drop(drop) if drop else _reembed()), soft_wrap=True)


async def bring_up_to_date(parts: Parts, paths: Sequence[str | Path]) -> IngestReport:
    """Read what is new in files and folders, with a progress bar.

    Raises:
        InvalidInput: a path does not exist, or there is nothing in it.

    """
    return await _read(parts, [str(path) for path in paths], Options(), name="")


def summary(report: IngestReport) -> str:
    """One line: how many documents, and what became of them."""
    read = len(report.added) + len(report.changed)
    return (
        f"{read} documents read ({len(report.added)} new, {len(report.changed)} changed; {report.chunks} chunks, "
        f"{report.embedded} embedded), {len(report.unchanged)} unchanged, {len(report.removed)} removed, "
        f"{len(report.skipped)} skipped"
    )


async def _ingest(paths: list[str], options: Options, *, name: str, synced: list[Path]) -> IngestReport:
    async with opened() as parts:
        return await _read(parts, paths, options, name=name, synced=synced)


async def _read(
    parts: Parts, paths: Sequence[str], options: Options, *, name: str, synced: Sequence[Path] = ()
) -> IngestReport:
    alone = [path for path in paths if path == STDIN or path.startswith(WEB)]
    files = list(find_files(Path(path) for path in paths if path not in alone))
    if not files and not alone:
        raise InvalidInput(f"there are no files in {', '.join(paths)}")
    present = _present(files, synced)
    with progress("reading documents", len(files) + len(alone)) as advance:
        async with Ingester(*parts) as ingester:
            report = await ingester.ingest_files(files, lambda _: advance(), options)
            for path in alone:
                await _read_one(ingester, path, report, parts[2], options, name=name)
                advance()
            if synced:
                below = [source_of(folder) for folder in synced]
                report.removed = await ingester.remove_missing(present, below, dry=options.dry)
    return report


def _present(files: Iterable[Path], synced: Sequence[Path]) -> set[str]:
    """The names of the files; an empty folder is rather a disk that is not mounted than one without documents."""
    present = {source_of(file) for file in files}
    for folder in synced:
        if not any(is_below(name, source_of(folder)) for name in present):
            raise InvalidInput(f"there are no files in {folder}: --sync would remove everything that came from it")
    return present


async def _read_one(
    ingester: Ingester, path: str, report: IngestReport, settings: Settings, options: Options, *, name: str
) -> None:
    """Standard input or an address."""
    try:
        if path == STDIN:
            _, data = await asyncio.to_thread(read_stdin, max_bytes=settings.max_document_bytes)
            one = await ingester.ingest(data, source=name, origin="stdin", options=options)
        else:
            from app.rag.fetch import fetch  # noqa: PLC0415  # only addresses need it

            fetched = await fetch(path, settings)
            one = await ingester.ingest(fetched.data, source=fetched.url, origin="url", options=options)
    except ITS_OWN_FAULT as error:
        report.skip(name if path == STDIN else path, error)
    else:
        report.add(one)


async def _documents() -> list[store.StoredDocument]:
    async with opened() as (database, _, _), database.transaction() as connection:
        return await store.list_documents(connection, database.tenant)


async def _verify() -> list[Check]:
    async with opened() as (database, _, _):
        async with database.transaction() as connection:
            total = len(await store.list_documents(connection, database.tenant))
        with progress("verifying", total) as advance:
            return await verify_index(database, advance)


async def _reembed() -> str:
    async with opened() as parts:
        reembedder = Reembedder(*parts)
        with progress("embedding chunks", await reembedder.count()) as advance:
            done = await reembedder.run(advance)
    return (
        f"{done.embedded} of {done.chunks} chunks were embedded with {done.model}, and all have its vector now: set "
        f"EMBEDDING_MODEL={done.model} where the application runs; when nothing uses the old model any more, "
        "`app reembed --drop OLD_MODEL`"
    )


async def _drop(model: str) -> str:
    async with opened() as parts:
        if not await Reembedder(*parts).drop(model):
            raise InvalidInput(f"the index holds no vectors of {model}")
    return f"the vectors of {model} are removed"


def _plan(report: IngestReport) -> str:
    """What a run without --dry-run would do, line by line."""
    plans = {"add": report.added, "change": report.changed, "remove": report.removed}
    lines = (f"  {verb} {escape(source)}" for verb, sources in plans.items() for source in sources)
    counts = ", ".join(f"{verb} {len(sources)}" for verb, sources in plans.items())
    return "\n".join([f"would {counts}, leave {len(report.unchanged)}, skip {len(report.skipped)}", *lines])


def _show_skipped(report: IngestReport) -> None:
    for source, reason in report.skipped:
        out.print(escape(f"  skipped {source}: {reason}"), soft_wrap=True)
