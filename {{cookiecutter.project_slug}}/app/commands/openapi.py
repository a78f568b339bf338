"""`app openapi`: the description of the HTTP API, without a server or a database. Knows nothing of what it says."""

import json

import typer

from app.session import start

cli = typer.Typer()


@cli.command(rich_help_panel="Operation")
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API, which clients can be generated from."""
    from app.api.main import create_app  # noqa: PLC0415  # only here and in serve

    typer.echo(json.dumps(create_app(start()).openapi(), indent=2))
