"""The database: migrations, connections that fail, and the built-in Postgres with more than one user."""

import asyncio
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine

from app.db import embedded, stamps, store
from app.db import verify as verifying
from app.db.embedded import EmbeddedPostgres
from app.db.engine import MIGRATIONS, Database, connect, migrate, open_database
from app.db.store import Embedded
from app.db.tables import metadata
from app.db.vectors import tend
from app.db.verify import verify
from app.errors import ConfigurationError, DatabaseUnavailable
from app.settings import Settings
from app.types import Chunk, Document
from tests.conftest import PROJECT

PATIENCE_SECONDS = 20
# Uses the Postgres in its first argument until its standard input ends.
USER = """
import sys
from pathlib import Path
from app.db.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""


def differences(connection: Connection) -> list[object]:
    """What Alembic would change to make the database equal to `tables.py`."""
    options = {"compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def tables(connection: Connection) -> set[str]:
    """The names of the tables."""
    return set(inspect(connection).get_table_names())


def move(url: str, revision: str, direction: Callable[[Config, str], None] = command.downgrade) -> None:
    """Bring the schema to a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    direction(config, revision)


@pytest.fixture
async def empty_url(database_url: str) -> AsyncIterator[str]:
    """The URL of a database without a schema."""
    async with connect(database_url) as server:
        engine = server.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text("DROP DATABASE IF EXISTS scratch WITH (FORCE)"))
            await connection.execute(text("CREATE DATABASE scratch"))
            url = make_url(database_url).set(drivername="postgresql+psycopg", database="scratch")
            yield url.render_as_string(hide_password=False)
            await connection.execute(text("DROP DATABASE scratch WITH (FORCE)"))


async def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    """Columns, types, defaults, keys and indexes of the migrated database are those of `tables.py`."""
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_migrations_can_be_undone_and_done_again(empty_url: str) -> None:
    """Up, down and up again leaves the same schema, and down leaves nothing."""
    async with connect(empty_url) as database:
        await migrate(empty_url)
        await asyncio.to_thread(move, empty_url, "base")
        async with database.engine.connect() as connection:
            assert await connection.run_sync(tables) == {"alembic_version"}
        await migrate(empty_url)
        async with database.engine.connect() as connection:
            assert await connection.run_sync(differences) == []


# Documents as version 0003 had them: of two tenants, in two chunks and none, and a chunk without a term or a heading.
OLD_DATA = """
    INSERT INTO documents (tenant, source, title, media_type, content_hash, text) VALUES
        ('default', 'a.md', 'A', 'text/markdown', 'h', 'A heron. The the.'), ('default', 'none.md', '', '', '', ' '),
        ('other', 'a.md', 'A', 'text/markdown', 'h', 'An otter.');
    INSERT INTO chunks (tenant, document_id, ordinal, start_char, end_char, heading, text, length, embedding)
        SELECT tenant, id, 0, 0, length(said), 'A', said, 1, '[1,2]'::halfvec FROM documents
            JOIN (VALUES ('other', 'An otter.'), ('default', 'A heron.')) AS says(tenant, said) USING (tenant)
        WHERE source = 'a.md'
        UNION ALL SELECT tenant, id, 1, 9, 17, '', 'The the.', 0, '[3,4]' FROM documents
        WHERE source = 'a.md' AND tenant = 'default';
    INSERT INTO postings (tenant, term, chunk_id, frequency)
        SELECT tenant, CASE tenant WHEN 'other' THEN 'otter' ELSE 'heron' END, id, 1 FROM chunks WHERE ordinal = 0;
    INSERT INTO index_stamps (tenant, embedding_model, dimensions) VALUES ('default', 'm', 2), ('other', 'm', 2)
"""
OLD_TABLES = {
    "documents": "tenant, source, text",
    "chunks": "tenant, ordinal, heading, text, length, embedding::text",
    "postings": "tenant, term, frequency",
    "index_stamps": "tenant, embedding_model, dimensions",
}


