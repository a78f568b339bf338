"""API keys over HTTP and in the database: who gets in, to what, and what is kept of a key."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.api.errors import add_error_handlers
from app.api.security import check_safe, needs, needs_key
from app.db.engine import Database, connect
from app.db.keys import NewKey, find_key, list_keys, revoke_key
from app.errors import ConfigurationError, Conflict, InvalidInput
from app.settings import Settings
from app.types import SCOPES
from tests.integration.keyed import PEPPER, bearer, in_process, make_key, with_keys

PATH = "/v1/documents"
SHAPE = re.compile(r"aiapp_[0-9a-f]{16}\.[\w-]{43}")
PRODUCTION = {"environment": "production", "log_level": "INFO"}
BOUNDARY = "multipart/form-data; boundary=x"


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that needs keys, on the empty database."""
    assert database
    async with in_process(with_keys(settings)) as client:
        yield client


@pytest.fixture
async def open_client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a developer's own server, which needs none."""
    assert database
    changes = {"cors_origins": "https://app.example.com", "worker_concurrency": 0}
    async with in_process(settings.model_copy(update=changes)) as client:
        yield client


async def revoke(database: Database, key: str) -> None:
    """End a key."""
    async with database.across_tenants() as connection:
        await revoke_key(connection, key.partition(".")[0])


def refusal(response: httpx.Response, status: int) -> str:
    """The message of an error in the shape of every error."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["message"])


async def test_a_key_opens_what_its_tenant_has(client: httpx.AsyncClient, database: Database) -> None:
    """With a key one gets in, as its tenant and its name: another tenant's key of the same name sees nothing of it."""
    mine, others = await make_key(database, tenant="mine"), await make_key(database, tenant="other")
    made = await client.post("/v1/conversations", headers=bearer(mine))
    assert made.status_code == 201
    path = f"/v1/conversations/{made.json()['id']}"
    seen = [(await client.get(path, headers=bearer(key))).status_code for key in (mine, others)]
    assert seen == [200, 404]


@pytest.mark.parametrize("fault", ["unknown id", "wrong secret", "expired", "revoked", "no secret", "empty", "none"])
async def test_a_key_that_is_not_live_is_refused(client: httpx.AsyncClient, database: Database, fault: str) -> None:
    """Whatever is wrong with it: 401, how to send one, and nothing that tells these cases apart."""
    lifetime = timedelta(microseconds=1) if fault == "expired" else None
    key = await make_key(database, lifetime=lifetime)
    if fault == "revoked":
        await revoke(database, key)
    sent = {
        "unknown id": f"aiapp_0000000000000000.{key.partition('.')[2]}",
        "wrong secret": f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}",
        "no secret": key.partition(".")[0],
        "empty": "",
    }.get(fault, key)
    response = await client.get(PATH, headers={} if fault == "none" else bearer(sent))
    assert refusal(response, 401) == "This needs a valid API key: `Authorization: Bearer KEY`."
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("written", ["bearer {}", "BEARER {}", "Bearer   {}"])
async def test_the_word_bearer_may_be_written_in_any_case(
    client: httpx.AsyncClient, database: Database, written: str
) -> None:
    """As HTTP has it."""
    key = await make_key(database)
    assert (await client.get(PATH, headers={"Authorization": written.format(key)})).status_code == 200


@pytest.mark.parametrize("written", ["Basic {}", "{}", "Token {}"])
async def test_a_good_key_in_another_scheme_is_refused(
    client: httpx.AsyncClient, database: Database, written: str
) -> None:
    """Only bearer tokens are read."""
    key = await make_key(database)
    refusal(await client.get(PATH, headers={"Authorization": written.format(key)}), 401)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: b"Bearer " + rest))
@example(value=b"Bearer aiapp_\0.x")
@example(value=b"Bearer \xff.\xff")
@example(value=b"Bearer ." + b"x" * 100_000)
async def test_a_malformed_header_is_no_key(client: httpx.AsyncClient, value: bytes) -> None:
    """Whatever bytes are sent, the answer is 401 and never a fault of the server's."""
    refusal(await client.get(PATH, headers=[(b"authorization", value)]), 401)


async def test_a_revoked_key_stops_at_once(client: httpx.AsyncClient, database: Database) -> None:
    """The request after the revocation is refused; the other key of the name goes on."""
    first, second = await make_key(database), await make_key(database)
    assert (await client.get(PATH, headers=bearer(first))).status_code == 200
    await revoke(database, first)
    refusal(await client.get(PATH, headers=bearer(first)), 401)
    assert (await client.get(PATH, headers=bearer(second))).status_code == 200


async def test_a_key_allows_its_scopes_and_no_more(client: httpx.AsyncClient, database: Database) -> None:
    """What lacks the scope is 403, with the scope that is missing."""
    reader = bearer(await make_key(database, scopes=frozenset({"documents:read"})))
    assert (await client.get(PATH, headers=reader)).status_code == 200
    told = refusal(await client.post(PATH, headers=reader, files={"file": ("a.md", b"# A")}), 403)
    assert told == "this API key lacks the scope documents:write"
    told = refusal(await client.post("/v1/ask", headers=reader, json={"question": "Why?"}), 403)
    assert told == "this API key lacks the scope chat"


