"""`app conversations`: delete what somebody has asked, and measure how follow-up questions are understood."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.commands.evals import DOCUMENTS, Dataset, Documents
from app.db import conversations
from app.db.engine import open_database
from app.session import opened, out, start
from app.types import DEFAULT_TENANT

if TYPE_CHECKING:
    from app.tuning.followups import Figures

cli = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="What people have asked: delete it, or measure follow-up questions.")
cli.add_typer(group, name="conversations", rich_help_panel="Documents")
FOLLOW_UPS = Path("evals/datasets/followups.jsonl")


@group.command()
def delete(
    owner: Annotated[str, typer.Option(help="Whose: the name of an API key; empty where the server needs none.")],
    tenant: Annotated[str, typer.Option(help="The tenant of that key.")] = DEFAULT_TENANT,
) -> None:
    """Delete all that somebody has asked: conversations, other answers, and the feedback on them."""
    held, said = asyncio.run(_delete(tenant, owner))
    out.print(escape(f"deleted {held} conversations and {said} answers of {owner or 'nobody in particular'}"))


@group.command()
def measure(dataset: Dataset = FOLLOW_UPS, documents: Documents = None) -> None:
    """Show whether follow-up questions find their documents, and whether other questions still do.

    Recall@5: a right document is among the first five passages. Right first:
    the answer cites one first. Every question should have an answer.

    Each is searched for alone, always with the question before it, and as the
    settings have it: rewritten by the chat model, or joined by a rule.
    """
    table = Table("searched for", "questions", "cases", "recall@5", "right first", "abstained")
    for one in asyncio.run(_measure(dataset, documents or DOCUMENTS)):
        shares = (one.found, one.right, one.abstained)
        kind = "that follow" if one.follows else "that stand alone"
        table.add_row(one.way, kind, str(one.cases), *(f"{share:.2f}" for share in shares))
    out.print(table)


async def _delete(tenant: str, owner: str) -> tuple[int, int]:
    async with open_database(start()) as database, database.for_tenant(tenant).transaction() as connection:
        return await conversations.delete_history(connection, tenant, owner)


async def _measure(dataset: Path, documents: list[Path]) -> "list[Figures]":
    from app.tuning import followups  # noqa: PLC0415  # what evaluates is slow to import

    cases = followups.load(dataset)
    async with opened() as parts:
        return await followups.compare(cases, documents, *parts)
