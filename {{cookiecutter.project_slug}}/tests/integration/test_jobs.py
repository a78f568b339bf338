"""Background work on a real Postgres: uploads are read once, in order, whatever becomes of models and workers."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job
from procrastinate.schema import SchemaManager
from sqlalchemy import text
from structlog.testing import capture_logs

from app.db import store
from app.db.engine import Database
from app.db.uploads import SentFile, StoredUpload, add_upload, begin_upload, read_upload, restart_upload
from app.errors import Conflict, DatabaseUnavailable, ProviderRateLimited
from app.gateway import litellm_adapter
from app.gateway.gateway import Gateway, open_gateway
from app.jobs import worker
from app.jobs.queue import open_queue
from app.jobs.tasks import ingest, upkeep
from app.jobs.tasks.ingest import Later, ingest_upload
from app.jobs.tasks.upkeep import find_lost
from app.jobs.uploads import put_upload
from app.jobs.worker import Parts, working
from app.rag.ingest import Ingester
from app.rag.parsing import Parser
from app.settings import Settings
from tests.conftest import PROJECT
from tests.provider import Hang, Provider, Rejected, Reply, ServerError, Wire

PATIENCE_SECONDS = 60
NOTE = b"# Note\n\nA heron stood in the reeds."
OWNER = "somebody"
END = {"done", "failed"}


@pytest.fixture(scope="module")
def double() -> Iterator[Provider]:
    """One provider for the file."""
    litellm_adapter.load()
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
async def parser() -> AsyncIterator[Parser]:
    """The processes that read, started once."""
    parser = Parser(Settings())
    yield parser
    await parser.aclose()


@pytest.fixture
async def parts(
    settings: Settings, database: Database, double: Provider, parser: Parser, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Parts]:
    """What tasks work with: embeddings come from the provider, one call for each attempt, and pauses are short."""
    double.reset()
    embedding = {"model": "openai/test-embedding", "api_base": double.url}
    changes = {"embedding": embedding, "max_attempts": 1, "breaker_seconds": 0.001, "upload_attempts": 3}
    online = Settings.model_validate(settings.model_dump() | changes)
    monkeypatch.setattr(ingest, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.02)
    async with open_queue(database) as queue:
        yield Parts(database, Gateway(online), online, queue, parser)


@asynccontextmanager
async def at_work(parts: Parts, concurrency: int = 2) -> AsyncIterator[Callable[[], object]]:
    """A worker, as another process would have it; gives what stops it."""
    async with (
        open_queue(parts.database) as queue,
        working(parts.database, parts.gateway, parts.settings, queue, concurrency=concurrency) as stop,
    ):
        yield stop


@pytest.mark.parametrize("moments", range(8))
async def test_a_worker_stops_however_soon_it_is_told(parts: Parts, moments: int) -> None:
    """Before its first statement, while it begins, or after: nothing of it is left waiting."""
    async with at_work(parts):
        for _ in range(moments**3):
            await asyncio.sleep(0)


async def stored(
    parts: Parts, name: str = "note.md", data: bytes = NOTE, metadata: Mapping[str, str] = {}, *, key_id: str = ""
) -> str:
    """An upload, of which the queue knows nothing."""
    source = f"upload/{name}"
    async with parts.database.transaction() as connection:
        sent_file = SentFile(OWNER, key_id, source, dict(metadata), data)
        added = await add_upload(connection, parts.database.tenant, sent_file, most_bytes=10_000_000)
    return added.id


async def sent(parts: Parts, name: str = "note.md", data: bytes = NOTE) -> str:
    """An upload with its job."""
    upload_id = await stored(parts, name, data)
    await put_upload(parts.queue, parts.database.tenant, upload_id, f"upload/{name}")
    return upload_id


async def seen(parts: Parts, upload_id: str) -> StoredUpload:
    """The upload as its owner sees it."""
    async with parts.database.transaction() as connection:
        return await read_upload(connection, parts.database.tenant, OWNER, upload_id)


async def ended(parts: Parts, upload_id: str) -> StoredUpload:
    """The upload at its end."""
    while (upload := await seen(parts, upload_id)).status not in END:
        pass
    return upload


async def texts(parts: Parts) -> dict[str, str]:
    """What the index holds."""
    async with parts.database.transaction() as connection:
        return await store.read_texts(connection, parts.database.tenant)


async def run(parts: Parts, upload_id: str) -> None:
    """The task, as a worker calls it."""
    await ingest_upload(parts, tenant=parts.database.tenant, upload_id=upload_id)


async def write(owner: Database, statement: str, **values: object) -> None:
    """Change what no application changes."""
    async with owner.engine.begin() as connection:
        await connection.execute(text("SET LOCAL search_path TO public, jobs"))  # as the queue's triggers want it
        await connection.execute(text(statement), values)


async def value(owner: Database, query: str) -> object:
    """One value of the whole database."""
    async with owner.engine.begin() as connection:
        return await connection.scalar(text(query))


async def test_a_model_that_fails_is_asked_again_later(parts: Parts, double: Provider) -> None:
    """Two attempts fail, and the third one reads the document; then nobody needs its bytes, or the job."""
    double.then(ServerError(), ServerError())
    async with at_work(parts):
        upload = await ended(parts, await sent(parts))
    assert (upload.status, upload.attempts, upload.outcome, upload.chunks) == ("done", 3, "added", 1)
    assert (upload.error_code, upload.error) == ("", "")
    assert await texts(parts) == {"upload/note.md": NOTE.decode()}
    async with parts.database.transaction() as connection:
        assert await connection.scalar(text("SELECT data FROM uploads")) is None


async def test_after_some_attempts_it_is_set_aside_until_somebody_starts_it_again(
    parts: Parts, double: Provider
) -> None:
    """It keeps its bytes and the reason, without what the provider said; started again it begins with attempt 1."""
    double.always(Rejected(401, "Incorrect API key provided: sk-canary"))
    async with at_work(parts):
        upload_id = await sent(parts)
        failed = await ended(parts, upload_id)
        assert (failed.status, failed.attempts, failed.error_code) == ("failed", 3, "provider_misconfigured")
        assert (await texts(parts), "canary" in failed.error, "application's key" in failed.error) == ({}, False, True)
        double.reset()
        async with parts.database.transaction() as connection:
            again = await restart_upload(connection, parts.database.tenant, OWNER, upload_id)
        assert (again.status, again.attempts, again.error) == ("queued", 0, "")
        await put_upload(parts.queue, parts.database.tenant, upload_id, again.source)
        assert (await ended(parts, upload_id)).attempts == 1
    async with parts.database.transaction() as connection:
        with pytest.raises(Conflict, match="done and has not failed"):
            await restart_upload(connection, parts.database.tenant, OWNER, upload_id)


async def test_a_fault_of_ours_is_tried_again_and_told_without_details(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was, a client gets a sentence; the index holds nothing of it."""
    monkeypatch.setattr(Ingester, "ingest", lambda *_, **__: 1 / 0)
    async with at_work(parts):
        failed = await ended(parts, await sent(parts))
    assert (failed.status, failed.attempts, failed.error_code) == ("failed", 3, "internal_error")
    assert "division" not in failed.error