async def test_documents_outlive_the_migration_to_row_level_security(empty_url: str) -> None:
    """What version 0003 has stored is whole after the upgrade, for each tenant, and as it was after the way back."""

    async def stored(database: Database) -> dict[str, list[tuple[object, ...]]]:
        async with database.engine.begin() as connection:
            found = {
                table: await connection.execute(text(f"SELECT {columns} FROM {table}"))
                for table, columns in OLD_TABLES.items()
            }
            return {table: sorted(map(tuple, rows)) for table, rows in found.items()}

    await asyncio.to_thread(move, empty_url, "0003", command.upgrade)
    async with connect(empty_url) as database:
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(OLD_DATA)
        before = await stored(database)
        await migrate(empty_url)
        for tenant in (database, database.for_tenant("other")):
            assert [check for check in await verify(tenant) if check.faults] == []
        async with database.transaction() as connection:
            [hash_] = await connection.scalars(text("SELECT content_hash FROM chunks WHERE ordinal = 0"))
            assert hash_ == store.hash_text("A\nA heron.")
            assert (await store.known_vectors(connection, "default", 1, [hash_])) == {hash_: [1, 2]}
            again = await stamps.check_stamp(connection, "default", "m", 2)
            await store.replace_documents(
                *(connection, again, "default"),
                [Embedded(Document("b.md", "B", "Text.", "text/plain", "h"), [Chunk(0, 0, 5, "B", "Text.")], [[5, 6]])],
                recipe="r",
            )
            await store.delete_sources(connection, "default", ["b.md"])
        await asyncio.to_thread(move, empty_url, "0003")
        assert await stored(database) == before


# Calls as version 0004 had them: of two tenants, with budgets of each, of a key that made one of them, and of another.
OLD_CALLS = """
    INSERT INTO inferences (id, request_id, tenant, api_key_id, role, outcome, cached, started_at, duration_ms)
        SELECT gen_random_uuid(), '', tenant, key, 'chat', 'ok', '', now(), 1
        FROM (VALUES ('default', ''), ('other', 'k1')) AS calls(tenant, key);
    INSERT INTO attempts (inference_id, number, model, outcome, detail, partial, estimated, input_tokens,
        output_tokens, cached_tokens, started_at, duration_ms)
        SELECT id, 1, tenant, 'ok', '', false, false, 0, 0, 0, now(), 1 FROM inferences;
    INSERT INTO budget_accounts (scope, day, spent_nanousd)
        SELECT scope, '2026-11-20', 7 FROM unnest(ARRAY['tenant:other', 'key:k1', 'key:k2']) AS s(scope);
    INSERT INTO budget_reservations (scope, id, day, amount_nanousd, expires_at)
        SELECT scope, gen_random_uuid(), day, 3, now() FROM budget_accounts;
    INSERT INTO answers (id, tenant, question, text, abstained, model, prompt_hash, input_tokens, output_tokens,
        usage_estimated, latency_ms, citations, rejected, passages)
        SELECT id, tenant, 'old', '', false, '', '', 0, 0, false, 0, '[]', '[]', '[]' FROM inferences;
    INSERT INTO completions_cache (key, tenant, completion) SELECT tenant, tenant, 'x' FROM inferences
"""
OF_CALLS = ("inferences", "attempts", "budget_accounts", "budget_reservations", "answers", "completions_cache")
NEW_DATA = """
    INSERT INTO conversations (id, tenant, owner, title) VALUES (gen_random_uuid(), 'other', 'me', 'old');
    UPDATE answers SET owner = 'me', conversation_id = (SELECT id FROM conversations) WHERE tenant = 'other';
    INSERT INTO feedback (id, tenant, owner, answer_id, rating) SELECT id, tenant, 'me', id, 'up' FROM answers;
    SET LOCAL search_path TO jobs;
    INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('default', 'ingest')
"""


async def test_calls_outlive_the_migration_that_gives_every_row_a_tenant(empty_url: str) -> None:
    """Attempts and budgets belong to whom their call did, answers stay; on the way back only what is new goes."""

    async def stored(database: Database) -> dict[str, list[str]]:
        async with database.engine.begin() as connection:
            rows = {table: await connection.scalars(text(f"SELECT t::text FROM {table} t")) for table in OF_CALLS}
            return {table: sorted(found) for table, found in rows.items()}

    await asyncio.to_thread(move, empty_url, "0004", command.upgrade)
    async with connect(empty_url) as database:
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(OLD_CALLS)
        before = await stored(database)
        await migrate(empty_url)
        async with database.across_tenants() as connection:
            models = await connection.execute(text("SELECT tenant, model FROM attempts"))
            assert sorted(map(tuple, models)) == [("default", "default"), ("other", "other")]
            for table in ("budget_accounts", "budget_reservations"):
                whose = await connection.execute(text(f"SELECT scope, tenant FROM {table}"))
                assert dict(map(tuple, whose)) == {"tenant:other": "other", "key:k1": "other", "key:k2": "default"}
        async with database.transaction() as connection:
            for table in OF_CALLS:
                assert set(await connection.scalars(text(f"SELECT tenant FROM {table}"))) == {"default"}
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(NEW_DATA)
        await asyncio.to_thread(move, empty_url, "0004")
        assert await stored(database) == before
        async with database.engine.begin() as connection:
            assert await connection.scalar(text("SELECT to_regnamespace('jobs') IS NULL"))
            assert not {"api_keys", "conversations", "feedback", "uploads"} & await connection.run_sync(tables)
        await migrate(empty_url)


