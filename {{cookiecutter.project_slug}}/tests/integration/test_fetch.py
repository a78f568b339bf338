"""Fetching an address over real TLS on loopback: what is taken, what is refused, and where no connection ever goes."""

import asyncio
import gzip
import re
import socket
import ssl
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DocumentTooLarge, InvalidInput, UnsupportedDocument
from app.rag import fetch as module
from app.rag.fetch import Address, Fetched, Place, fetch, is_public
from app.settings import Settings
from tests.unit.test_fetch import NETWORKS, NO_ADDRESSES

SETTINGS = Settings(allow_urls=True, max_document_bytes=100_000, app_name="Café\r\nX-Evil: 1")
ALSO_HERE = ("docs.example", "other.example", "stranger.example")
CERTIFIED = ALSO_HERE[:2]
CANARY = b"canary-of-the-body"
TLS = ssl.create_default_context()
DOCS = "https://docs.example/"

_watchers: list[list[Any]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for seen in _watchers:
            seen.append(arguments[1])


sys.addaudithook(_watch)


@contextmanager
def connections() -> Iterator[list[Any]]:
    """Where sockets of this process connect to meanwhile; beyond loopback the test's own guard fails it at once."""
    seen: list[Any] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A whole response; `content_type` is the header Content-Type."""
    lines = {"content_type": "text/plain", "content_length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def moved(location: str, status: str = "302 Found", **headers: str) -> bytes:
    """A redirect."""
    return reply(CANARY, status, location=location, **headers)


@dataclass
class Site:
    """A server that answers each address as it is told, and the names that lead to it."""

    port: int
    tls: ssl.SSLContext
    replies: dict[str, bytes] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    places: dict[str, list[Place]] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)
    lingers: bool = False

    @property
    def place(self) -> Place:
        """Where it is."""
        return ("127.0.0.1", self.port)

    async def resolve(self, host: str) -> list[Place]:
        """What a name stands for; nothing for one that nobody has."""
        self.looked_up.append(host)
        return self.places.get(host) or ([self.place] if host in ALSO_HERE else [])

    async def fetch(self, url: str = DOCS, settings: Settings = SETTINGS, **parts: Any) -> Fetched:
        """As in production, but that the server's own address is public here, and its certificate is known."""
        given: dict[str, Any] = {"resolve": self.resolve, "is_allowed": public_here, "tls": self.tls}
        return await fetch(url, settings, **(given | parts))

    async def refusal(self, url: str = DOCS, kind: type[InvalidInput] = InvalidInput, **parts: Any) -> str:
        """What is said of an address that gives nothing; never a word of what the server sent."""
        with pytest.raises(kind) as caught:
            await self.fetch(url, **parts)
        assert CANARY.decode() not in caught.value.message
        return caught.value.message

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close; where it lingers, after the other side."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            host = next(line[6:] for line in head.splitlines() if line.startswith("Host: "))
            writer.write(self.replies.get(host + head.split()[1], reply(CANARY, "404 Not Found")))
            await writer.drain()
            if self.lingers:
                await reader.read()
            writer.close()
            await writer.wait_closed()


def public_here(address: Address) -> bool:
    """Production's rule, and the server's own address."""
    return address == ip_address("127.0.0.1") or is_public(address)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for two of the names, and its key, made for this run."""
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "certificate.pem", folder / "key.pem"
    names = ",".join(f"DNS:{name}" for name in CERTIFIED)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
            *("-addext", f"subjectAltName={names}", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-out", str(made[0]), "-keyout", str(made[1])),
        ],
        check=True,
        capture_output=True,
    )
    return made


@pytest.fixture
async def site(certificate: tuple[Path, Path]) -> AsyncIterator[Site]:
    """The server, on a port of its own."""
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(*certificate)
    made = Site(0, ssl.create_default_context(cafile=certificate[0]))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=own)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def test_a_document_is_fetched(site: Site) -> None:
    """As it stands there; the address is normalised, and its fragment stays here."""
    site.replies["docs.example/a%20page?q=1"] = reply(b"# Tea")
    fetched = await site.fetch("HTTPS://Docs.Example:443/a page?q=1#part")
    assert fetched == Fetched("https://docs.example/a%20page?q=1", b"# Tea")


async def test_a_request_says_who_asks_and_nothing_else(site: Site) -> None:
    """The name of the application, without what could be another header; no cookie, no credential."""
    site.replies["docs.example/"] = reply()
    await site.fetch()
    lines = [line.lower() for line in site.heads[0].split("\r\n") if line]
    assert lines[0] == "get / http/1.1"
    assert sorted(lines[1:]) == [
        *("accept-encoding: gzip", "accept: */*", "host: docs.example"),
        "user-agent: caf-x-evil-1",
    ]


async def test_addresses_are_off_until_they_are_switched_on(site: Site) -> None:
    """The refusal says how."""
    with connections() as seen:
        assert "ALLOW_URLS=true" in await site.refusal(settings=Settings())
    assert (seen, site.looked_up) == ([], [])


# Server-side request forgery: no way into the network that the application runs in.


@pytest.mark.parametrize("url", NO_ADDRESSES)
async def test_an_address_of_another_form_is_not_asked(site: Site, url: str) -> None:
    """Nothing is looked up, nothing connected to."""
    with connections() as seen:
        await site.refusal(url)
    assert (seen, site.looked_up) == ([], [])


@pytest.mark.parametrize("url", [url for url in NO_ADDRESSES if re.match(r"(?!https:///)[ -~]+://[ -~]+\Z", url)])
async def test_no_redirect_leads_to_an_address_of_another_form(site: Site, url: str) -> None:
    """The same rules at the end of a chain, for all that a header can hold and that is no path."""
    site.replies |= {"docs.example/": moved("/next"), "docs.example/next": moved(url)}
    with connections() as seen:
        assert (await site.refusal()).startswith("the redirect's address ")
    assert seen == [site.place] * 2


@pytest.mark.parametrize("network", NETWORKS)
async def test_a_name_that_stands_for_a_private_address_is_not_asked(site: Site, network: str) -> None:
    """The network's first, some and last address, alone, beside an allowed one, and behind a redirect."""
    first, last = (int(place) for place in (ip_network(network)[0], ip_network(network)[-1]))
    kind = type(ip_address(network.partition("/")[0]))
    site.replies["docs.example/"] = moved("https://inside.example/latest/meta-data/")
    for inside in {kind(first), kind((first + last) // 2), kind(last)}:
        place = (str(inside), site.port)
        for places in ([place], [site.place, place], [place, site.place]):
            site.places["inside.example"] = places
            with connections() as seen:
                assert "is not on the public internet" in await site.refusal("https://inside.example/")
                assert seen == []
                assert "inside.example is not on the public internet" in await site.refusal()
                assert seen == [site.place]


@given(st.sampled_from(NETWORKS).flatmap(lambda network: st.ip_addresses(network=network)))
def test_no_private_address_is_connected_to(address: Address) -> None:
    """Whichever of a network's addresses a name stands for."""

    async def resolve(_: str) -> list[Place]:
        return [(str(address), 443)]

    with connections() as seen, pytest.raises(InvalidInput):
        asyncio.run(fetch(DOCS, SETTINGS, resolve=resolve, tls=TLS))
    assert seen == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
async def test_this_machine_is_not_asked_under_its_own_name(host: str) -> None:
    """With nothing but what production has."""
    with connections() as seen, pytest.raises(InvalidInput, match="localhost is not on the public internet"):
        await fetch(f"https://{host}/", SETTINGS)
    assert seen == []


async def test_a_name_is_looked_up_once(site: Site) -> None:
    """One that means something else a moment later (rebinding) gains nothing: the checked address is the one asked."""
    answers = [[site.place], [("169.254.169.254", site.port)]]

    async def resolve(host: str) -> list[Place]:
        site.looked_up.append(host)
        return answers.pop(0)

    site.replies["docs.example/"] = reply(b"as checked")
    with connections() as seen:
        assert (await site.fetch(resolve=resolve)).data == b"as checked"
    assert (seen, site.looked_up) == ([site.place], ["docs.example"])


async def test_a_redirect_to_the_same_name_is_looked_up_again(site: Site) -> None:
    """Each step is checked by itself, so that a name that has moved meanwhile is found out."""
    answers = [[site.place], [("10.0.0.1", site.port)]]

    async def resolve(_: str) -> list[Place]:
        return answers.pop(0)

    site.replies["docs.example/"] = moved("/next")
    with connections() as seen:
        assert "docs.example is not on the public internet" in await site.refusal(resolve=resolve)
    assert (seen, answers) == ([site.place], [])


async def test_no_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look the name up itself."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.replies["docs.example/"] = reply(b"direct")
    with connections() as seen:
        assert (await site.fetch()).data == b"direct"
    assert seen == [site.place]


# Who is at the other end.


async def test_a_certificate_has_to_be_for_the_name(site: Site) -> None:
    """Also where a connection to the same address stands already, made for a name that it is for."""
    site.replies["docs.example/"] = moved("https://stranger.example/")
    assert "certificate" in await site.refusal("https://stranger.example/")
    assert "stranger.example cannot be connected to" in await site.refusal()


async def test_a_certificate_of_nobody_known_is_refused(
    site: Site, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default those count who sign for browsers, and the environment adds nobody."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    site.replies["docs.example/"] = reply(b"from nobody")
    assert "certificate" in await site.refusal(tls=None)
    assert site.heads == []


async def test_another_address_is_tried_where_one_is_dead(site: Site) -> None:
    """Two more, and not a list as long as somebody likes."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = ("127.0.0.1", closed.getsockname()[1])
    site.replies["docs.example/"] = reply(b"third")
    site.places["docs.example"] = [dead, dead, site.place]
    assert (await site.fetch()).data == b"third"
    site.places["docs.example"] = [dead, dead, dead, site.place]
    with connections() as seen:
        assert "cannot be connected to" in await site.refusal()
    assert seen == [dead] * 3


@pytest.mark.parametrize("error", [None, socket.gaierror(-2, "unknown"), UnicodeError("label too long")])
async def test_a_name_that_nobody_has(site: Site, error: Exception | None) -> None:
    """However the look-up says so."""

    async def resolve(_: str) -> list[Place]:
        if error:
            raise error
        return []

    assert await site.refusal(resolve=resolve) == "there is no host of the name docs.example"


# Redirects.


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_followed(site: Site, status: str) -> None:
    """To a relative address or to another host; the document keeps the address that was asked for, and cookies end."""
    site.replies |= {
        "docs.example/old": moved("new?a=1#part", status, set_cookie="session=1; Path=/"),
        "docs.example/new?a=1": moved("//other.example/deep/", status),
        "other.example/deep/": moved("here", status),
        "other.example/deep/here": reply(b"found"),
    }
    assert await site.fetch(f"{DOCS}old#top") == Fetched(f"{DOCS}old", b"found")
    assert site.looked_up == ["docs.example", "docs.example", "other.example", "other.example"]
    assert not any("cookie" in head.lower() or "referer" in head.lower() for head in site.heads)


async def test_redirects_end(site: Site) -> None:
    """Five are followed; a sixth, or a circle, is not."""
    site.replies |= {f"docs.example/{n}": moved(f"/{n - 1}") for n in range(1, 7)}
    site.replies["docs.example/0"] = reply(b"end")
    assert (await site.fetch(f"{DOCS}5")).data == b"end"
    assert await site.refusal(f"{DOCS}6") == "docs.example redirects more than 5 times"
    site.replies["docs.example/"] = moved("/")
    assert "more than 5 times" in await site.refusal()


async def test_a_redirect_without_a_place_is_none(site: Site) -> None:
    """It is a status as any other."""
    site.replies["docs.example/"] = reply(CANARY, "302 Found")
    assert await site.refusal() == "docs.example answers with status 302"


# What is sent.


@pytest.mark.parametrize(
    "status", ["201 Created", "204 No Content", "206 Partial", "304 Not Modified", "403 No", "500 No"]
)
async def test_another_status_gives_no_document(site: Site, status: str) -> None:
    """The number is told, and nothing that the server wrote."""
    body = b"" if status[:3] in {"204", "304"} else CANARY
    site.replies["docs.example/"] = reply(body, status)
    assert await site.refusal() == f"docs.example answers with status {status[:3]}"


OFFICE = "application/vnd.openxmlformats-officedocument."


@pytest.mark.parametrize(
    "media_type",
    [
        *("text/markdown; charset=utf-8", "Text/HTML", "text/csv", "application/pdf", "application/json"),
        *("application/x-ndjson", "application/jsonl", "application/xhtml+xml", "message/rfc822"),
        *(f"{OFFICE}wordprocessingml.document", f"{OFFICE}presentationml.presentation", f"{OFFICE}spreadsheetml.sheet"),
    ],
)
async def test_documents_are_taken(site: Site, media_type: str) -> None:
    """Whatever the loaders read."""
    site.replies["docs.example/"] = reply(b"a document", content_type=media_type)
    assert (await site.fetch()).data == b"a document"


@pytest.mark.parametrize(
    "media_type", ["image/png", "application/zip", "application/octet-stream", "", "text/" + "x " * 99]
)
async def test_what_is_no_document_is_refused_by_its_type(site: Site, media_type: str) -> None:
    """Before any of it is read."""
    site.replies["docs.example/"] = reply(CANARY, content_type=media_type)
    said = await site.refusal(kind=UnsupportedDocument)
    assert said == f"docs.example gives {media_type[:100]!r}, which is no document's type"


async def test_a_document_as_large_as_allowed(site: Site) -> None:
    """One byte more is too much, whether or not the length is announced."""
    most = SETTINGS.max_document_bytes
    site.replies["docs.example/"] = reply(b"x" * most)
    assert len((await site.fetch()).data) == most
    for large in (reply(b"x" * (most + 1)), reply(b"%x\r\n%s\r\n0\r\n\r\n" % (most + 1, b"x" * (most + 1)))):
        chunked = (
            large.replace(b"content-length", b"transfer-encoding: chunked\r\nx-length")
            if b"\r\n0\r\n" in large
            else large
        )
        site.replies["docs.example/"] = chunked
        assert "more than the 100,000 bytes that MAX_DOCUMENT_BYTES allows" in await site.refusal(kind=DocumentTooLarge)


async def test_a_packed_document_is_unpacked(site: Site) -> None:
    """As large as one that is not packed, and no larger."""
    most = SETTINGS.max_document_bytes
    site.replies["docs.example/"] = reply(gzip.compress(b"x" * most), content_encoding="GZIP")
    assert (await site.fetch()).data == b"x" * most
    site.replies["docs.example/"] = reply(gzip.compress(b"x" * (most + 1)), content_encoding="gzip")
    assert "MAX_DOCUMENT_BYTES" in await site.refusal(kind=DocumentTooLarge)


async def test_a_bomb_is_not_unpacked(site: Site) -> None:
    """50 MB of nothing in 50 kB stop at the limit, in memory too."""
    site.replies["docs.example/"] = reply(gzip.compress(bytes(50_000_000), 9), content_encoding="gzip")
    tracemalloc.start()
    await site.refusal(kind=DocumentTooLarge)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    "body",
    [gzip.compress(CANARY, mtime=0)[:-1], gzip.compress(CANARY, mtime=0) + b"x", b"", CANARY],
    ids=["cut", "more", "empty", "plain"],
)
async def test_what_is_packed_badly_is_refused(site: Site, body: bytes) -> None:
    """Half a document is none."""
    site.replies["docs.example/"] = reply(body, content_encoding="gzip")
    assert await site.refusal() == "docs.example broke off, or sent what cannot be read"


async def test_what_is_packed_in_another_way_is_refused(site: Site) -> None:
    """It was not asked for."""
    site.replies["docs.example/"] = reply(CANARY, content_encoding="gzip, gzip")
    assert (
        await site.refusal(kind=UnsupportedDocument) == "docs.example packs it as 'gzip, gzip', and was asked for gzip"
    )


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        CANARY + b"\r\n\r\n",
        b"HTTP/1.1 200 " + CANARY,
        reply(CANARY, content_length="999"),
        reply(CANARY, content_length="-1"),
        reply(transfer_encoding="chunked", content_type="text/plain") + b"zz\r\n" + CANARY,
        b"HTTP/1.1 200 OK\r\n" + b"x: " + CANARY * 20_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "no HTTP", "half a head", "cut", "negative", "no chunk", "large head"],
)
async def test_a_broken_response_is_refused(site: Site, sent: bytes) -> None:
    """In our words."""
    site.replies["docs.example/"] = sent
    assert await site.refusal() == "docs.example broke off, or sent what cannot be read"


@pytest.mark.parametrize("begun", [b"", reply(b"a", content_length="9")], ids=["head", "body"])
async def test_time_is_limited(site: Site, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it together: a server that never comes to an end is left."""
    monkeypatch.setattr(module, "SECONDS", 0.3)
    site.replies["docs.example/"], site.lingers = begun, True
    assert await site.refusal() == "docs.example did not give the document within 0.3 seconds"


async def test_a_look_up_that_does_not_end_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as well."""
    monkeypatch.setattr(module, "SECONDS", 0.05)

    async def resolve(_: str) -> list[Place]:
        await asyncio.Event().wait()
        return []

    assert "within 0.05 seconds" in await site.refusal(resolve=resolve)
