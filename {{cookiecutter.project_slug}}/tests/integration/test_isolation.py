"""Five tenants at once, against a model of what each has: nobody ever sees, changes or guesses a row of another.

What they do is drawn at random: over HTTP with each tenant's own API key, through the application's functions where
that is the way in, and with statements that forgot to name the tenant, which is what row policies are for. A few
hundred operations in `make test`; `make test-tenants` does 10,000.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.db import cache, keys, ledger, store
from app.db.engine import Database, connect, migrate
from app.errors import NoDocuments, NotFound
from app.gateway.gateway import Gateway
from app.rag.retrieval import Retriever
from app.settings import Settings
from app.types import SCOPES, Attempt, Inference, Usage
from tests.integration.stored import keep
from tests.integration.test_api import serving
from tests.integration.test_tenants import ROWS

T = TypeVar("T")
OPERATIONS = int(os.environ.get("OPERATIONS", "200"))
STEPS = 60 if OPERATIONS < 1_000 else 500  # in one run, which begins with nothing
TENANTS = ("ada", "bel", "cid", "dov", "eve")
ANIMALS = ("heron", "otter", "badger", "lynx")
PLACES = ("reeds", "rivers", "woods", "rocks")
PEPPER = SecretStr("the pepper of the tests: thirty-two characters and more")
EXAMPLE_UPLOAD = {"file": ("notes.md", b"# Notes")}
# Of these the model knows each row; of the others whose they may be.
COUNTED = ("documents", "conversations", "answers", "feedback", "uploads", "api_keys", "completions_cache")

tenants = st.sampled_from(range(len(TENANTS)))
numbers = st.integers(0, 7)


@dataclass
class Tenant:
    """What one tenant has, by id; `key` is how it gets in."""

    name: str
    database: Database
    key: str = ""
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)  # source to id and text
    conversations: dict[str, str] = field(default_factory=dict)  # to the title
    answers: dict[str, str] = field(default_factory=dict)  # to the conversation
    feedback: dict[str, str] = field(default_factory=dict)  # answer to rating
    uploads: set[str] = field(default_factory=set)
    api_keys: set[str] = field(default_factory=set)
    completions_cache: dict[str, bytes] = field(default_factory=dict)
    replies: dict[str, str] = field(default_factory=dict)  # Idempotency-Key to conversation
    calls: int = 0


@dataclass
class World:
    """The application with nothing in it, a way to call it from code that does not wait, and what was done."""

    loop: asyncio.AbstractEventLoop
    client: httpx.AsyncClient
    database: Database
    settings: Settings
    operations: int = 0
    runs: int = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """One operation, to its end."""
        self.operations += 1
        return self.loop.run_until_complete(work)


class Tenancy(RuleBasedStateMachine):
    """What tenants do; each rule looks at all that comes back."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.runs += 1  # whatever an earlier run has left belongs to tenants of other names
        self.gateway = Gateway(self.world.settings)
        names = (f"{name}-{self.world.runs}" for name in TENANTS)
        self.tenants = [Tenant(name, self.world.database.for_tenant(name)) for name in names]
        for tenant in self.tenants:
            tenant.key = self.world.loop.run_until_complete(_new_key(tenant, "first"))

    async def call(self, tenant: Tenant, method: str, path: str, **given: Any) -> httpx.Response:
        """A request with the tenant's key."""
        headers = {"Authorization": f"Bearer {tenant.key}"} | given.pop("headers", {})
        return await self.world.client.request(method, f"/v1/{path}", headers=headers, **given)

    async def listed(self, tenant: Tenant, path: str) -> list[dict[str, Any]]:
        """Every page of a list."""
        found: list[dict[str, Any]] = []
        parameters: dict[str, Any] = {"limit": 3}
        while True:
            page = (await self.call(tenant, "GET", path, params=parameters)).json()
            found += page["data"]
            if not page["has_more"]:
                return found
            parameters["after"] = page["last_id"]

    @rule(who=tenants, n=numbers, place=st.sampled_from(PLACES))
    def put_document(self, who: int, n: int, place: str) -> None:
        """Added, or changed where there was one of this name."""
        tenant, animal = self.tenants[who], ANIMALS[n % len(ANIMALS)]
        content = f"The {animal} of {tenant.name} lives in the {place}."
        self.world.do(keep(tenant.database, self.gateway, self.world.settings, {f"{animal}.md": content}))
        [added] = [one for one in self.world.do(_stored(tenant)) if one.source == f"{animal}.md"]
        tenant.documents[added.source] = (str(added.id), content)

    @rule(who=tenants)
    def list_documents(self, who: int) -> None:
        """Its own, with their ids."""
        tenant = self.tenants[who]
        seen = {one["source"]: str(one["id"]) for one in self.world.do(self.listed(tenant, "documents"))}
        assert seen == {source: document[0] for source, document in tenant.documents.items()}

    @rule(who=tenants, whose=tenants, n=numbers, method=st.sampled_from(("GET", "DELETE")))
    def reach_for_document(self, who: int, whose: int, n: int, method: str) -> None:
        """Read or deleted by whose it is, and for anybody else not there."""
        tenant, owner = self.tenants[who], self.tenants[whose]
        source = ANIMALS[n % len(ANIMALS)] + ".md"
        if source not in owner.documents:
            return
        answer = self.world.do(self.call(tenant, method, f"documents/{owner.documents[source][0]}"))
        assert (answer.status_code != 404) == (who == whose)
        if who == whose and method == "DELETE":
            del owner.documents[source]

    @rule(who=tenants, n=numbers)
    def search(self, who: int, n: int) -> None:
        """Each passage is of a document that the tenant has, as it is now."""
        tenant = self.tenants[who]
        retriever = Retriever(tenant.database, self.gateway, self.world.settings)
        try:
            passages = self.world.do(retriever.retrieve(f"Where does the {ANIMALS[n % len(ANIMALS)]} live?"))
        except NoDocuments:
            assert not tenant.documents
        else:
            assert passages
            assert all(tenant.documents[one.source][1] == one.text for one in passages)

    @rule(who=tenants, whose=tenants, n=numbers, within=st.booleans())
    def ask(self, who: int, whose: int, n: int, *, within: bool) -> None:
        """From its own documents, in its own conversation or none."""
        tenant, owner = self.tenants[who], self.tenants[whose]
        question: dict[str, str] = {"question": f"Where does the {ANIMALS[n % len(ANIMALS)]} live?"}
        if within:
            question["conversation_id"] = _nth(owner.conversations, n)
        answer = self.world.do(self.call(tenant, "POST", "ask", json=question))
        if within and question["conversation_id"] not in tenant.conversations:
            assert answer.status_code == 404
        elif not tenant.documents:
            assert answer.status_code == 409
        else:
            said = answer.json()
            assert all(tenant.documents[one["source"]][1] == one["text"] for one in said["passages"])
            assert all(one["quote"] in tenant.documents[one["source"]][1] for one in said["citations"])
            conversation = question.get("conversation_id", "")
            tenant.answers[said["id"]] = conversation
            if tenant.conversations.get(conversation) == "":
                tenant.conversations[conversation] = question["question"]

    @rule(who=tenants, whose=tenants, n=numbers)
    def open_citation(self, who: int, whose: int, n: int) -> None:
        """Of its own answers alone; one that was not given, or abstained, has none."""
        tenant, owner = self.tenants[who], self.tenants[whose]
        place = self.world.do(self.call(tenant, "GET", f"answers/{_nth(owner.answers, n)}/citations/1"))
        assert place.status_code == 404 or who == whose
        assert place.status_code == 404 or f"of {tenant.name} " in place.json()["quote"]

    @rule(who=tenants, n=st.none() | numbers)
    def begin_conversation(self, who: int, n: int | None) -> None:
        """A new one; with an Idempotency-Key that this tenant has used the same, whoever else has used it."""
        tenant = self.tenants[who]
        once = {} if n is None else {"Idempotency-Key": f"order-{n}"}
        begun = self.world.do(self.call(tenant, "POST", "conversations", headers=once)).json()["id"]
        if (known := tenant.replies.get(f"order-{n}")) is not None:
            assert begun == known
        else:
            assert not any(begun in one.conversations for one in self.tenants)
            tenant.conversations[begun] = ""
            if n is not None:
                tenant.replies[f"order-{n}"] = begun

    @rule(who=tenants)
    def list_conversations(self, who: int) -> None:
        """Its own, with their titles."""
        tenant = self.tenants[who]
        seen = {one["id"]: one["title"] for one in self.world.do(self.listed(tenant, "conversations"))}
        assert seen == tenant.conversations

    @rule(who=tenants, whose=tenants, n=numbers, method=st.sampled_from(("GET", "DELETE")))
    def reach_for_conversation(self, who: int, whose: int, n: int, method: str) -> None:
        """With the answers that were given in it, for whose it is; deleted with them."""
        tenant, owner = self.tenants[who], self.tenants[whose]
        wanted = _nth(owner.conversations, n)
        answer = self.world.do(self.call(tenant, method, f"conversations/{wanted}"))
        assert (answer.status_code != 404) == (wanted in tenant.conversations)
        if wanted not in tenant.conversations:
            return
        within = {one for one, conversation in tenant.answers.items() if conversation == wanted}
        if method == "GET":
            assert {one["id"]: one["feedback"] for one in answer.json()["answers"]} == {
                one: tenant.feedback.get(one) for one in within
            }
        else:
            del tenant.conversations[wanted]
            tenant.replies.clear()  # what was answered may tell of it
            for one in within:
                del tenant.answers[one]
                tenant.feedback.pop(one, None)

    @rule(who=tenants, whose=tenants, n=numbers, rating=st.sampled_from(("up", "down")))
    def rate(self, who: int, whose: int, n: int, rating: str) -> None:
        """Its own answers, each once."""
        tenant, owner = self.tenants[who], self.tenants[whose]
        rated = {"answer_id": _nth(owner.answers, n), "rating": rating}
        answer = self.world.do(self.call(tenant, "POST", "feedback", json=rated))
        assert (answer.status_code == 200) == (rated["answer_id"] in tenant.answers)
        if answer.status_code == 200:
            tenant.feedback[rated["answer_id"]] = rating

    @rule(who=tenants)
    def list_feedback(self, who: int) -> None:
        """What it said itself."""
        tenant = self.tenants[who]
        seen = {one["answer_id"]: one["rating"] for one in self.world.do(self.listed(tenant, "feedback"))}
        assert seen == tenant.feedback

    @rule(who=tenants)
    def upload(self, who: int) -> None:
        """It waits for a worker; there is none here."""
        tenant = self.tenants[who]
        tenant.uploads.add(self.world.do(self.call(tenant, "POST", "documents", files=EXAMPLE_UPLOAD)).json()["id"])

    @rule(who=tenants)
    def list_uploads(self, who: int) -> None:
        """Its own."""
        tenant = self.tenants[who]
        assert {one["id"] for one in self.world.do(self.listed(tenant, "uploads"))} == tenant.uploads

    @rule(who=tenants, whose=tenants, n=numbers, path=st.sampled_from(("", "/retry")))
    def reach_for_upload(self, who: int, whose: int, n: int, path: str) -> None:
        """For anybody else it is not there."""
        tenant, wanted = self.tenants[who], _nth(self.tenants[whose].uploads, n)
        answer = self.world.do(self.call(tenant, "POST" if path else "GET", f"uploads/{wanted}{path}"))
        assert (answer.status_code != 404) == (wanted in tenant.uploads)

    @rule(who=tenants, n=numbers)
    def make_key(self, who: int, n: int) -> None:
        """Two of a name at most."""
        tenant = self.tenants[who]
        if sum(one.startswith(f"{n}:") for one in tenant.api_keys) < keys.MOST_LIVE:
            self.world.do(_new_key(tenant, str(n)))

    @rule(who=tenants)
    def list_keys(self, who: int) -> None:
        """The statement names no tenant: that these are its own is the policy's work."""
        tenant = self.tenants[who]
        assert {f"{one.name}:{one.id}" for one in self.world.do(_keys(tenant))} == tenant.api_keys

    @rule(who=tenants, whose=tenants, n=numbers)
    def revoke_key(self, who: int, whose: int, n: int) -> None:
        """The same: another's key is not there. Its own first one is still needed."""
        tenant, owner = self.tenants[who], self.tenants[whose]
        wanted = _nth(owner.api_keys, n)
        if who != whose:
            with pytest.raises(NotFound):
                self.world.do(_revoke(tenant, wanted.partition(":")[2]))
        elif not wanted.startswith("first:"):
            assert self.world.do(_revoke(tenant, wanted.partition(":")[2])).tenant == tenant.name

    @rule(who=tenants)
    def pay(self, who: int) -> None:
        """A call, in the ledger."""
        tenant = self.tenants[who]
        self.world.do(_pay(tenant))
        tenant.calls += 1

    @rule(who=tenants)
    def see_costs(self, who: int) -> None:
        """Its own alone, though the report names no tenant."""
        tenant = self.tenants[who]
        rows = self.world.do(_costs(tenant))
        assert {row.tenant for row in rows} <= {tenant.name}
        assert sum(row.attempts for row in rows if row.role == "machine") == tenant.calls

    @rule(who=tenants, whose=tenants, n=numbers)
    def use_cache(self, who: int, whose: int, n: int) -> None:
        """A reply is found by whoever it was for, under a key that another may know."""
        tenant, owner = self.tenants[who], self.tenants[whose]
        mine, theirs = f"{tenant.name} {n}", f"{owner.name} {n}"
        found = self.world.do(_cached(tenant, theirs))
        assert found == (tenant.completions_cache.get(theirs))
        self.world.do(_cache(tenant, mine, n))
        tenant.completions_cache[mine] = str(n).encode()

    @rule(who=tenants, table=st.sampled_from(sorted(ROWS)))
    def read_carelessly(self, who: int, table: str) -> None:
        """Somebody forgot the WHERE."""
        tenant = self.tenants[who]
        rows = self.world.do(_select(tenant, f"SELECT tenant FROM {table}"))
        assert set(rows) <= {tenant.name}
        if table in COUNTED:
            assert len(rows) == len(getattr(tenant, table))

    @rule(who=tenants, n=numbers)
    def write_carelessly(self, who: int, n: int) -> None:
        """Here too: every conversation that there is gets another title."""
        tenant = self.tenants[who]
        changed = self.world.do(_select(tenant, f"UPDATE conversations SET title = 'title {n}' RETURNING id::text"))
        assert set(changed) == tenant.conversations.keys()
        tenant.conversations = dict.fromkeys(tenant.conversations, f"title {n}")


