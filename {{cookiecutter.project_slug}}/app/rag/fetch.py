"""Fetches one https address, and cannot be led to a place that is not public.

A name is looked up once, all that it stands for is checked, and the connection goes to that very address; so does each
redirect. Knows nothing of documents: what the bytes are is found out later, in a process of its own.
"""

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

from app.errors import DocumentTooLarge, InvalidInput, UnsupportedDocument
from app.settings import Settings

Place = tuple[str, int]
"""An IP address and a port."""
Resolver = Callable[[str], Awaitable[Sequence[Place]]]
Address = IPv4Address | IPv6Address

PORT = 443
SECONDS, CONNECT_SECONDS = 30, 5
MOST_REDIRECTS = 5
MOST_TRIES = 3
MOST_CHARACTERS = 2_000
SHOWN_CHARACTERS = 100
GZIP = 16 + zlib.MAX_WBITS  # with gzip's header, and no other

# A host is a name: no number, in any of its notations, since the last part begins with a letter.
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
NAME = re.compile(r"(?=.{1,253}\Z)(?:" + LABEL + r"\.)*(?=[a-z])" + LABEL)
# IANA's registries of special-purpose addresses, as far as `is_global` does not hold them in every Python we run on.
IPV6_IN_USE = ip_network("2000::/3")
SPECIAL = [
    ip_network(block)
    for block in (
        *("192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24", "224.0.0.0/3"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
        "168.63.129.16/32",  # where a virtual machine at Azure asks about itself
    )
]
# The middle of an IPv6 address that ends in an IPv4 one (ISATAP, RFC 5214).
ISATAP = {0x0000_5EFE, 0x0200_5EFE}

DOCUMENTS = re.compile(
    r"text/[\w.+-]+|message/rfc822"
    r"|application/(?:pdf|json|jsonl|x-ndjson|xhtml\+xml|vnd\.openxmlformats-officedocument\.[\w.]+)"
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The document's bytes, and the address that was asked for: normalised, without its fragment."""

    url: str
    data: bytes


async def look_up(host: str) -> list[Place]:
    """Every address of the host, the one to try first first."""
    found = await asyncio.get_running_loop().getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [(str(place[0]), int(place[1])) for *_, place in found]


def is_public(address: Address) -> bool:
    """Whether it is a machine on the internet, and not a way to another address that is written inside it."""
    if isinstance(address, IPv6Address) and (
        address not in IPV6_IN_USE or address.scope_id or int(address) >> 32 & 0xFFFF_FFFF in ISATAP
    ):
        return False
    return address.is_global and not any(address in block for block in SPECIAL)


async def fetch(
    url: str,
    settings: Settings,
    *,
    resolve: Resolver = look_up,
    is_allowed: Callable[[Address], bool] = is_public,
    tls: ssl.SSLContext | None = None,
) -> Fetched:
    """Fetch a document. The last three say who looks names up, where they may lead, and whose certificates count.

    Raises:
        InvalidInput: addresses are not allowed here, this one least of all, or it gave no document in time.
        UnsupportedDocument: it gives something that is no document.
        DocumentTooLarge: it gives more than MAX_DOCUMENT_BYTES.

    """
    if not settings.allow_urls:
        raise InvalidInput("addresses are not fetched here: set ALLOW_URLS=true to let them in")
    first = target = _checked(url)
    if tls is None:
        tls = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
    try:
        async with asyncio.timeout(SECONDS):
            for _ in range(MOST_REDIRECTS + 1):
                places = await _places(_host(target), resolve, is_allowed)
                async with _answer(target, places, tls, settings.app_name) as response:
                    if not response.has_redirect_location:
                        return Fetched(
                            str(first), await _document(_host(target), response, settings.max_document_bytes)
                        )
                    target = _checked(response.headers["location"], target)
    except (TimeoutError, httpx.TimeoutException):
        raise InvalidInput(f"{_host(target)} did not give the document within {SECONDS} seconds") from None
    except httpx.ConnectError:
        raise InvalidInput(f"{_host(target)} cannot be connected to, or its certificate does not hold") from None
    except (httpx.HTTPError, zlib.error):  # their texts may quote what was sent
        raise InvalidInput(f"{_host(target)} broke off, or sent what cannot be read") from None
    raise InvalidInput(f"{_host(first)} redirects more than {MOST_REDIRECTS} times")


def _checked(written: str, base: httpx.URL | None = None) -> httpx.URL:
    """The address, relative to that of the redirect, where it is of a form that may be asked for."""
    subject = "the redirect's address" if base else "the address"
    try:
        url = (base.join(written) if base else httpx.URL(written)).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        raise InvalidInput(f"{subject} cannot be understood: https://host/path was expected") from None
    if len(str(url)) > MOST_CHARACTERS:
        raise InvalidInput(f"{subject} is longer than {MOST_CHARACTERS:,} characters")
    if url.scheme != "https":
        raise InvalidInput(f"{subject} does not begin with https://")
    if url.userinfo or url.port is not None:
        raise InvalidInput(f"{subject} has a user or a port; only https://host/path is fetched")
    if not NAME.fullmatch(_host(url)):
        raise InvalidInput(f"{subject} has no host's name; numbers in its place are not fetched")
    return url


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")


async def _places(host: str, resolve: Resolver, is_allowed: Callable[[Address], bool]) -> Sequence[Place]:
    """Where the host is, looked up once; none where one of its addresses is not allowed."""
    try:
        places = await resolve(host)
    except (OSError, UnicodeError):
        places = []
    if not places:
        raise InvalidInput(f"there is no host of the name {host}")
    if not all(is_allowed(ip_address(address)) for address, _ in places):
        raise InvalidInput(f"{host} is not on the public internet; only what is there is fetched")
    return places


@asynccontextmanager
async def _answer(
    target: httpx.URL, places: Sequence[Place], tls: ssl.SSLContext, app_name: str
) -> AsyncIterator[httpx.Response]:
    """The head of the response; its body is still to be read.

    The transport is new, so it has no connection that was made for another name at the same address. It is used without
    a client, so there are no cookies and no credentials, and nobody else looks at redirects.
    """
    agent = re.sub(r"[^A-Za-z0-9.]+", "-", app_name)
    headers = {"Host": _host(target), "User-Agent": agent, "Accept": "*/*", "Accept-Encoding": "gzip"}
    async with httpx.AsyncHTTPTransport(verify=tls) as transport:
        response = await _connected(transport, target, headers, places[:MOST_TRIES])
        try:
            yield response
        finally:
            await response.aclose()


async def _connected(
    transport: httpx.AsyncHTTPTransport, target: httpx.URL, headers: dict[str, str], places: Sequence[Place]
) -> httpx.Response:
    """What the first place says that can be connected to; its certificate has to be for the name."""
    (address, port), *others = places
    timeout = httpx.Timeout(SECONDS, connect=CONNECT_SECONDS).as_dict()
    extensions = {"sni_hostname": headers["Host"], "timeout": timeout}
    request = httpx.Request("GET", target.copy_with(host=address, port=port), headers=headers, extensions=extensions)
    try:
        return await transport.handle_async_request(request)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        if not others:
            raise
    return await _connected(transport, target, headers, others)


async def _document(host: str, response: httpx.Response, most_bytes: int) -> bytes:
    """The body of a response that is a document."""
    if response.status_code != httpx.codes.OK:
        raise InvalidInput(f"{host} answers with status {response.status_code}")
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not DOCUMENTS.fullmatch(media_type):
        raise UnsupportedDocument(f"{host} gives {media_type[:SHOWN_CHARACTERS]!r}, which is no document's type")
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in {"identity", "gzip"}:
        raise UnsupportedDocument(f"{host} packs it as {packing[:SHOWN_CHARACTERS]!r}, and was asked for gzip")
    data = await _body(response, most_bytes, is_packed=packing == "gzip")
    if len(data) > most_bytes:
        raise DocumentTooLarge(f"{host} gives more than the {most_bytes:,} bytes that MAX_DOCUMENT_BYTES allows")
    return data


async def _body(response: httpx.Response, most_bytes: int, *, is_packed: bool) -> bytes:
    """The body, unpacked; one that is too large is left soon after the limit, however small it was packed."""
    data, inflate = bytearray(), zlib.decompressobj(GZIP)
    async for piece in response.aiter_raw():
        data += inflate.decompress(piece, most_bytes + 1) if is_packed else piece
        if len(data) > most_bytes:
            return bytes(data)
        if inflate.unused_data:
            raise zlib.error
    if is_packed and not inflate.eof:
        raise zlib.error
    return bytes(data)
