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
from app.db.roles import excessive_powers
from app.db.verify import verify
from app.errors import DatabaseUnavailable, NoDocuments
from app.gateway.gateway import Gateway
from app.rag.ingest import Ingester
from app.rag.retrieval import Retriever
from app.settings import Settings
from tests.integration.stored import keep

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
    "conversations": "(id, tenant, owner, title) VALUES (gen_random_uuid(), :tenant, '', '')",
    "feedback": """(id, tenant, owner, answer_id, rating)
        SELECT gen_random_uuid(), :tenant, gen_random_uuid(), id, 'up' FROM answers""",
    "uploads": """(id, tenant, owner, api_key_id, source, bytes, status)
        VALUES (gen_random_uuid(), :tenant, '', '', 'new', 0, 'queued')""",
    "api_keys": "(id, tenant, name, hash, scopes) VALUES (gen_random_uuid(), :tenant, '', '', '{}')",
    "rate_buckets": "(scope, kind, tenant, empty_at) VALUES (gen_random_uuid(), '', :tenant, now())",
    "stream_leases": "(scope, id, tenant, expires_at) VALUES ('', gen_random_uuid(), :tenant, now())",
    "idempotency_keys": "(tenant, owner, key, fingerprint) VALUES (:tenant, '', gen_random_uuid(), '')",
    "inferences": """(id, request_id, tenant, api_key_id, role, outcome, cached, started_at, duration_ms)
        VALUES (gen_random_uuid(), '', :tenant, '', '', '', '', now(), 0)""",
    "attempts": """(inference_id, number, tenant, model, outcome, detail, partial, estimated, input_tokens,
        output_tokens, cached_tokens, started_at, duration_ms)
        SELECT id, 1 + (random() * 1e9)::int, :tenant, '', '', '', false, false, 0, 0, 0, now(), 0 FROM inferences""",
    "budget_accounts": "(scope, day, tenant) VALUES (gen_random_uuid(), now(), :tenant)",
    "budget_reservations": """(scope, id, tenant, day, amount_nanousd, expires_at)
        VALUES ('', gen_random_uuid(), :tenant, now(), 0, now())""",
    "completions_cache": "(key, tenant, completion) VALUES (gen_random_uuid(), :tenant, '')",
    "semantic_cache": """(tenant, route, scope_hash, question, embedding, payload)
        VALUES (:tenant, '', '', '', '[1]', '')""",
}
OF_DOCUMENTS = ("documents", "chunks", "postings", "index_stamps", "embeddings", "chunk_contexts")
FILLED = [table for table in ROWS if table not in OF_DOCUMENTS[:-1]]  # the others are filled by reading a document
OF_NOBODY = {"alembic_version", "semantic_cache_routes"}
OWNER = "plain_owner"
EVERY_TABLE_OF_OURS = """
    SELECT c.relname AS name, c.relrowsecurity, c.relforcerowsecurity, count(p.policyname) AS policies,
        coalesce(array_agg(p.qual) || array_agg(p.with_check), '{}') AS clauses,
        EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant') AS has_tenant
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_policies p ON p.schemaname = n.nspname AND p.tablename = c.relname
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'jobs')
    GROUP BY c.oid
"""


async def fill(database: Database, gateway: Gateway, settings: Settings) -> None:
    """A row in each table."""
    await keep(database, gateway, settings, {"heron.md": f"# Heron\n\nThe heron of {database.tenant}."})
    async with database.transaction() as connection:
        for table in FILLED:
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
async def test_without_its_policy_a_table_would_show_everything(mine: Database, owner: Database, table: str) -> None:
    """What the other tests see is the policy's work: where it is taken away, they would fail."""
    assert mine
    async with owner.engine.connect() as connection:
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


