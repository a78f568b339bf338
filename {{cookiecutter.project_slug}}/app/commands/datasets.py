"""`app dataset`: check, import, draft and review the questions that evaluation asks.

Knows how to show them and to ask about them; what they are made of is known to app/evals.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.prompt import Prompt
from rich.table import Column, Table

from app.datasets.drafting import Drafts, pick
from app.datasets.drafting import draft as draft_from
from app.datasets.importing import import_beir, import_csv
from app.errors import InvalidInput
from app.evals.dataset import Case, append_case, content_hash, load_dataset, split_of, write_dataset
from app.rag.ingest import source_of
from app.rag.parsing import Parser
from app.rag.quotes import locate
from app.rag.sources import find_files, read_file
from app.session import opened, out, progress, start

cli = typer.Typer()
group = typer.Typer(
    no_args_is_help=True,
    help="Build the questions that `app eval` asks. docs/howto/build-a-dataset.md says how to write good ones.",
)
cli.add_typer(group, name="dataset", rich_help_panel="Evaluation")

SHOWN_OF_A_HASH = 12
Seed = Annotated[int, typer.Option(help="What is drawn by chance is the same for the same seed.")]
GateShare = Annotated[
    float, typer.Option(min=0, max=1, help="How much goes into the gate split; the rest is for tuning.")
]


@group.command()
def check(
    file: Annotated[Path, typer.Argument(help="A dataset, JSONL.")],
    documents: Annotated[
        list[Path] | None, typer.Option(help="Also look whether they hold what the cases rest on; may be repeated.")
    ] = None,
) -> None:
    """Count the cases of a dataset by split and tag, and show its hash.

    Exits with 2 if lines are faulty, and names them; with 1 if a relevant
    document is not among --documents, or a quote does not stand in it. The hash
    is of what the cases say, whatever the order and the format of the lines.
    """
    cases = load_dataset(file).cases
    out.print(_counts(cases, file.stem))
    tags = Counter(tag for case in cases for tag in case.tags)
    out.print(escape(f"tags: {', '.join(f'{tag} {count}' for tag, count in tags.most_common()) or 'none'}"))
    wrong = list(_stale(cases, asyncio.run(_texts(cases, documents)))) if documents else []
    for line in wrong:
        out.print(escape(line), soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    if documents:
        out.print("every relevant document is there, and every quote stands in it")


@group.command("import")
def import_(
    given: Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder in the form of BEIR, or a CSV file.")],
    output: Annotated[Path, typer.Argument(help="The dataset to write; it must not exist yet.")],
    documents: Annotated[
        Path | None, typer.Option(help="Where a folder's corpus goes; default OUTPUT without its suffix.")
    ] = None,
    gate_share: GateShare = 0.5,
    seed: Seed = 0,
) -> None:
    """Make a dataset of a BEIR folder or of a CSV file.

    A folder holds corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv.
    Its corpus becomes one file a document. Queries without a relevant document
    are left out. Cases name documents as they are called from where you are:
    run `app eval --dataset OUTPUT --documents FOLDER` from here too.

    A CSV file has a row a case. Its columns are called id, split, question,
    answerable, relevant, evidence, reference, forbidden, tags and source. Only
    question is needed, and relevant or reference where there is an answer.
    Several values in one cell have a | between them. A grade follows its
    document (guide.md=2), and so do quotes (guide.md: words).
    """
    split = partial(split_of, seed=seed, gate_share=gate_share)
    _refuse_existing(output)
    if given.is_dir():
        folder = documents or output.with_suffix("")
        _refuse_existing(folder)
        made = import_beir(given, folder, split)
    else:
        made = import_csv(given, split)
    write_dataset(made.cases, output)
    out.print(_counts(made.cases, output.stem))
    if made.documents:
        out.print(escape(f"{made.documents:,} documents are in {folder}"), soft_wrap=True)
    for reason, count in made.left_out.items():
        out.print(f"left out: {count:,} {reason}")


@group.command()
def draft(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders and patterns to ask about.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the drafts go; must not exist yet.")],
    *,
    count: Annotated[int, typer.Option(min=1, help="How many chunks the model is shown, spread over the files.")] = 20,
    near_misses: Annotated[
        bool, typer.Option("--near-misses", help="Also draft questions that the documents do not answer.")
    ] = False,
    gate_share: GateShare = 0.5,
    seed: Seed = 0,
) -> None:
    """Let the chat model draft cases from documents, for `app dataset review`.

    It writes a question for each chunk, the quote that answers it and a short
    answer. What has no verbatim quote, or copies the text, is dropped. Each
    draft is written at once, so an interruption loses none.
    """
    _refuse_existing(output)
    split = partial(split_of, seed=seed, gate_share=gate_share)
    drafts = Drafts(partial(append_case, path=output), split)
    try:
        asyncio.run(_draft(paths, drafts, count=count, seed=seed, near_misses=near_misses))
    finally:
        for reason, dropped in drafts.dropped.items():
            out.print(escape(f"dropped {dropped}: {reason}"), soft_wrap=True)
        if drafts.kept:
            told = f"{len(drafts.kept)} drafts are in {output}; read them: `app dataset review {output} --dataset FILE`"
            out.print(escape(told), soft_wrap=True)
    if not drafts.kept:
        raise typer.Exit(1)


@group.command()
def review(
    drafts: Annotated[Path, typer.Argument(help="What `app dataset draft` wrote.")],
    dataset: Annotated[Path, typer.Option(help="Where accepted cases go; it is begun if it does not exist.")],
) -> None:
    """Read drafts one by one: accept, edit or reject each, or stop.

    What is accepted is added to the dataset at once, and leaves the drafts, as
    does what is rejected. The others can be reviewed another time.
    """
    if drafts.resolve() == dataset.resolve():
        raise InvalidInput("the drafts and the dataset are the same file")
    accepted = load_dataset(dataset).cases if dataset.exists() else ()
    left = [case for case in load_dataset(drafts).cases if case not in accepted]  # or interrupted between two writes
    while left:
        out.print(_shown(left[0], len(left)))
        key = Prompt.ask("accept, edit, reject or stop", choices=["a", "e", "r", "s"], console=out)
        if key == "s":
            break
        if key == "e":
            left[0] = _edited(left[0])
        elif key == "r" or _accept(left[0], dataset):
            left.pop(0)
        write_dataset(left, drafts)
    if left:
        out.print(escape(f"{len(left)} left in {drafts}"), soft_wrap=True)
    else:
        drafts.unlink()
        out.print("nothing is left to review; with --documents, `app dataset check` compares quotes that were edited")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InvalidInput(f"{path} exists already: name another, or remove it")


def _counts(cases: Sequence[Case], name: str) -> Table:
    table = Table("split", "cases", "with an answer", "without", "hash", title=escape(name))
    for split in ("tune", "gate", "all"):
        these = [case for case in cases if split in (case.split, "all")]
        answerable = sum(case.answerable for case in these)
        counts = map(str, (len(these), answerable, len(these) - answerable))
        table.add_row(split, *counts, content_hash(these)[:SHOWN_OF_A_HASH])
    return table


async def _texts(cases: Sequence[Case], documents: Sequence[Path]) -> dict[str, str]:
    """The text of each document that a case rests on, by source."""
    needed = {source for case in cases for source in case.relevant}
    settings = start()
    async with aclosing(Parser(settings)) as parser:

        async def read(file: Path) -> tuple[str, str]:
            source, data = read_file(file, max_bytes=settings.max_document_bytes)
            return source, (await parser.parse(data, source=source)).document.text

        return dict(await asyncio.gather(*(read(file) for file in find_files(documents) if source_of(file) in needed)))


def _stale(cases: Sequence[Case], texts: Mapping[str, str]) -> Iterator[str]:
    """What cases rest on and the documents do not hold."""
    for case in cases:
        yield from (f"{case.id}: there is no document {source}" for source in case.relevant if source not in texts)
        for one in case.evidence:
            if one.document in texts and not locate(one.quote, texts[one.document]):
                yield f"{case.id}: this does not stand in {one.document}: {one.quote}"


async def _draft(paths: Sequence[Path], drafts: Drafts, *, count: int, seed: int, near_misses: bool) -> None:
    skipped: list[str] = []
    async with opened() as (_, gateway, _):
        picked = await pick(list(find_files(paths)), gateway, skipped, count=count, seed=seed)
        for reason in skipped:
            out.print(escape(f"skipped {reason}"), soft_wrap=True)
        if not picked:
            raise InvalidInput(f"there is nothing to ask about in {', '.join(map(str, paths))}")
        with progress("drafting", len(picked)) as advance:
            await draft_from(picked, drafts, gateway, near_misses=near_misses, on_call=advance)


def _shown(case: Case, left: int) -> Table:
    """All that a person has to judge."""
    table = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    rows = [(f"{left} left", ", ".join((case.split, *case.tags))), ("question", case.question)]
    rows += [("quote", f"{one.quote} ({one.document})") for one in case.evidence]
    rows += [("answer", case.reference if case.answerable else "none: accept it only if no document answers it")]
    for name, value in rows:
        table.add_row(f"  {name}", escape(value))
    return table


def _edited(case: Case) -> Case:
    """Ask for each text; an empty line keeps it."""
    question = Prompt.ask("question", default=case.question, console=out)
    evidence = [
        one.model_copy(update={"quote": Prompt.ask("quote", default=one.quote, console=out)}) for one in case.evidence
    ]
    reference = Prompt.ask("answer", default=case.reference, console=out) if case.answerable else ""
    return case.model_copy(update={"question": question, "evidence": tuple(evidence), "reference": reference})


def _accept(case: Case, dataset: Path) -> bool:
    """Whether the dataset took it."""
    try:
        append_case(case, dataset)
    except InvalidInput as error:
        out.print(f"[red]{escape(error.message)}[/red]: edit or reject it", soft_wrap=True)
        return False
    return True