def _nth(having: Iterable[str], n: int) -> str:
    """An id among these, or one that nobody has."""
    known = sorted(having)
    return known[n % len(known)] if known else str(uuid.UUID(int=n))


async def _new_key(tenant: Tenant, name: str) -> str:
    async with tenant.database.transaction() as connection:
        key = await keys.create_key(connection, PEPPER, keys.NewKey(tenant.name, name, SCOPES))
    tenant.api_keys.add(f"{name}:{key.partition('.')[0]}")
    return key


async def _keys(tenant: Tenant) -> list[keys.ApiKey]:
    async with tenant.database.transaction() as connection:
        return await keys.list_keys(connection)


async def _revoke(tenant: Tenant, key_id: str) -> keys.ApiKey:
    async with tenant.database.transaction() as connection:
        return await keys.revoke_key(connection, key_id)


async def _stored(tenant: Tenant) -> list[store.StoredDocument]:
    async with tenant.database.transaction() as connection:
        return await store.list_documents(connection, tenant.name)


async def _pay(tenant: Tenant) -> None:
    now = datetime.now(UTC)
    attempt = Attempt("openai/test", "ok", now, 5, Usage(10, 20), 7)
    call = Inference(str(uuid.uuid4()), "", tenant.name, "", "machine", "ok", now, 5, attempts=(attempt,))
    async with tenant.database.transaction() as connection:
        await ledger.write(connection, [call])