async def test_what_another_try_cannot_help_fails_at_once(parts: Parts, gateway: Gateway, settings: Settings) -> None:
    """The index holds another model's vectors: the error says what to do, and nothing is tried again."""
    async with Ingester(parts.database, gateway, settings, parts.parser) as offline:
        await offline.ingest(b"# Other", source="other.md")
    upload_id = await stored(parts)
    await run(parts, upload_id)
    failed = await seen(parts, upload_id)
    assert (failed.status, failed.attempts, failed.error_code) == ("failed", 1, "index_mismatch")
    assert "app reembed" in failed.error


async def test_an_upload_is_paid_for_by_the_key_that_sent_it(parts: Parts) -> None:
    """Its budget counts the embeddings, and one that is used up ends the next upload at once."""
    priced = parts.settings.model_dump()
    priced["embedding"] |= {"input_price": 1, "output_price": 0}
    settings = Settings.model_validate(priced | {"key_budget_usd": 0.000_01})
    ends = []
    async with open_gateway(settings, parts.database) as gateway:
        for name in ("a.md", "b.md"):
            upload_id = await stored(parts, name, f"# {name}".encode(), key_id="shop")
            await run(replace(parts, settings=settings, gateway=gateway), upload_id)
            ends.append((await seen(parts, upload_id)).error_code)
    assert ends == ["", "budget_exceeded"]


@pytest.mark.parametrize(
    ("error", "attempts", "least", "most"),
    [
        (DatabaseUnavailable(), 0, 9, 11),
        (DatabaseUnavailable(), 1, 39, 41),
        (DatabaseUnavailable(), 2, 159, 161),
        (DatabaseUnavailable(), 1_000, 3_599, 3_601),
        (ProviderRateLimited(retry_after=90), 0, 89, 91),
        (ProviderRateLimited(retry_after=90), 2, 159, 161),
        (asyncio.CancelledError(), 2, -1, 1),
    ],
)
def test_pauses_grow(error: BaseException, attempts: int, least: float, most: float) -> None:
    """Four times as long each time, up to an hour, or as long as a provider asks; none where a worker stopped."""
    job = Job(id=1, queue="", lock=None, queueing_lock=None, task_name="", attempts=attempts)
    retry_at = Later().get_retry_decision(exception=error, job=job).retry_at
    assert retry_at is not None
    assert least < (retry_at - datetime.now(UTC)).total_seconds() < most