async def test_every_route_below_v1_needs_a_key_and_says_so(client: httpx.AsyncClient) -> None:
    """The OpenAPI document names the scheme and a scope at each of them, and each is 401 without a key."""
    described = (await client.get("/openapi.json")).json()
    scheme = described["components"]["securitySchemes"]["ApiKey"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    routes = [
        (method, path, operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    ]
    protected = [route for route in routes if route[1].startswith("/v1/")]
    assert len(protected) > 3
    for method, path, operation in protected:
        [declared] = operation["security"]
        assert set(declared["ApiKey"]) & SCOPES, path
        refusal(await client.request(method, re.sub(r"\{\w+\}", "1", path)), 401)
    assert all("security" not in operation for _, path, operation in routes if not path.startswith("/v1"))


async def test_a_route_that_nobody_guards_lets_nobody_in() -> None:
    """Where the middleware did not find out who asks, the scope that is needed is nobody's."""
    app = FastAPI()
    add_error_handlers(app)
    app.get("/elsewhere", dependencies=[needs("chat")])(lambda: "secret")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        refusal(await client.get("/elsewhere"), 401)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json"])
async def test_the_rest_needs_no_key(client: httpx.AsyncClient, path: str) -> None:
    """Probes and the description are for everybody."""
    assert (await client.get(path)).status_code in {200, 503}


async def test_without_the_database_nobody_gets_in(settings: Settings) -> None:
    """Where nobody can look a key up the answer is 503, not a way in; a page without a key is 401 all the same."""
    away = with_keys(settings, database_url="postgresql://me:canary@127.0.0.1:1/app")
    async with in_process(away) as client:
        told = refusal(await client.get(PATH, headers=bearer(f"aiapp_{'0' * 16}.{'x' * 43}")), 503)
        assert "canary" not in told
        refusal(await client.get(PATH), 401)


LOOPBACK_NAMES = ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:8000"]
OTHER_NAMES = ["evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io", "10.0.0.1:8000", "", "["]


@pytest.mark.parametrize("host", LOOPBACK_NAMES)
async def test_a_developers_own_server_needs_no_key(open_client: httpx.AsyncClient, host: str) -> None:
    """Under any name of this machine."""
    assert (await open_client.get(PATH, headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", OTHER_NAMES)
async def test_a_name_that_was_made_to_lead_here_does_not(open_client: httpx.AsyncClient, host: str) -> None:
    """DNS rebinding: the page's own name would be in the Host header."""
    assert "localhost" in refusal(await open_client.get(PATH, headers={"Host": host}), 403)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example.com"}, 422),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 422),
        ({"Sec-Fetch-Site": "none"}, 422),
    ],
)
async def test_a_page_of_another_site_uploads_nothing(
    open_client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    """A form is sent without asking first, so its origin decides; 422 is the route's answer to an empty form."""
    form = {"content": b"--x--\r\n", "headers": {"Content-Type": BOUNDARY} | headers}
    refusal(await open_client.post(PATH, **form), status)  # type: ignore[arg-type]  # mypy takes the two values for one


async def test_another_machine_needs_a_key(open_client: httpx.AsyncClient) -> None:
    """Where the server listens to others though HOST does not say so, it lets nobody in without one."""
    transport = open_client._transport
    assert isinstance(transport, httpx.ASGITransport)
    transport.client = ("192.0.2.1", 1)
    assert "API_KEY_SECRET" in refusal(await open_client.get(PATH), 401)


async def test_a_key_that_nobody_needs_does_no_harm(open_client: httpx.AsyncClient) -> None:
    """Clients written for OpenAI's API always send one; here there is nothing to compare it with."""
    assert (await open_client.get(PATH, headers=bearer("sk-whatever"))).status_code == 200


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),  # noqa: S104  # compared, not bound
        ({"host": "app.example.com"}, True),
        ({"api_key_secret": PEPPER}, True),
        ({"environment": "production"}, True),
    ],
)
def test_when_a_key_is_needed(settings: Settings, changes: dict[str, object], *, needed: bool) -> None:
    """In production, where others can reach the server, and once keys are used at all."""
    assert needs_key(settings.model_copy(update=changes)) is needed


