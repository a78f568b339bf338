"""API keys: how one is made and found, and its row, which has no more of the secret than an HMAC.

A key is `ID.SECRET`; the id is no secret, and begins with what scanners for leaked keys can look for. Knows nothing of
requests.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy import bindparam, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import api_keys
from app.errors import Conflict, InvalidInput, NotFound
from app.types import Scope

PREFIX = "aiapp_"
ID_BYTES, SECRET_BYTES = 8, 32
SHAPE = re.compile(r"aiapp_[0-9a-f]{16}\.[\w-]{43}", re.ASCII)
MOST_LIVE = 2  # of one name: the one that is in use, and the one that takes its place
LONGEST_NAME = 100
# The seeds 0 to 3 are taken, in `stamps`, `vectors` and `locks`.
ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant || '/' || :name, 4))")
LIVE = api_keys.c.revoked_at.is_(None) & or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now())


@dataclass(frozen=True, slots=True)
class NewKey:
    """Who is to have a key, for what, and for how long; None is for ever. Raises InvalidInput where a name is none."""

    tenant: str
    name: str
    scopes: frozenset[Scope]
    lifetime: timedelta | None = None

    def __post_init__(self) -> None:
        for given in (self.tenant, self.name):
            if not (given.strip() and given.isprintable() and len(given) <= LONGEST_NAME):
                raise InvalidInput(
                    f"a key and a tenant have names of 1 to {LONGEST_NAME} characters that can be printed"
                )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key, without its secret. It is live until it expires or is revoked."""

    id: str
    tenant: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    live: bool


COLUMNS = (*(api_keys.c[name] for name in ApiKey.__slots__ if name != "live"), LIVE.label("live"))
# Made once, since every request asks it.
FIND = select(*COLUMNS, api_keys.c.hash).where(api_keys.c.id == bindparam("given"), LIVE)


async def create_key(connection: AsyncConnection, pepper: SecretStr, wanted: NewKey) -> str:
    """Store a new key, hashed with `pepper`, and give all of it: nobody can find it out again.

    Raises:
        Conflict: the tenant has two live keys of this name.

    """
    names = {"tenant": wanted.tenant, "name": wanted.name}
    await connection.execute(ONE_AT_A_TIME, names)
    live = select(func.count()).select_from(api_keys).filter_by(**names).where(LIVE)
    if (await connection.scalar(live) or 0) >= MOST_LIVE:
        raise Conflict(f"{wanted.name} has {MOST_LIVE} live keys: revoke the one that is not in use any more")
    key_id, secret = f"{PREFIX}{secrets.token_hex(ID_BYTES)}", secrets.token_urlsafe(SECRET_BYTES)
    row = {"id": key_id, **names, "scopes": sorted(wanted.scopes), "hash": _hash(secret, pepper)}
    expires_at = None if wanted.lifetime is None else func.now() + wanted.lifetime
    await connection.execute(insert(api_keys).values(**row, expires_at=expires_at))
    return f"{key_id}.{secret}"


async def find_key(connection: AsyncConnection, given: str, pepper: SecretStr) -> ApiKey | None:
    """The live key that this is, whosever it is; None for whatever else somebody may send."""
    key_id, _, secret = given.partition(".")
    row = (await connection.execute(FIND, {"given": key_id})).first()
    stored = row.hash if row else bytes(hashlib.sha256().digest_size)
    if not hmac.compare_digest(_hash(secret, pepper), stored) or row is None:
        return None
    return ApiKey(*row[:-1])


async def list_keys(connection: AsyncConnection) -> list[ApiKey]:
    """All that the transaction may see, with those that are no longer live."""
    by_name = select(*COLUMNS).order_by(api_keys.c.tenant, api_keys.c.name, api_keys.c.created_at, api_keys.c.id)
    return [ApiKey(*row) for row in await connection.execute(by_name)]


async def revoke_key(connection: AsyncConnection, key_id: str) -> ApiKey:
    """From the end of the transaction on nobody gets in with it; to revoke it again changes nothing.

    Raises:
        NotFound: there is no such key.

    """
    once = func.coalesce(api_keys.c.revoked_at, func.now())
    revoked = update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=once).returning(*COLUMNS)
    if (row := (await connection.execute(revoked)).first()) is None:
        raise NotFound(f"there is no API key {key_id}: `app keys list` shows them")
    return ApiKey(*row)


def _hash(secret: str, pepper: SecretStr) -> bytes:
    return hmac.digest(pepper.get_secret_value().encode(), secret.encode(), "sha256")