async def store_vectors(database: Database) -> None:
    """A document of four chunks, with vectors of three numbers."""
    async with database.transaction() as connection:
        stamp = await stamps.check_stamp(connection, database.tenant, "a/model", 3)
        parts = [Chunk(n, n, n + 1, "", "x") for n in range(4)]
        document = Document("a.md", "", "xxxx", "text/plain", "h")
        vectors = [[1.0, n, 0.0] for n in range(4)]
        await store.replace_documents(
            connection, stamp, database.tenant, [Embedded(document, parts, vectors)], recipe=""
        )


async def test_no_index_waits_for_what_a_policy_forbids(database: Database) -> None:
    """Below row-level security no filter on metadata uses an index, as its operator may leak: it would only cost."""
    async with database.engine.connect() as connection:
        kinds = await connection.scalars(text("SELECT indexdef FROM pg_indexes WHERE tablename = 'documents'"))
        assert all("USING btree" in kind for kind in kinds)


async def test_verify_reads_texts_by_their_size(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large documents are not read together, and each of them is."""
    monkeypatch.setattr(verifying, "BYTES_AT_ONCE", 2_500_000)
    size, seen = 1_000_000, []
    async with database.transaction() as connection:
        for n, length in enumerate([size] * 11 + [4 * size]):
            document = Document(f"{n}.md", "", "x" * length, "text/plain", "h")
            stamp = await stamps.check_stamp(connection, database.tenant, "a/model", 3)
            chunk = Chunk(0, 0, 1, "", "x")
            await store.replace_documents(
                connection, stamp, database.tenant, [Embedded(document, [chunk], [[1.0, 0, 0]])], recipe=""
            )
    tracemalloc.start()
    assert [check for check in await verify(database, lambda: seen.append(1)) if check.faults] == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(seen) == 12
    assert peak < 9 * size


async def test_many_vectors_get_an_index_and_the_tables_are_tended(owner: Database) -> None:
    """Where a tenant has many vectors of a length they are indexed; one that was left half done is made anew."""
    name = "embeddings_hnsw_3"
    is_valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    await store_vectors(owner)
    async with owner.engine.begin() as connection:
        await connection.execute(text("CHECKPOINT"))  # or, without a flush, no row is known to be committed
        await connection.execute(text("SELECT FROM embeddings"))  # notes it: what commits next may be in its group
    async with owner.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        await tend(owner, index_from=5)
        assert await connection.scalar(is_valid, {"name": name}) is None
        assert await connection.scalar(text("SELECT relallvisible FROM pg_class WHERE relname = 'embeddings'"))
        await tend(owner, index_from=4)
        assert await connection.scalar(is_valid, {"name": name}) is True
        unfinished = text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)")
        await connection.execute(unfinished, {"name": name})
        await tend(owner, index_from=4)
        assert await connection.scalar(is_valid, {"name": name}) is True
        made = await connection.scalar(text("SELECT CAST(to_regclass(:name) AS oid)"), {"name": name})
        await tend(owner, index_from=4)
        assert await connection.scalar(text("SELECT CAST(to_regclass(:name) AS oid)"), {"name": name}) == made
        async with owner.engine.begin() as another:
            await another.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:n, 2))"), {"n": name})
            await connection.execute(unfinished, {"name": name})
            await tend(owner, index_from=4)
            assert await connection.scalar(is_valid, {"name": name}) is False, "another process was at it"
        await connection.execute(text(f"DROP INDEX {name}"))


async def test_an_owner_tends_for_every_tenant(owner: Database) -> None:
    """Where the application is another user, its tenants get their index from `app migrate`."""
    made = text("SELECT to_regclass('embeddings_hnsw_3') IS NOT NULL")
    await store_vectors(owner.for_tenant("other"))
    async with owner.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        await tend(owner, index_from=4)
        assert not await connection.scalar(made)
        await tend(owner, index_from=4, tenants=["default", "other"])
        assert await connection.scalar(made)
        await connection.execute(text("DROP INDEX embeddings_hnsw_3"))


async def test_who_may_not_tend_the_tables_does_no_harm(database: Database) -> None:
    """The application is not the owner: it makes no index, and nothing is raised."""
    await store_vectors(database)
    await tend(database, index_from=1)
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT to_regclass('embeddings_hnsw_3')")) is None


async def test_an_old_schema_is_told_from_a_current_one(empty_url: str) -> None:
    """A database is migrated when it has the newest revision, not before, and migrating again changes nothing."""
    async with connect(empty_url) as database:
        assert not await database.is_migrated()
        await migrate(empty_url)
        await migrate(empty_url)
        assert await database.is_migrated()


async def test_a_migration_waits_for_another_one(empty_url: str) -> None:
    """While one process migrates, a second one waits, and then finds the work done."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    async with connect(empty_url) as database, asyncio.timeout(PATIENCE_SECONDS):
        async with database.transaction() as first:
            await first.execute(text("SELECT pg_advisory_xact_lock(hashtext('migrations'))"))
            second = asyncio.create_task(migrate(empty_url))
            while not await first.scalar(waiting):
                pass
            assert not await database.is_migrated()
        await second
        assert await database.is_migrated()


@pytest.mark.parametrize("url", ["canary", "mysql://me:canary@db/app", "postgresql://me:canary@db:port/app", "://"])
async def test_a_wrong_url_is_refused_without_showing_it(url: str) -> None:
    """What is no Postgres URL is a configuration error that names DATABASE_URL and shows no part of it."""
    settings = Settings.model_validate({"database_url": url})
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL ") as caught:
        async with open_database(settings):
            pass
    assert "canary" not in caught.value.message


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
async def test_every_usual_scheme_is_understood(database_url: str, scheme: str) -> None:
    """Hosting providers write the scheme in several ways; the driver is ours to choose."""
    async with connect(scheme + database_url[database_url.index(":") :]) as database, database.transaction() as open_:
        assert await open_.scalar(text("SELECT 1")) == 1


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    """Nobody listens: using and migrating it say so, in a sentence without the password."""
    url = "postgresql://me:canary@127.0.0.1:1/app"
    with pytest.raises(DatabaseUnavailable, match=r"cannot be reached.*refused") as used:
        async with connect(url) as database, database.transaction():
            pass
    with pytest.raises(DatabaseUnavailable, match=r"cannot be reached.*refused") as migrated:
        await migrate(url)
    assert "canary" not in used.value.message + migrated.value.message


@pytest.mark.parametrize(
    "end",
    ["SELECT pg_terminate_backend(pg_backend_pid())", "SET transaction_timeout = '1ms'; SELECT pg_sleep(9)"],
    ids=["terminated", "timed out"],
)
async def test_a_connection_that_breaks_is_replaced(database: Database, end: str) -> None:
    """A broken connection is an unavailable database for its user, and the next transaction gets another one."""
    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as connection:
            await connection.exec_driver_sql(end)
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_a_connection_that_died_at_rest_is_replaced_unseen(database: Database) -> None:
    """A restart of the database between two requests does not fail the second one."""
    async with database.transaction() as connection:
        died = {"pid": await connection.scalar(text("SELECT pg_backend_pid()"))}
    async with connect(str(database.engine.url)) as other, other.engine.begin() as connection:
        assert await connection.scalar(text("SELECT pg_terminate_backend(:pid, 9000)"), died)
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_a_wrong_statement_is_no_lost_connection(database: Database) -> None:
    """A mistake of ours stays what it is, so that it is seen and mended."""
    with pytest.raises(ProgrammingError):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT FROM documents WHERE"))


async def test_a_full_pool_is_a_database_that_is_unavailable(database: Database) -> None:
    """Whoever waits too long for a connection is told so, and may come again."""
    narrow = create_async_engine(database.engine.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    crowded = Database(narrow)
    async with crowded.transaction():
        with pytest.raises(DatabaseUnavailable, match="in use"):
            await crowded.is_migrated()
    await narrow.dispose()


async def test_an_error_undoes_the_whole_transaction(database: Database) -> None:
    """What was written before the error is gone."""

    async def write_and_fail() -> None:
        async with database.transaction() as connection:
            await stamps.check_stamp(connection, database.tenant, "a/model", 4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM index_stamps")) == 0


def test_another_tenant_shares_the_connections() -> None:
    """The same engine serves a tenant of another name."""

    async def tenants() -> tuple[str, str, bool]:
        async with connect("postgresql://127.0.0.1:1/app") as database:
            other = database.for_tenant("other")
            return database.tenant, other.tenant, other.engine is database.engine

    assert asyncio.run(tenants()) == ("default", "other", True)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the built-in Postgres of this file lives."""
    folder = tmp_path_factory.mktemp("data dir")
    yield folder
    server = EmbeddedPostgres(folder)
    shutil.rmtree(server.home)


@contextmanager
def another_user(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A second process that uses the same Postgres, until its input is closed."""
    child = [sys.executable, "-c", USER, str(data_dir)]
    with subprocess.Popen(child, cwd=PROJECT, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == EmbeddedPostgres(data_dir).url
        yield process


def answers(server: EmbeddedPostgres) -> bool:
    """Whether a query is answered."""
    try:
        with psycopg.connect(server.url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def postmaster(server: EmbeddedPostgres) -> psutil.Process:
    """The server's main process."""
    return psutil.Process(int((server._cluster / "postmaster.pid").read_text().splitlines()[0]))


async def test_without_a_url_the_built_in_postgres_runs_migrated_and_ends(data_dir: Path) -> None:
    """Opening the database starts the server with the current schema; leaving it stops the server."""
    for _ in range(2):
        async with open_database(Settings(data_dir=data_dir)) as database:
            assert await database.is_migrated()
        assert not answers(EmbeddedPostgres(data_dir))


def test_two_processes_share_the_server_and_the_last_one_stops_it(data_dir: Path) -> None:
    """The first to leave does not take the server away from the other."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    with another_user(data_dir) as other:
        server.stop()
        assert answers(server)
        other.communicate()
    assert not answers(server)
    server.stop()  # once more does no harm


def test_a_killed_process_does_not_keep_the_server(data_dir: Path) -> None:
    """A user that died without leaving does not count."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    with another_user(data_dir) as other:
        other.kill()
    server.stop()
    assert not answers(server)


def test_a_killed_server_is_started_again(data_dir: Path) -> None:
    """After `kill -9` of the postmaster its users leave without trouble, and the next start works."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    postmaster(server).kill()
    server.stop()
    server.start()
    assert answers(server)
    server.stop()


@pytest.mark.parametrize("pid", ["999999999", "nonsense"])
def test_a_stale_pid_file_is_removed(data_dir: Path, pid: str) -> None:
    """The file of a server that is gone does not stop the next one."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    server.stop()
    (server._cluster / "postmaster.pid").write_text(f"{pid}\n")
    server.start()
    assert postmaster(server).name() == "postgres"
    server.stop()


@pytest.mark.parametrize(
    ("name", "is_dead"), [("another", False), ("postgres", True)], ids=["another program", "zombie"]
)
def test_a_pid_that_is_no_server_any_more_does_not_count(data_dir: Path, name: str, *, is_dead: bool) -> None:
    """The number in the pid file may belong to another program by now, or to a dead server that nobody waited for."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    server.stop()
    program = server.home / "bin" / name
    program.parent.mkdir(exist_ok=True)
    shutil.copy(shutil.which("sleep") or "", program)
    user = embedded.UNPRIVILEGED if os.geteuid() == 0 else None
    with subprocess.Popen([program, "60"], user=user) as other:
        if is_dead:
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        (server._cluster / "postmaster.pid").write_text(f"{other.pid}\n")
        server.start()
        assert postmaster(server).pid != other.pid
        server.stop()
        other.kill()


def test_a_server_that_cannot_start_says_why(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the end of the server's log."""
    monkeypatch.setattr(embedded, "ATTEMPTS", 1)
    with pytest.raises(DatabaseUnavailable, match='unrecognized configuration parameter "no_such_setting"'):
        EmbeddedPostgres(data_dir, ("-c", "no_such_setting=1")).start()


def test_without_the_wheel_the_error_says_what_to_set(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A production image has no built-in Postgres."""
    monkeypatch.setattr(embedded, "WHEEL", "no_such_wheel")
    with pytest.raises(ConfigurationError, match="set DATABASE_URL"):
        EmbeddedPostgres(data_dir).start()


def test_the_programs_are_copied_once_for_an_unprivileged_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Package and libraries stand side by side in the copy, which everybody may read and which is made once."""
    monkeypatch.setattr(embedded, "ROOT_HOME", tmp_path / "var")
    (tmp_path / "var").mkdir()
    for name in (embedded.WHEEL, f"{embedded.WHEEL}.libs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    copies = {embedded._readable_copy(tmp_path / embedded.WHEEL) for _ in range(2)}
    [copy] = copies
    assert sorted(part.name for part in copy.parent.iterdir()) == [embedded.WHEEL, f"{embedded.WHEEL}.libs"]
    assert copy.parent.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_somebody_else_is_not_used(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared temporary folder another user could wait for the connection."""
    server = EmbeddedPostgres(data_dir)
    monkeypatch.setattr(server, "_as_root", False)
    server.home.mkdir(exist_ok=True)
    shutil.chown(server.home, "nobody")
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        server.start()
