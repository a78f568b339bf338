"""`app costs`: what the models' calls cost, from the ledger, and how much of today's budgets that is."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from app.db.engine import open_database
from app.db.ledger import SpendRow, spend
from app.session import out, start, usd
from app.settings import Settings

cli = typer.Typer()


@cli.command(rich_help_panel="Models")
def costs(
    days: Annotated[int, typer.Option(help="How many days back, today (UTC) among them.", min=1, max=3_650)] = 7,
) -> None:
    """Show what was spent, by day, role and model."""
    today = datetime.now(UTC).date()
    settings = start()
    rows = asyncio.run(_read(settings, today - timedelta(days=days - 1)))
    if not rows:
        out.print("no model was called in this time")
        return
    out.print(_table([row for row in rows if row.model]))
    if unpriced := sum(row.unpriced for row in rows):
        out.print(f"{unpriced:,} calls have no known price and are in no sum: `app models` names what to set")
    if hits := sum(row.cache_hits for row in rows):
        out.print(f"{hits:,} replies came from the cache and saved {usd(sum(row.saved_nanousd for row in rows))}")
    if settings.tenant_budget_usd is not None:
        for tenant, spent in _spent(row for row in rows if row.day == today).items():
            used = f"tenant {escape(tenant)} has used {usd(spent)} of today's ${settings.tenant_budget_usd:.6f}"
            out.print(used, soft_wrap=True)


async def _read(settings: Settings, since: date) -> list[SpendRow]:
    async with open_database(settings) as database, database.across_tenants() as connection:
        return await spend(connection, since)


def _table(rows: list[SpendRow]) -> Table:
    """A block a day, in it a line a role and model over all tenants; then the total. Narrow, for the models' names."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, show_footer=True)
    table.add_column("day, role", "total", no_wrap=True)
    table.add_column("model", overflow="fold")
    for name, total in zip(("calls", "input", "output", "cost"), _figures(rows), strict=True):
        table.add_column(name, total, justify="right", no_wrap=True)
    for day, of_day in groupby(sorted(rows, key=_group), attrgetter("day")):
        table.add_row(f"[bold]{day}[/bold]")
        for (_, role, model), same in groupby(of_day, _group):
            table.add_row(role, escape(model), *_figures(list(same)))
    return table


def _group(row: SpendRow) -> tuple[date, str, str]:
    return row.day, row.role, row.model


def _figures(rows: list[SpendRow]) -> tuple[str, str, str, str]:
    """Calls, tokens in and out, and the cost, as text."""
    calls, asked, said = (
        sum(getattr(row, name) for row in rows) for name in ("attempts", "input_tokens", "output_tokens")
    )
    unpriced = sum(row.unpriced for row in rows)
    cost = usd(sum(row.cost_nanousd for row in rows))
    return f"{calls:,}", f"{asked:,}", f"{said:,}", f"{cost}\n+ {unpriced:,} unknown" if unpriced else cost


def _spent(rows: Iterable[SpendRow]) -> dict[str, int]:
    """1e-9 US dollars by tenant."""
    spent: dict[str, int] = defaultdict(int)
    for row in rows:
        spent[row.tenant] += row.cost_nanousd
    return spent
