"""`app keys`: make API keys, list them, and revoke them. A key is shown once, when it is made."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Annotated, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from app.db.engine import open_database
from app.db.keys import MOST_LIVE, ApiKey, NewKey, create_key, list_keys, revoke_key
from app.errors import ConfigurationError, InvalidInput
from app.session import err, out, start
from app.settings import Settings
from app.types import DEFAULT_TENANT, SCOPES, Scope

HELP = (
    "Make API keys, list them, and revoke them.\n\n"
    f"A name stands for a program or a person, and may have {MOST_LIVE} live keys. To exchange one without a gap: "
    "create the second with the same name, give it to the program, then revoke the first. What was stored under the "
    "name stays its own."
)
T = TypeVar("T")
USUAL = ["chat", "documents:read"]
SCOPE_NAMES = ", ".join(sorted(SCOPES))
cli = typer.Typer()
group = typer.Typer(no_args_is_help=True, help=HELP)
cli.add_typer(group, name="keys", rich_help_panel="Operation")


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use it: conversations and uploads belong to this name.")],
    tenant: Annotated[str, typer.Option(help="Whose documents it opens.")] = DEFAULT_TENANT,
    scope: Annotated[list[str], typer.Option(help=f"What it allows, once for each: {SCOPE_NAMES}.")] = USUAL,
    expires: Annotated[int | None, typer.Option(help="Days until it ends; never by default.", min=1, max=3650)] = None,
) -> None:
    """Make a key, and print it alone on standard output; nothing can show it again."""
    settings, scopes = start(), _known(scope)
    if settings.api_key_secret is None:
        raise ConfigurationError("set API_KEY_SECRET first, for example to what `openssl rand -hex 32` prints")
    lifetime = None if expires is None else timedelta(days=expires)
    wanted = NewKey(tenant, name, scopes, lifetime)
    key = asyncio.run(_with_rows(settings, partial(create_key, pepper=settings.api_key_secret, wanted=wanted)))
    ends = "does not expire" if expires is None else f"expires in {expires} days"
    told = f"a key of {name} in the tenant {tenant} for {', '.join(sorted(scopes))}; it {ends}"
    err.print(escape(told), soft_wrap=True)
    err.print("send it as `Authorization: Bearer KEY`, and keep it safe: it is not shown again", soft_wrap=True)
    typer.echo(key)


@group.command("list")
def show() -> None:
    """Show every key of every tenant, without its secret."""
    keys = asyncio.run(_with_rows(start(), list_keys))
    out.print(_table(keys) if keys else "there are no keys yet: `app keys create NAME` makes one")


@group.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The part of the key before the dot.")]) -> None:
    """End a key. From the next request on nobody gets in with it."""
    key = asyncio.run(_with_rows(start(), partial(revoke_key, key_id=key_id.partition(".")[0])))
    out.print(escape(f"revoked {key.id} of {key.name} in the tenant {key.tenant}"), soft_wrap=True)


def _known(scopes: Sequence[str]) -> frozenset[Scope]:
    known = frozenset(scope for scope in SCOPES if scope in scopes)
    if unknown := set(scopes) - known:
        raise InvalidInput(f"--scope is {min(unknown)!r}; it can be {SCOPE_NAMES}")
    return known


async def _with_rows(settings: Settings, do: Callable[..., Awaitable[T]]) -> T:
    """What `do` makes of a connection that sees the keys of every tenant."""
    async with open_database(settings) as database, database.across_tenants() as connection:
        return await do(connection)


def _table(keys: Sequence[ApiKey]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("id", "tenant", "name", "scopes", "made on", "state"):
        table.add_column(column, no_wrap=column in {"id", "scopes", "made on"}, overflow="fold")
    for key in keys:
        made = f"{key.created_at:%Y-%m-%d}"
        table.add_row(key.id, escape(key.tenant), escape(key.name), "\n".join(key.scopes), made, _state(key))
    return table


def _state(key: ApiKey) -> str:
    if key.revoked_at:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if not key.expires_at:
        return "live"
    return f"{'live until' if key.live else 'expired'} {key.expires_at:%Y-%m-%d}"
