"""`app cache`: switch a route's semantic cache on, where that was measured to be safe, and off."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.db.engine import open_database
from app.errors import InvalidInput
from app.gateway import semantic_cache
from app.gateway.semantic_cache import Measurement
from app.rag import reuse
from app.session import opened, out, start

cli = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Serve an answer again where a question means the same.")
cli.add_typer(group, name="cache", rich_help_panel="Models")
ROUTES = (reuse.ROUTE,)


def _known(route: str) -> str:
    if route not in ROUTES:
        raise InvalidInput(f"--route is {route!r}; it can be {', '.join(ROUTES)}")
    return route


Route = Annotated[str, typer.Option(help=f"What the cache serves: {', '.join(ROUTES)}.", callback=_known)]


@group.command()
def measure(
    threshold: Annotated[float, typer.Option(help="From which cosine on two questions are the same.")],
    pairs: Annotated[Path, typer.Option(help='JSONL: {"a": question, "b": question, "same": bool} a line.')] = Path(
        "evals/datasets/same-question.jsonl"
    ),
    route: Route = "ask",
) -> None:
    """Count right and wrong hits among labelled pairs; switch the cache on where that is safe, else off and exit 1."""
    measured = asyncio.run(_measure(route, threshold, pairs))
    _show(measured)
    if not measured.is_safe:
        raise typer.Exit(1)


@group.command()
def off(route: Route = "ask") -> None:
    """Switch the cache off and forget its answers."""
    asyncio.run(_off(route))
    out.print(escape(f"the semantic cache of {route} is off"))


async def _measure(route: str, threshold: float, pairs: Path) -> Measurement:
    async with opened() as parts:
        return await semantic_cache.measure(*parts, route=route, threshold=threshold, pairs=pairs)


async def _off(route: str) -> None:
    async with open_database(start()) as database:
        await semantic_cache.off(database, route)


def _show(measured: Measurement) -> None:
    right = f"{measured.true_hits} of {measured.same} pairs that are the same would hit"
    wrong = f"{measured.false_hits} of {measured.different} that are not would hit wrongly"
    rate, most = measured.false_hit_rate, measured.false_hit_rate_at_most
    limit = f"SEMANTIC_CACHE_MAX_FALSE_HITS allows {measured.limit:.2%}"
    state = "[green]on[/green]" if measured.is_safe else "[red]off[/red]: more or other pairs, or a higher threshold"
    out.print(f"at {measured.threshold:g} with {escape(measured.embedding_model)}: {right}, {wrong}", soft_wrap=True)
    out.print(f"wrong hits: {rate:.2%}, and with 95 % certainty at most {most:.2%}; {limit}", soft_wrap=True)
    out.print(f"the semantic cache of {escape(measured.route)} is {state}", soft_wrap=True)