async def _costs(tenant: Tenant) -> list[ledger.SpendRow]:
    async with tenant.database.transaction() as connection:
        return await ledger.spend(connection, datetime(2026, 1, 1, tzinfo=UTC).date())


async def _cached(tenant: Tenant, key: str) -> bytes | None:
    async with tenant.database.transaction() as connection:
        found = await cache.read_completion(connection, tenant.name, key, max_age=3_600)
    return found.completion if found else None


async def _cache(tenant: Tenant, key: str, n: int) -> None:
    async with tenant.database.transaction() as connection:
        await cache.write_completion(connection, tenant.name, key, str(n).encode(), max_age=3_600)


async def _select(tenant: Tenant, statement: str) -> list[str]:
    async with tenant.database.transaction() as connection:
        return list(await connection.scalars(text(statement)))


@contextmanager
def a_world(settings: Settings) -> Iterator[World]:
    """The application, started on the database of the settings."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        entered = _started(settings)
        client, database = loop.run_until_complete(entered.__aenter__())
        try:
            yield World(loop, client, database, settings)
        finally:
            loop.run_until_complete(entered.__aexit__(None, None, None))


@asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Database]]:
    async with serving(settings) as client, connect(_url(settings)) as database:
        yield client, database


def _url(settings: Settings) -> str:
    assert settings.database_url
    return settings.database_url.get_secret_value()


def run(world: World, operations: int) -> None:
    """Let tenants do so much, at random; the same each time."""
    machine = type("Machine", (Tenancy,), {"world": world})
    runs = operations // STEPS + 2  # the first is the simplest that there is, and some steps find nothing to do
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=runs,
            stateful_step_count=STEPS,
            phases=[Phase.generate],  # as it happened says enough, and to search for less would take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def tenancy(settings: Settings) -> Settings:
    """Offline models, API keys without limits, and uploads that nobody works off."""
    return settings.model_copy(update={"api_key_secret": PEPPER, "key_requests_per_minute": 0, "worker_concurrency": 0})


@pytest.mark.usefixtures("database")
def test_no_tenant_ever_meets_another(tenancy: Settings) -> None:
    """Whatever five tenants do, each sees what the model says that it has."""
    with a_world(tenancy) as world:
        run(world, OPERATIONS)
    print(f"\n{world.operations:,} operations of {len(TENANTS)} tenants in {world.runs} runs")  # noqa: T201  # a figure
    assert world.operations >= OPERATIONS


@pytest.fixture
async def scratch(database_url: str) -> AsyncIterator[str]:
    """The owner's URL of a migrated database of its own."""
    async with connect(database_url) as server:
        engine = server.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text("DROP DATABASE IF EXISTS unguarded WITH (FORCE)"))
            await connection.execute(text("CREATE DATABASE unguarded"))
            url = make_url(database_url).set(database="unguarded").render_as_string(hide_password=False)
            await migrate(url)
            yield url
            await connection.execute(text("DROP DATABASE unguarded WITH (FORCE)"))


async def drop_policies(url: str) -> None:
    """As an owner can."""
    async with connect(url) as owner, owner.engine.begin() as connection:
        for table in ROWS:
            await connection.execute(text(f"DROP POLICY of_its_tenant ON {table}"))
            await connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))


def test_without_policies_they_would_meet(tenancy: Settings, scratch: str) -> None:
    """It is the policies that keep tenants apart: the same operations go well with them, and without them do not."""
    url = make_url(_url(tenancy)).set(database="unguarded").render_as_string(hide_password=False)
    with a_world(tenancy.model_copy(update={"database_url": SecretStr(url)})) as world:
        run(world, STEPS)
        world.loop.run_until_complete(drop_policies(scratch))
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            run(world, STEPS)
