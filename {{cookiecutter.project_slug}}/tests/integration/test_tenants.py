"""Row-level security: whatever statement is run, a tenant sees, changes and adds its own rows and no others."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import store
from app.db.engine import Database, connect, migrate
from app.db.verify import verify
from app.errors import DatabaseUnavailable, NoDocuments
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.rag.retrieval import Retriever
from app.settings import Settings

# A row of each table with policies, whoever it is said to belong to.
ROWS = {
    "documents": """(tenant, source, title, media_type, content_hash, text, origin, recipe)
        VALUES (:tenant, 'new', '', '', '', '', '', '')""",
    "chunks": """(tenant, document_id, ordinal, start_char, end_char, heading, text, context, content_hash)
        SELECT :tenant, id, 99, 0, 0, '', '', '', '' FROM documents""",
    "postings": "(tenant, term, chunk_id, frequency, length) SELECT :tenant, 'new', id, 1, 1 FROM chunks",
    "index_stamps": "(tenant, embedding_model, dimensions, ready) VALUES (:tenant, 'new', 1, true)",
    "embeddings": """(stamp_id, chunk_id, tenant, dimensions, embedding)
        SELECT s.id, c.id, :tenant, 1, '[1]' FROM index_stamps s, chunks c""",
    "chunk_contexts": "(tenant, key, source, context) VALUES (:tenant, 'new', '', '')",
    "answers": """(id, tenant, question, text, abstained, model, prompt_hash, input_tokens, output_tokens,
        usage_estimated, latency_ms, citations, rejected, passages)
        VALUES (gen_random_uuid(), :tenant, '', '', false, '', '', 0, 0, false, 0, '[]', '[]', '[]')""",
}
OWNER = "plain_owner"


async def fill(database: Database, gateway: Gateway, settings: Settings) -> None:
    """A document, a context and an answer."""
    async with Ingester(database, gateway, settings) as ingester:
        await ingester.ingest(f"# Heron\n\nThe heron of {database.tenant}.".encode(), source="heron.md")
    async with database.transaction() as connection:
        for table in ("chunk_contexts", "answers"):
            await connection.execute(text(f"INSERT INTO {table} {ROWS[table]}"), {"tenant": database.tenant})


@pytest.fixture
async def mine(database: Database, gateway: Gateway, settings: Settings) -> Database:
    """The database of a tenant with rows in every table; so has the tenant named other."""
    for tenant in (database.for_tenant("other"), database.for_tenant("mine")):
        await fill(tenant, gateway, settings)
    return database.for_tenant("mine")


async def owners(connection: AsyncConnection, table: str) -> set[str]:
    """Whose rows can be seen."""
    return set(await connection.scalars(text(f"SELECT tenant FROM {table}")))


@pytest.mark.parametrize("table", ROWS)
async def test_rows_of_another_tenant_do_not_exist(mine: Database, table: str) -> None:
    """Read, changed, deleted or added: no statement reaches them, and none can give a row away."""
    async with mine.transaction() as connection:
        assert await owners(connection, table) == {"mine"}
        changed = await connection.execute(text(f"UPDATE {table} SET tenant = tenant"))
        assert changed.rowcount == len(list(await connection.scalars(text(f"SELECT 1 FROM {table}"))))
    for statement in (f"INSERT INTO {table} {ROWS[table]}", f"UPDATE {table} SET tenant = :tenant"):
        with pytest.raises(DBAPIError, match="row-level security"):
            await run(mine, statement)
    async with mine.transaction() as connection:
        await connection.execute(text(f"DELETE FROM {table}"))
    async with mine.for_tenant("other").transaction() as connection:
        assert await owners(connection, table) == {"other"}


async def run(database: Database, statement: str) -> None:
    """Run it with the other tenant's name."""
    async with database.transaction() as connection:
        await connection.execute(text(statement), {"tenant": "other"})


@pytest.mark.parametrize("table", ROWS)
async def test_without_its_policy_a_table_would_show_everything(mine: Database, table: str) -> None:
    """What the other tests see is the policy's work: where it is taken away, they would fail."""
    async with mine.engine.connect() as connection:
        await connection.begin()
        await connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
        await connection.execute(text("SELECT set_config('app.tenant', 'mine', true)"))
        await connection.execute(text("SET LOCAL ROLE app_tenant"))
        assert await owners(connection, table) == {"mine", "other"}
        await connection.rollback()