async def test_a_worker_that_stops_gives_its_job_to_the_next_one(parts: Parts, double: Provider) -> None:
    """The call to the model ends with it, this was no attempt, and nothing is lost."""
    brief = replace(parts, settings=parts.settings.model_copy(update={"shutdown_seconds": 0.01}))
    double.always(Hang())
    async with at_work(brief) as stop:
        upload_id = await sent(parts)
        await double.until(lambda count: count.open == 1)
        stop()
    await double.until(lambda count: count.open == 0)
    given_back = await seen(parts, upload_id)
    assert (given_back.status, given_back.attempts) == ("queued", 0)
    double.reset()
    async with at_work(parts):
        done = await ended(parts, upload_id)
    assert (done.status, done.attempts) == ("done", 1)


async def test_a_worker_that_stops_lets_its_jobs_end(parts: Parts, double: Provider) -> None:
    """Inside of SHUTDOWN_SECONDS what runs is done, and what waits stays."""
    double.always(Reply(pause=0.3))
    async with at_work(parts, concurrency=1):
        running, waiting = await sent(parts, "a.md"), await sent(parts, "b.md")
        await double.until(lambda count: count.open == 1)
    assert ((await seen(parts, running)).status, (await seen(parts, waiting)).status) == ("done", "queued")


async def test_uploads_of_one_name_are_read_one_by_one_and_the_last_wins(parts: Parts, double: Provider) -> None:
    """However many workers there are; others are read beside them."""
    most = {"note": 0, "other": 0}
    reading: list[str] = []

    class Watched(Reply):
        async def answer(self, wire: Wire) -> web.StreamResponse:
            [text] = wire.call.body["input"]
            kind = "note" if "note" in text else "other"
            reading.append(kind)
            most[kind] = max(most[kind], reading.count(kind))
            while most["other"] < 2:  # until two of them are read at a time
                await asyncio.sleep(0.01)
            reading.remove(kind)
            return await super().answer(wire)

    double.always(Watched())
    async with at_work(parts, concurrency=4):
        notes = [await sent(parts, "note.md", f"# note {n}".encode()) for n in range(6)]
        others = [await sent(parts, f"{n}.md", f"# other {n}".encode()) for n in range(6)]
        uploads = [await ended(parts, upload_id) for upload_id in notes + others]
    assert {upload.status for upload in uploads} == {"done"}
    assert [upload.outcome for upload in uploads[:6]] == ["added"] + ["changed"] * 5
    assert (await texts(parts))["upload/note.md"] == "# note 5"
    assert most["note"] == 1
    assert most["other"] > 1


async def test_an_older_upload_does_not_take_the_place_of_a_newer_one(parts: Parts) -> None:
    """It comes late because its job was lost, or it had failed: the newer one stays."""
    failed, late = await stored(parts, data=b""), await stored(parts, data=b"# Old")
    await run(parts, failed)
    await run(parts, await stored(parts, data=b"# New"))
    await run(parts, late)
    upload = await seen(parts, late)
    assert (upload.status, upload.outcome, upload.chunks) == ("done", "unchanged", 0)
    assert await texts(parts) == {"upload/note.md": "# New"}
    async with parts.database.transaction() as connection:
        with pytest.raises(Conflict, match="newer upload"):
            await restart_upload(connection, parts.database.tenant, OWNER, failed)


async def test_an_upload_whose_workers_died_each_time_is_set_aside(parts: Parts) -> None:
    """It may be what killed them: the next worker leaves it alone, until somebody starts it again."""
    upload_id = await stored(parts)
    for _ in range(3):
        async with parts.database.transaction() as connection:
            assert await begin_upload(connection, parts.database.tenant, upload_id, most_attempts=3)
    await run(parts, upload_id)
    upload = await seen(parts, upload_id)
    assert (upload.status, upload.attempts, upload.error_code) == ("failed", 3, "worker_lost")
    async with parts.database.transaction() as connection:
        await restart_upload(connection, parts.database.tenant, OWNER, upload_id)
    await run(parts, upload_id)
    assert (await seen(parts, upload_id)).status == "done"