async def test_across_tenants_there_are_all_rows_but_those_of_documents(mine: Database) -> None:
    """Whoever settles the ledger, looks up a key or removes what is old sees nobody else's documents."""
    async with mine.across_tenants() as connection:
        for table in ROWS:
            assert await owners(connection, table) == ({"mine"} if table in OF_DOCUMENTS else {"mine", "other"})
    for table in OF_DOCUMENTS:
        with pytest.raises(DBAPIError, match="row-level security"):
            async with mine.across_tenants() as connection:
                await connection.execute(text(f"UPDATE {table} SET tenant = 'other'"))


# What makes, changes or takes away anything but rows.
OF_THE_SCHEMA = (
    *("CREATE TABLE public.mine ()", "CREATE SCHEMA mine", "CREATE VIEW public.mine AS SELECT 1", "DROP TABLE answers"),
    *("ALTER TABLE answers DISABLE ROW LEVEL SECURITY", "ALTER TABLE answers OWNER TO CURRENT_USER"),
    *("DROP POLICY of_its_tenant ON answers", "CREATE POLICY all_of_it ON answers USING (true)", "TRUNCATE answers"),
    *("CREATE INDEX ON answers (text)", "DELETE FROM alembic_version", "CREATE ROLE mine", "DROP SCHEMA jobs CASCADE"),
    *("ALTER ROLE app_tenant BYPASSRLS", "ALTER TABLE jobs.procrastinate_jobs ADD mine int"),
)


@pytest.fixture
def _restricted(database_url: str, migrated_url: str) -> None:
    """The application has a user of its own."""
    if database_url == migrated_url:
        pytest.skip("the user of TEST_DATABASE_URL may make no other")


@pytest.mark.usefixtures("_restricted")
@pytest.mark.parametrize("statement", OF_THE_SCHEMA)
async def test_the_application_may_not_touch_the_schema(database: Database, statement: str) -> None:
    """It changes rows: in a tenant's transaction, across tenants, and with the rights that it logs in with."""
    for begin in (database.transaction, database.across_tenants, database.engine.begin):
        with pytest.raises((DatabaseUnavailable, DBAPIError), match=r"schema is missing|denied|must be (owner|able)"):
            async with begin() as connection:
                await connection.execute(text(statement))


@pytest.mark.usefixtures("_restricted")
async def test_the_application_is_nobody_special(database: Database) -> None:
    """No policy lets it pass: it is no superuser, owns no table, and is a member of no role that is or does."""
    async with database.engine.begin() as connection:
        assert await excessive_powers(connection) == []


@pytest.mark.usefixtures("_restricted")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM jobs.procrastinate_jobs",
        "INSERT INTO jobs.procrastinate_jobs (queue_name, task_name) VALUES ('', '')",
    ],
)
async def test_no_tenant_reaches_the_queue(database: Database, statement: str) -> None:
    """A job may be of any tenant, so no transaction of one can see or make it; who works them off can."""
    for begin in (database.transaction, database.across_tenants):
        with pytest.raises(DatabaseUnavailable):  # no rights
            async with begin() as connection:
                await connection.execute(text(statement))
    async with database.engine.connect() as connection:
        await connection.execute(text("SET LOCAL search_path TO jobs"))
        await connection.execute(text(statement))
        await connection.rollback()


async def test_every_table_is_of_its_tenants_alone(database: Database) -> None:
    """A table without a tenant is one of a few; each of the others has a forced policy, and a row in these tests."""
    async with database.engine.begin() as connection:
        rows = await connection.execute(text(EVERY_TABLE_OF_OURS))
        found = {row.name: row for row in rows}
    assert {name for name, row in found.items() if not row.has_tenant} == OF_NOBODY
    of_tenants = {name: row for name, row in found.items() if row.has_tenant}
    assert of_tenants.keys() == ROWS.keys()
    for name, row in of_tenants.items():
        assert (row.relrowsecurity, row.relforcerowsecurity, row.policies) == (True, True, 1), name
        assert all("app.tenant" in clause for clause in row.clauses), name
        assert ("app.every_tenant" in row.clauses[0]) == (name not in OF_DOCUMENTS), name


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
