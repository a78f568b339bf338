"""`compose.yaml`: the roles that its script makes let the owner migrate and the application do all of its work."""

import asyncio
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.db.embedded import EmbeddedPostgres
from app.db.engine import connect, migrate
from app.db.roles import excessive_powers
from app.settings import Settings
from tests.conftest import PROJECT
from tests.integration.keyed import PEPPER, bearer, in_process, make_key

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
PATIENCE_SECONDS = 60
QUESTION = {"question": "How is green tea brewed?"}
TEA = b"# Tea\n\nGreen tea is brewed at eighty degrees for two minutes.\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own, since roles belong to a server; with the database and the owner that the image makes."""
    server = EmbeddedPostgres(tmp_path / "postgres", ("-c", "fsync=off"))
    server.start()
    named = SERVICES["database"]["environment"]
    psql(server, f"CREATE ROLE {named['POSTGRES_USER']} LOGIN SUPERUSER", user="postgres", database="postgres")
    psql(server, f"CREATE DATABASE {named['POSTGRES_DB']} OWNER owner", user="postgres", database="postgres")
    yield server
    server.stop()
    shutil.rmtree(server.home, ignore_errors=True)


def psql(server: EmbeddedPostgres, script: str, *, user: str, database: str, **environment: str) -> None:
    """Run a script as the image does: with Postgres' own client, to the first error."""
    url = make_url(server.url).set(username=user, database=database).render_as_string(hide_password=False)
    command = [str(server._programs() / "psql"), "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-f", "-", url]
    subprocess.run(command, input=script, text=True, check=True, capture_output=True, env=os.environ | environment)


def url_of(service: str, server: EmbeddedPostgres, **variables: str) -> str:
    """The DATABASE_URL that a service is given, on this server."""
    given = SERVICES[service]["environment"]["DATABASE_URL"]
    for name, value in variables.items():
        given = given.replace("$" + "{" + name + "}", value)
    url = make_url(given)
    return url.set(host=None, port=None, query=make_url(server.url).query).render_as_string(hide_password=False)


async def test_the_owner_migrates_and_the_application_serves(server: EmbeddedPostgres, tmp_path: Path) -> None:
    """With the roles of compose a server in production starts, reads an upload in the background, and answers."""
    passwords = {name: secrets.token_hex(16) for name in ("POSTGRES_PASSWORD", "APP_DATABASE_PASSWORD")}
    psql(server, COMPOSE["configs"]["roles"]["content"], user="owner", database="app", **passwords)
    await migrate(url_of("migrate", server, **passwords))
    settings = Settings(
        environment="production",
        database_url=SecretStr(url_of("app", server, **passwords)),
        api_key_secret=PEPPER,
        data_dir=tmp_path,
    )
    assert settings.database_url
    async with connect(settings.database_url.get_secret_value()) as database:
        key = bearer(await make_key(database))
        async with in_process(settings) as client, asyncio.timeout(PATIENCE_SECONDS):
            made = await client.post("/v1/documents", files={"file": ("tea.md", TEA)}, headers=key)
            assert made.status_code == 202, made.text
            while (upload := (await client.get(made.headers["location"], headers=key)).json())["status"] != "done":
                assert upload["status"] in {"queued", "running"}, upload
                await asyncio.sleep(0.05)
            answer = await client.post("/v1/ask", json=QUESTION, headers=key)
            assert (answer.status_code, answer.json()["abstained"]) == (200, False)
        async with database.transaction() as connection:
            assert await excessive_powers(connection) == []
            assert await connection.scalar(text("SELECT count(*) FROM inferences"))
    async with connect(server.url) as database, database.engine.connect() as connection:
        given = await connection.scalar(text("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"))
    assert str(given).startswith("SCRAM-SHA-256"), "whoever reached the server would be let in"


def test_no_secret_has_a_default() -> None:
    """What opens the database, and what keys are hashed with, has to be given: compose stops without it."""
    text_of_it = (PROJECT / "compose.yaml").read_text(encoding="utf-8")
    for name in ("POSTGRES_PASSWORD", "APP_DATABASE_PASSWORD", "API_KEY_SECRET"):
        assert "$" + "{" + name + ":?" in text_of_it
    assert ":-" not in text_of_it


def test_the_application_does_not_have_the_owners_password() -> None:
    """`.env` is given to the container as it is, so what the application must not know is taken away again."""
    assert SERVICES["app"]["environment"]["POSTGRES_PASSWORD"] == ""
    assert "POSTGRES_PASSWORD" not in SERVICES["app"]["environment"]["DATABASE_URL"]


def test_the_howto_names_every_secret() -> None:
    """What compose asks for is what the line for `.env` makes."""
    required = set(re.findall(r"\$\{(\w+):\?", (PROJECT / "compose.yaml").read_text(encoding="utf-8")))
    howto = (PROJECT / "docs" / "howto" / "deploy.md").read_text(encoding="utf-8")
    [names] = re.findall(r"for name in (.+?); do", howto)
    assert set(names.split()) == required