async def test_without_a_tenant_nothing_is_there(mine: Database) -> None:
    """Who forgets to say which tenant it is gets no rows, and can add none."""
    async with mine.engine.connect() as connection:
        await connection.begin()
        await connection.execute(text("SET LOCAL ROLE app_tenant"))
        for table in ROWS:
            assert await owners(connection, table) == set()
        with pytest.raises(DBAPIError, match="row-level security"):
            await connection.execute(text(f"INSERT INTO index_stamps {ROWS['index_stamps']}"), {"tenant": "mine"})
        await connection.rollback()


async def test_the_tenant_and_the_role_end_with_the_transaction(mine: Database) -> None:
    """The next user of the same connection is nobody until it says who it is."""
    async with mine.engine.begin() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    async with mine.transaction() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) == pid
        assert await connection.scalar(text("SELECT current_user")) == "app_tenant"
    async with mine.engine.begin() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) == pid
        assert not await connection.scalar(text("SELECT current_setting('app.tenant', true)"))
        assert await connection.scalar(text("SELECT current_user <> 'app_tenant'"))


async def test_a_tenant_may_not_touch_the_schema(mine: Database) -> None:
    """The role of a transaction changes rows, and neither tables nor the record of the migrations."""
    for statement in (
        "DROP TABLE answers",
        "ALTER TABLE answers DISABLE ROW LEVEL SECURITY",
        "DROP POLICY of_its_tenant ON answers",
        "DELETE FROM alembic_version",
    ):
        with pytest.raises(DatabaseUnavailable):  # no rights
            await run(mine, statement)


async def test_each_tenant_searches_and_verifies_its_own(mine: Database, gateway: Gateway, settings: Settings) -> None:
    """The same source holds another text for each; search, list, verify and clear keep to their tenant."""
    other = mine.for_tenant("other")
    for tenant in (mine, other):
        [passage] = await Retriever(tenant, gateway, settings).retrieve("Whose heron is it?")
        assert f"of {tenant.tenant}" in passage.text
        assert not any(check.faults for check in await verify(tenant))
        async with tenant.transaction() as connection:
            assert len(await store.list_documents(connection, tenant.tenant)) == 1
    async with Ingester(other, gateway, settings) as theirs:
        await theirs.clear()
    with pytest.raises(NoDocuments):
        await Retriever(other, gateway, settings).retrieve("heron")
    async with mine.transaction() as connection:
        assert list(await store.read_texts(connection, "mine")) == ["heron.md"]


async def test_a_vector_cannot_be_hung_on_another_tenants_chunk(mine: Database) -> None:
    """Keys lead only to rows that can be seen: a guessed number is refused or finds nothing."""
    async with mine.for_tenant("other").transaction() as connection:
        theirs = await connection.scalar(text("SELECT min(id) FROM chunks"))
    async with mine.transaction() as connection:
        rows = await connection.execute(text("DELETE FROM chunks WHERE id = :id"), {"id": theirs})
        assert rows.rowcount == 0


@pytest.fixture
async def plain(database_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database whose owner is no superuser and may make no roles."""
    async with connect(database_url) as server:
        engine = server.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in (
                f"DROP DATABASE IF EXISTS {OWNER} WITH (FORCE)",
                f"DROP ROLE IF EXISTS {OWNER}",
                f"CREATE ROLE {OWNER} LOGIN PASSWORD 'canary'",
                f"CREATE DATABASE {OWNER} OWNER {OWNER}",
            ):
                await connection.execute(text(statement))
            url = make_url(database_url)
            theirs = url.set(database=OWNER).render_as_string(hide_password=False)
            async with connect(theirs) as inside, inside.engine.begin() as superuser:
                await superuser.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
            owned = url.set(database=OWNER, username=OWNER, password="canary").render_as_string(hide_password=False)
            await migrate(owned)
            yield owned
            await connection.execute(text(f"DROP DATABASE {OWNER} WITH (FORCE)"))
            await connection.execute(text(f"DROP ROLE {OWNER}"))


async def test_the_tables_owner_is_bound_as_well(
    plain: str, gateway: Gateway, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database user that can take on no other role is held by the policies itself, and everything works."""
    monkeypatch.chdir(tmp_path)
    async with connect(plain) as database:
        for tenant in (database.for_tenant("mine"), database.for_tenant("other")):
            await fill(tenant, gateway, settings)
            assert not any(check.faults for check in await verify(tenant))
        async with database.for_tenant("mine").transaction() as connection:
            assert await connection.scalar(text("SELECT current_user")) == OWNER
            for table in ROWS:
                assert await owners(connection, table) == {"mine"}
        with pytest.raises(DBAPIError, match="row-level security"):
            await run(database.for_tenant("mine"), f"INSERT INTO index_stamps {ROWS['index_stamps']}")
        async with database.engine.begin() as connection:
            assert await owners(connection, "documents") == set()