async def test_of_the_secret_only_a_hash_is_kept(
    client: httpx.AsyncClient, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands in no row, no representation, no answer and no log; with another API_KEY_SECRET it is worth nothing."""
    key = await make_key(database)
    secret = key.partition(".")[2]
    assert SHAPE.fullmatch(key)
    answers = [
        (await client.get(path, headers=bearer(sent))).text for path in (PATH, "/v1/no") for sent in (key, key + "x")
    ]
    async with database.across_tenants() as connection:
        rows = list(await connection.scalars(text("SELECT api_keys::text FROM api_keys")))
        shown = [repr(one) for one in await list_keys(connection)]
        assert await find_key(connection, key, SecretStr("another" * 5)) is None
        assert await find_key(connection, key, PEPPER)
    assert len(rows) == len(shown) == 1
    assert secret not in "".join([*answers, *rows, *shown, *capsys.readouterr()])


async def test_a_name_has_two_live_keys_at_most(database: Database) -> None:
    """A third is refused, until one is revoked or expires; other names and other tenants are free."""
    first = await make_key(database, lifetime=timedelta(microseconds=1))
    await make_key(database)
    second = await make_key(database)
    with pytest.raises(Conflict, match="shop has 2 live keys"):
        await make_key(database)
    await make_key(database, "other")
    await make_key(database, tenant="other")
    await revoke(database, second)
    await make_key(database)
    async with database.across_tenants() as connection:
        found = {key.id: key for key in await list_keys(connection)}
    assert [found[key.partition(".")[0]].live for key in (first, second)] == [False, False]
    assert sum(key.live for key in found.values()) == 4


async def test_a_race_for_the_second_key_has_one_winner(database: Database) -> None:
    """Of ten that make a key at the same moment two get one."""
    made = await asyncio.gather(*[make_key(database) for _ in range(10)], return_exceptions=True)
    assert sorted(type(one).__name__ for one in made) == ["Conflict"] * 8 + ["str"] * 2


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "x" * 101])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """The name is whose things are: it cannot be empty, which is nobody."""
    for tenant, key in ((name, "shop"), ("default", name)):
        with pytest.raises(InvalidInput, match="1 to 100 characters"):
            NewKey(tenant, key, SCOPES)


async def test_revoking_again_keeps_the_first_time(database: Database) -> None:
    """When it ended stays what it was."""
    key = await make_key(database)
    async with database.across_tenants() as connection:
        once = await revoke_key(connection, key.partition(".")[0])
    async with database.across_tenants() as connection:
        again = await revoke_key(connection, key.partition(".")[0])
    assert again == once
    assert once.revoked_at


def in_production(settings: Settings, url: str | None = None) -> Settings:
    """The settings of a server in production; not validated, so that the test's own database will do."""
    changes = {"api_key_secret": PEPPER, "worker_concurrency": 0, **PRODUCTION}
    return settings.model_copy(update=changes | ({"database_url": SecretStr(url)} if url else {}))


async def test_production_needs_a_live_key(settings: Settings, database: Database) -> None:
    """Without one the server refuses to start, and says how to make one; a dead key is none."""
    key = await make_key(database, lifetime=timedelta(microseconds=1))
    with pytest.raises(ConfigurationError, match="make one with `app keys create`"):
        async with in_process(in_production(settings)):
            pass
    await revoke(database, key)
    live = await make_key(database, tenant="another")
    async with in_process(in_production(settings)) as client:
        assert (await client.get(PATH, headers=bearer(live))).status_code == 200


async def test_development_needs_no_key_to_start(settings: Settings, database: Database) -> None:
    """Who has none yet can look at the rest, and make one."""
    await check_safe(with_keys(settings), database)


async def test_a_server_for_other_machines_needs_a_secret(settings: Settings, database: Database) -> None:
    """HOST alone would let everybody in or nobody; the server says what to set."""
    with pytest.raises(ConfigurationError, match=r"HOST=0\.0\.0\.0 lets other machines in: set API_KEY_SECRET"):
        await check_safe(settings.model_copy(update={"host": "0.0.0.0"}), database)  # noqa: S104  # as above


@pytest.mark.parametrize(
    ("role", "told"),
    [
        ("SUPERUSER", "is a superuser"),
        ("BYPASSRLS", r"passes by row-level security \(BYPASSRLS\)"),
        ("IN ROLE mighty", "is a superuser"),
        ("IN ROLE the_owner", "owns the tables"),
    ],
)
async def test_production_refuses_a_user_who_may_too_much(
    settings: Settings, owner: Database, database_url: str, role: str, told: str
) -> None:
    """A superuser, one who passes by the policies, the tables' owner, and whoever may become one of these."""
    await make_key(owner)
    names = "CREATE ROLE mighty SUPERUSER; CREATE ROLE the_owner; ALTER TABLE feedback OWNER TO the_owner"
    async with owner.engine.begin() as connection:
        table_owner = await connection.scalar(text("SELECT tableowner FROM pg_tables WHERE tablename = 'feedback'"))
        await connection.exec_driver_sql(f"{names}; CREATE ROLE too_much LOGIN PASSWORD 'canary' {role}")
        await connection.exec_driver_sql("GRANT app_tenant, app_worker TO too_much")
    url = make_url(database_url).set(username="too_much", password="canary")
    try:
        async with connect(url.render_as_string(hide_password=False)) as theirs:
            with pytest.raises(ConfigurationError, match=told) as refused:
                await check_safe(in_production(settings), theirs)
        assert "app_tenant and app_worker" in refused.value.message
    finally:
        async with owner.engine.begin() as connection:
            await connection.exec_driver_sql(
                f"ALTER TABLE feedback OWNER TO {table_owner}; DROP ROLE too_much, mighty, the_owner"
            )
