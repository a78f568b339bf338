"""`app keys`, and the commands that docs/howto/api-keys.md shows."""

import asyncio
import os
import re
import secrets
import shlex
import subprocess
from pathlib import Path

import pytest

from app.db.engine import connect
from app.db.keys import ApiKey, find_key
from tests.conftest import PROJECT
from tests.integration.conftest import Command
from tests.integration.keyed import PEPPER
from tests.integration.test_keys import SHAPE

HOWTO = (PROJECT / "docs" / "howto" / "api-keys.md").read_text(encoding="utf-8")
SHOWN = [line.strip() for block in re.findall(r"```sh\n(.*?)```", HOWTO, re.DOTALL) for line in block.splitlines()]
COMMANDS = [found[1] for line in SHOWN if (found := re.search(r"\.venv/bin/(app [^)]+)", line))]


@pytest.fixture
def keys(app: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line with a secret to hash keys with, and `app keys` before each command."""
    monkeypatch.setenv("API_KEY_SECRET", PEPPER.get_secret_value())
    return lambda *arguments, **given: app("keys", *arguments, **given)


async def _find(url: str, key: str) -> ApiKey | None:
    async with connect(url) as database, database.across_tenants() as connection:
        return await find_key(connection, key, PEPPER)


async def _end_all(url: str) -> None:
    async with connect(url) as database, database.across_tenants() as connection:
        await connection.exec_driver_sql("UPDATE api_keys SET expires_at = '2020-02-02 12:00Z'")


def test_a_key_is_printed_once_and_alone(keys: Command, migrated_url: str) -> None:
    """Standard output is the key, to be piped; what it is for is on standard error, which does not show it."""
    made = keys("create", "shop", "--tenant", "acme", "--scope", "chat", "--expires", "30")
    assert made.status == 0
    assert SHAPE.fullmatch(made.out)
    assert made.out.partition(".")[2] not in made.err
    assert "a key of shop in the tenant acme for chat; it expires in 30 days" in made.err
    found = asyncio.run(_find(migrated_url, made.out))
    assert found
    assert found.expires_at
    assert (found.tenant, found.name, found.scopes) == ("acme", "shop", ["chat"])
    assert (found.expires_at - found.created_at).days == 30


def test_without_scopes_a_key_asks_and_reads(keys: Command, migrated_url: str) -> None:
    """To change documents has to be allowed on purpose; and it lives until it is revoked."""
    made = keys("create", "shop")
    assert "it does not expire" in made.err
    found = asyncio.run(_find(migrated_url, made.out))
    assert found
    assert (found.scopes, found.expires_at, found.tenant) == (["chat", "documents:read"], None, "default")


def test_the_list_shows_every_key_and_no_secret(keys: Command) -> None:
    """Of each tenant, with what it may do and whether it is live."""
    assert keys("list").out == "there are no keys yet: `app keys create NAME` makes one"
    first = keys("create", "shop", "--expires", "1").out
    second = keys("create", "[b]till[/b]", "--tenant", "acme").out
    keys("revoke", second)
    shown = keys("list").out
    assert re.search(rf"{first.partition('.')[0]} +default +shop +chat +[\d-]+ +live until [\d-]+", shown)
    assert re.search(rf"{second.partition('.')[0]} +acme +\[b\]till\[/b\] +chat +[\d-]+ +revoked [\d-]+", shown)
    assert not any(key.partition(".")[2] in shown for key in (first, second))


def test_an_expired_key_is_listed_as_such(keys: Command, migrated_url: str) -> None:
    """With the day on which it ended."""
    keys("create", "shop", "--expires", "1")
    asyncio.run(_end_all(migrated_url))
    assert "expired 2020-02-02" in keys("list").out


def test_a_key_is_revoked_by_its_id_or_whole(keys: Command) -> None:
    """Who has only the whole key may paste it; the answer names the id."""
    first, second = keys("create", "shop").out, keys("create", "shop").out
    for given, key in ((first, first), (second.partition(".")[0], second)):
        told = keys("revoke", given)
        assert told == (0, f"revoked {key.partition('.')[0]} of shop in the tenant default", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("revoke", "aiapp_0.canary"), "there is no API key aiapp_0: `app keys list` shows them"),
        (("create", "shop", "--scope", "all"), "--scope is 'all'; it can be chat, documents:read, documents:write"),
        (("create", ""), "a key and a tenant have names of 1 to 100 characters that can be printed"),
    ],
)
def test_a_mistake_is_one_line(keys: Command, arguments: tuple[str, ...], told: str) -> None:
    """It says what there is, ends with 2, and prints no key."""
    assert keys(*arguments) == (2, "", f"error: {told}")


def test_a_third_key_is_refused(keys: Command) -> None:
    """With what to do first."""
    for _ in range(2):
        keys("create", "shop")
    assert keys("create", "shop").err.startswith("error: shop has 2 live keys: revoke")


def test_without_a_secret_there_are_no_keys(app: Command) -> None:
    """What keys are hashed with has to be set first."""
    ended = app("keys", "create", "shop")
    assert ended.status == 2
    assert ended.err.startswith("error: set API_KEY_SECRET first")


def test_help_explains_how_to_exchange_a_key(app: Command) -> None:
    """Without a gap: create, hand over, revoke."""
    told = " ".join(app("keys", "--help").out.split())
    assert "create the second with the same name, give it to the program, then revoke the first" in told


def test_the_commands_of_the_howto_work(keys: Command) -> None:
    """Each is run as it stands there, the id in it exchanged for that of the first key."""
    assert len(COMMANDS) == 6
    first = ""
    for line in COMMANDS:
        command = shlex.split(line.replace("aiapp_66245be1a8f4fafe", first))
        assert command[:2] == ["app", "keys"]
        ended = keys(*command[2:])
        assert ended.status == 0, (line, ended)
        first = first or ended.out.partition(".")[0]
    assert re.search(rf"{first} +default +shop .* revoked", keys("list").out)


def test_the_secret_of_the_howto_is_taken(keys: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that it adds to `.env` is one that the settings accept."""
    [line] = [line for line in SHOWN if ">> .env" in line]
    given = line.replace("$(openssl rand -hex 32)", secrets.token_hex(32))
    subprocess.run(["sh", "-c", given], check=True, env=os.environ)
    name, _, value = Path(".env").read_text(encoding="utf-8").strip().partition("=")
    monkeypatch.setenv(name, value)
    assert keys("create", "shop").status == 0
