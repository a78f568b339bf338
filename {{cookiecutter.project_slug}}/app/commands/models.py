"""`app models`: which model plays which role, what is known of it, and whether it answers. Keys are never shown."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from app.gateway import litellm_adapter
from app.gateway.deployments import Deployment, resolve
from app.gateway.failures import Failure
from app.gateway.prices import Facts
from app.session import out, start

cli = typer.Typer()
MESSAGE = {"role": "user", "content": "Say ok."}
FEWEST_TOKENS = 16  # some models refuse to write fewer


@cli.command(rich_help_panel="Models")
def models(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Call each once, with the smallest request; the first also loads libraries.")
    ] = False,
) -> None:
    """Show the models of every role, in the order in which they are asked. --check exits with 1 if one fails."""
    if asyncio.run(_models(check=check)):
        raise typer.Exit(1)


async def _models(*, check: bool) -> bool:
    """Show each; whether one failed."""
    failed = False
    for role, deployments in resolve(start()).items():
        for place, deployment in enumerate(deployments, 1):
            out.print(f"[bold]{role} {place}: {escape(deployment.model)}[/bold]")
            table = Table.grid("", Column(overflow="fold"), padding=(0, 2))
            for name, value in _rows(deployment, await litellm_adapter.facts(deployment)):
                table.add_row(f"  {name}", escape(value))
            if check:
                problem, seconds = await _call(deployment)
                failed = failed or problem != ""
                said = f"[red]{escape(problem)}[/red]" if problem else f"[green]ok[/green], {seconds * 1_000:.0f} ms"
                table.add_row("  check", said)
            out.print(table)
    return failed


def _rows(deployment: Deployment, facts: Facts) -> Iterator[tuple[str, str]]:
    """What is worth knowing of a model, line by line."""
    settings, variable = deployment.settings, deployment.variable
    yield "set by", f"{variable}_MODEL"
    yield "endpoint", "this process" if deployment.is_offline else settings.api_base or "the provider's own"
    yield "key", "set" if deployment.api_key else "-"
    unknown = "text of any length" if deployment.is_offline else f"unknown: set {variable}_CONTEXT_TOKENS"
    yield "reads", f"{facts.context_tokens:,} tokens at once" if facts.context_tokens else unknown
    able = {"a JSON schema": facts.json_schema, "images": facts.images, "audio": facts.audio}
    yield "takes", ", ".join(["text", *(name for name, is_taken in able.items() if is_taken)])
    yield "costs", _costs(deployment, facts)
    waits = f"{settings.timeout_seconds:g} s to the first token, {settings.idle_seconds:g} s of silence"
    yield "limits", f"{settings.max_concurrency} calls at a time; {waits}"


def _costs(deployment: Deployment, facts: Facts) -> str:
    if not facts.priced:
        names = deployment.price_variables
        return f"unknown: calls have no cost, and are refused where a budget is set. Set {names}."
    prices = {"input": facts.input_price, "cached input": facts.cached_input_price, "output": facts.output_price}
    shown = ", ".join(f"${price:.6g} {name}" for name, price in prices.items() if price is not None)
    return f"{shown} per million tokens"


async def _call(deployment: Deployment) -> tuple[str, float]:
    """What is wrong with this one deployment, or nothing, and the seconds it took."""
    began = time.perf_counter()
    called: AsyncGenerator[object] = (
        litellm_adapter.embed(deployment, ["ok"])
        if deployment.role == "embedding"
        else litellm_adapter.complete(deployment, [MESSAGE], {"max_tokens": FEWEST_TOKENS})
    )
    try:
        async with asyncio.timeout(deployment.settings.timeout_seconds), aclosing(called):
            await anext(called)
    except Failure as failure:
        return failure.detail, 0.0
    except TimeoutError:
        limit = f"{deployment.variable}_TIMEOUT_SECONDS ({deployment.settings.timeout_seconds:g})"
        return f"no answer within {limit}", 0.0
    return "", time.perf_counter() - began