async def test_a_worker_that_was_given_up_stops_and_says_nothing(
    parts: Parts, double: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has taken its upload over: its call ends, and the row is the other one's."""
    monkeypatch.setattr(ingest, "BEAT_SECONDS", 0.01)
    double.always(Hang())
    upload_id = await stored(parts)
    first = asyncio.create_task(run(parts, upload_id))
    await double.until(lambda count: count.open == 1)
    async with parts.database.transaction() as connection:
        other = await begin_upload(connection, parts.database.tenant, upload_id, most_attempts=3)
    assert other is not None
    await first
    await double.until(lambda count: count.open == 0)
    upload = await seen(parts, upload_id)
    assert (upload.status, upload.attempts, upload.error_code) == ("running", 2, "")


async def test_an_upload_that_takes_long_shows_that_it_goes_on(
    parts: Parts, double: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time of change moves, so that nobody takes it for lost."""
    monkeypatch.setattr(ingest, "BEAT_SECONDS", 0.01)
    double.always(Hang())
    upload_id = await stored(parts)
    reading = asyncio.create_task(run(parts, upload_id))
    await double.until(lambda count: count.open == 1)
    before = (await seen(parts, upload_id)).updated_at
    while (await seen(parts, upload_id)).updated_at == before:
        pass
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (await seen(parts, upload_id)).status == "queued"


async def test_a_job_that_ended_meanwhile_is_not_put_back(
    parts: Parts, owner: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers find the same one: the slower one leaves it, and goes on with the others."""
    waiting, stale = await sent(parts, "a.md"), await sent(parts, "b.md")
    jobs = parts.queue.app.job_manager
    both = await jobs.list_jobs_async()
    await write(owner, "UPDATE jobs.procrastinate_jobs SET status = 'doing' WHERE queueing_lock = :id", id=stale)

    async def found(**_: object) -> object:
        return both

    monkeypatch.setattr(jobs, "get_stalled_jobs", found)
    await find_lost(parts, 0)
    states = {job.queueing_lock: job.status for job in await jobs.list_jobs_async()}
    assert states == {waiting: "todo", stale: "todo"}


async def test_an_upload_without_a_job_is_found(parts: Parts, owner: Database) -> None:
    """The server died between the row and the job: after two minutes there is one, and no second one."""
    upload_id = await stored(parts)
    await find_lost(parts, 0)
    assert await value(owner, "SELECT count(*) FROM jobs.procrastinate_jobs") == 0
    for _ in range(2):
        await write(owner, "UPDATE uploads SET updated_at = now() - interval '121 s'")
        await find_lost(parts, 0)
        assert await value(owner, "SELECT count(*) FROM jobs.procrastinate_jobs") == 1
    assert await value(owner, "SELECT updated_at > now() - interval '1 minute' FROM uploads")
    async with at_work(parts):
        assert (await ended(parts, upload_id)).status == "done"


async def test_a_job_that_only_pretends_to_be_under_way_is_put_back(parts: Parts, owner: Database) -> None:
    """Its worker lives and has lost it, when the database did not hear of its end: the upload's silence tells."""
    upload_id = await sent(parts)
    await write(owner, "INSERT INTO jobs.procrastinate_workers DEFAULT VALUES")
    alive = "(SELECT id FROM jobs.procrastinate_workers)"
    await write(owner, f"UPDATE jobs.procrastinate_jobs SET status = 'doing', worker_id = {alive}")
    await find_lost(parts, 0)
    assert await value(owner, "SELECT status FROM jobs.procrastinate_jobs") == "doing"
    await write(owner, "UPDATE uploads SET status = 'running', attempts = 1, updated_at = now() - interval '121 s'")
    await find_lost(parts, 0)
    assert (await seen(parts, upload_id)).status == "queued"
    async with at_work(parts):
        done = await ended(parts, upload_id)
    assert (done.status, done.attempts) == ("done", 2)


async def test_a_worker_outlives_the_loss_of_its_connections(
    parts: Parts, owner: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after that is done as before."""
    monkeypatch.setattr(worker, "RESTART_SECONDS", 0.01)
    others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
    async with at_work(parts):
        await ended(parts, await sent(parts, "a.md"))
        await value(owner, f"{others} AND pid <> pg_backend_pid()")
        assert (await ended(parts, await sent(parts, "b.md"))).status == "done"


async def test_a_worker_waits_for_a_queue_that_is_away(
    parts: Parts, owner: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why, tries again, and works as soon as it can."""
    monkeypatch.setattr(worker, "RESTART_SECONDS", 0.01)
    upload_id = await sent(parts)
    await write(owner, "ALTER SCHEMA jobs RENAME TO gone")
    with capture_logs() as logs:
        async with at_work(parts):
            try:
                while not any("begins again" in entry["event"] for entry in logs):
                    await asyncio.sleep(0)
            finally:
                await write(owner, "ALTER SCHEMA gone RENAME TO jobs")
            assert (await ended(parts, upload_id)).status == "done"


async def test_a_job_holds_no_text(parts: Parts, owner: Database) -> None:
    """Whoever can read the queue does not learn what a document is called, let alone what is in it."""
    await sent(parts, "layoffs-in-march.md")
    row = str(await value(owner, "SELECT to_jsonb(j) FROM jobs.procrastinate_jobs j"))
    assert ("layoffs" in row, "tenant" in row) == (False, True)


async def test_who_sent_much_before_is_not_behind_for_ever(parts: Parts, owner: Database) -> None:
    """What is read by then does not count: each tenant's order holds, and turns begin where the queue is now."""

    async def put(tenant: str, *names: str) -> None:
        for name in names:
            await put_upload(parts.queue, tenant, name, name)

    await put("many", "1", "2", "3")
    await write(owner, "DELETE FROM jobs.procrastinate_jobs WHERE priority = 0")
    await write(owner, "UPDATE jobs.procrastinate_jobs SET status = 'doing' WHERE queueing_lock = '2'")
    await put("few", "a", "b", "c")
    await put("many", "4")
    await write(owner, "UPDATE jobs.procrastinate_jobs SET status = 'doing' WHERE status = 'todo'")
    await put("late", "x")
    await put("few", "d")
    order = "SELECT string_agg(queueing_lock, '' ORDER BY priority DESC, id) FROM jobs.procrastinate_jobs"
    assert await value(owner, order) == "23ab4cxd"


async def test_upkeep_goes_before_what_waits(parts: Parts, owner: Database) -> None:
    """However many uploads wait, what a dead worker left is found in time; each kind of upkeep waits once."""
    await sent(parts)
    upkeep.add_to(parts.queue.app, parts)
    for periodic in parts.queue.app.periodic_registry.periodic_tasks.values():
        await periodic.task.defer_async(timestamp=0)
        with pytest.raises(AlreadyEnqueued):
            await periodic.task.defer_async(timestamp=0)
    first = "SELECT task_name FROM jobs.procrastinate_jobs ORDER BY priority DESC, id LIMIT 1"
    assert await value(owner, first) == "find_lost"


def test_the_queues_tables_are_those_of_its_library() -> None:
    """Its next version may need others: then a migration after 0006 has to run the files that are new here."""
    newest = max(path.name for path in Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    assert newest == "03.04.00_50_post_add_retry_failed_job_procedure.sql"


async def test_a_queue_that_cannot_be_reached_says_so(parts: Parts, owner: Database) -> None:
    """An error of ours, which names no driver."""
    await write(owner, "ALTER SCHEMA jobs RENAME TO gone")
    try:
        with pytest.raises(DatabaseUnavailable, match="queue of background jobs"):
            await sent(parts)
    finally:
        await write(owner, "ALTER SCHEMA gone RENAME TO jobs")


async def test_what_a_killed_worker_left_is_done_by_another(
    parts: Parts, owner: Database, double: Provider, tmp_path: Path
) -> None:
    """`kill -9` in the middle of a document: another process finds the job and ends it; Ctrl-C ends that process."""
    environment = os.environ | {
        "DATABASE_URL": parts.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
        "PYTHONPATH": str(PROJECT),
        "EMBEDDING_MODEL": "openai/test-embedding",
        "EMBEDDING_API_BASE": double.url,
    }

    @contextmanager
    def app_worker() -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "app", "worker", "--concurrency", "1"]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()  # or a test that fails would wait for it for ever

    double.always(Hang())
    upload_id = await sent(parts)
    with app_worker() as first:
        await double.until(lambda count: count.open == 1)
        first.kill()
    assert (await seen(parts, upload_id)).status == "running"
    double.reset()
    await write(owner, "UPDATE jobs.procrastinate_workers SET last_heartbeat = now() - interval '31 s'")
    await find_lost(parts, 0)
    with app_worker() as second:
        done = await ended(parts, upload_id)
        second.send_signal(signal.SIGINT)
        _, said = second.communicate(timeout=PATIENCE_SECONDS)
    assert (done.status, done.attempts, await texts(parts)) == ("done", 2, {"upload/note.md": NOTE.decode()})
    assert (second.returncode, said.splitlines()) == (
        0,
        ["working, 1 jobs at a time; Ctrl-C stops", "stopping: running jobs have 15 seconds"],
    )
