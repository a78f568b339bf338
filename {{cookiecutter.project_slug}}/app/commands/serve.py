"""`app serve` and `app migrate`: the server and its database. Knows nothing of what is served."""

import asyncio
from typing import Annotated

import typer
from rich.markup import escape

from app.db.engine import connect
from app.db.engine import migrate as run_migrations
from app.db.keys import list_keys
from app.db.vectors import tend
from app.errors import ConfigurationError
from app.gateway.deployments import Deployment, resolve
from app.session import err, out, start

cli = typer.Typer()


@cli.command(rich_help_panel="Operation")
def serve(
    host: Annotated[str | None, typer.Option(help="HOST by default.")] = None,
    port: Annotated[int | None, typer.Option(help="PORT by default.", min=0, max=65_535)] = None,
) -> None:
    """Serve the HTTP API and the chat page, until Ctrl-C or SIGTERM."""
    from app.api.serving import serve as run  # noqa: PLC0415  # only here

    settings = start()
    given = {"host": host, "port": port}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    roles = resolve(settings)

    def announce(url: str) -> None:
        err.print(f"{url}/ (the API is described by {url}/openapi.json)", soft_wrap=True, highlight=False)
        for role, deployments in roles.items():
            err.print(escape(f"  {role}: {', then '.join(map(_named, deployments))}"), soft_wrap=True, highlight=False)

    asyncio.run(run(settings, announce))


@cli.command(rich_help_panel="Operation")
def migrate() -> None:
    """Bring the schema of DATABASE_URL up to date, and tend the tables; its user has to be their owner.

    The built-in Postgres needs no such step.
    """
    settings = start()
    if settings.database_url is None:
        raise ConfigurationError("set DATABASE_URL; the built-in Postgres brings itself up to date")
    asyncio.run(_migrate(settings.database_url.get_secret_value()))
    out.print("the schema is up to date")


async def _migrate(url: str) -> None:
    """What the server may not do, as it is not the owner: the schema, and an index where a tenant has many vectors."""
    await run_migrations(url)
    async with connect(url) as database:
        async with database.across_tenants() as connection:
            tenants = {key.tenant for key in await list_keys(connection)}
        await tend(database, tenants={database.tenant, *tenants})


def _named(deployment: Deployment) -> str:
    base = deployment.settings.api_base
    return f"{deployment.model} at {base}" if base else deployment.model
