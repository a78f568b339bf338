"""`app feedback`: what people thought of their answers, and cases for the evaluation made of it."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.commands.datasets import GateShare, Seed
from app.datasets.feedback import cases_of
from app.db import feedback
from app.db.engine import open_database
from app.errors import InvalidInput
from app.evals.dataset import DrawSplit, split_of, write_dataset
from app.session import out, start
from app.types import DEFAULT_TENANT

cli = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="What people thought of their answers.")
cli.add_typer(group, name="feedback", rich_help_panel="Evaluation")
MOST = 1_000  # at a time
Tenant = Annotated[str, typer.Option(help="Whose users.")]


@group.command("list")
def list_(
    tenant: Tenant = DEFAULT_TENANT, limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many at most.")] = 50
) -> None:
    """List feedback, newest first."""
    table = Table("when", "rating", "question", "comment", "correction", "exported")
    for said, answer in asyncio.run(_read(tenant, limit)):
        exported = f"{said.reviewed_at:%Y-%m-%d}" if said.reviewed_at else ""
        texts = map(escape, (answer.question, said.comment, said.correction))
        table.add_row(f"{said.created_at:%Y-%m-%d %H:%M}", said.rating, *texts, exported)
    out.print(table if table.row_count else f"nobody in the tenant {escape(tenant)} has said anything yet")


@group.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the drafts go; must not exist yet.")],
    tenant: Tenant = DEFAULT_TENANT,
    gate_share: GateShare = 0.5,
    seed: Seed = 0,
) -> None:
    """Make drafts of new feedback, for `app dataset review`.

    An answer rated down with a correction is a question with that as its
    reference; one rated up is a question with the answer as its reference.
    """
    if output.exists():
        raise InvalidInput(f"{output} exists already: name another, or remove it")
    made = asyncio.run(_export(output, tenant, partial(split_of, seed=seed, gate_share=gate_share)))
    if not made:
        out.print("there is no new feedback to learn from: nobody rated an answer up, or corrected one")
        raise typer.Exit(1)
    told = f"{made} drafts are in {output}; read them: `app dataset review {output} --dataset FILE`"
    out.print(escape(told), soft_wrap=True)


async def _read(tenant: str, limit: int) -> list[feedback.Rated]:
    async with open_database(start()) as database, database.for_tenant(tenant).transaction() as connection:
        return await feedback.read_rated(connection, tenant, limit=limit)


async def _export(output: Path, tenant: str, split: DrawSplit) -> int:
    """Written before it is marked: what is interrupted is exported again."""
    async with open_database(start()) as database, database.for_tenant(tenant).transaction() as connection:
        rated = await feedback.read_rated(connection, tenant, limit=MOST, to_review=True)
        if made := cases_of(rated, split):
            write_dataset(made, output)
            await feedback.mark_reviewed(connection, tenant, [said.id for said, _ in rated])
    return len(made)
