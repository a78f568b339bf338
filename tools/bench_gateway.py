"""What the gateway costs, in CPU time of the serving process: `make bench-gateway`. Prints a table; asserts nothing.

Two servers at a time are asked in turn, a, b, a, b, with the same requests, and each round gives one ratio: what
else the machine does at that moment slows both. Runs with the generated project's Python, in its folder.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from app.db.embedded import EmbeddedPostgres
from app.db.engine import migrate

from tools.bench_servers import CHUNKS

ROUNDS = 7
TICKS = os.sysconf("SC_CLK_TCK")
PASSAGE = "A deployment that keeps failing is left alone for a while, and one request at a time asks if it is back. "
QUESTIONS = [
    json.dumps({"messages": [{"role": "system", "content": PASSAGE * 20}, {"role": "user", "content": f"Why? {n}"}]})
    for n in range(50)
]


@dataclass(frozen=True)
class Server:
    """A process and where it listens."""

    process: subprocess.Popen[bytes]
    url: str

    def cpu_seconds(self) -> float:
        """What the process has used so far, in user and kernel mode, with all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass(frozen=True)
class Comparison:
    """One row of the table: `server` over `base`, for `requests` calls a round at `concurrency`."""

    name: str
    server: str
    base: str
    path: str
    concurrency: int
    requests: int
    wanted: float
    units: int = 1


COMPARISONS = [
    Comparison("gateway / bare litellm, c=16", "gateway", "bare", "complete", 16, 300, 1.25),
    Comparison("gateway / bare litellm, c=64", "gateway", "bare", "complete", 64, 300, 1.25),
    Comparison("cache hit / pass-through, c=16", "hits", "pass", "complete", 16, 1_500, 2),
    Comparison("cache hit / pass-through, c=64", "hits", "pass", "complete", 64, 1_500, 2),
    Comparison("gateway / bare litellm, a chunk of a stream, c=16", "gateway", "bare", "stream", 16, 24, 1.15, CHUNKS),
]


@contextmanager
def running(kind: str, **settings: str) -> Iterator[Server]:
    """Start a process on a socket that listens already, so that nobody has to wait for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        descriptor = listening.fileno()
        command = [sys.executable, "-m", "tools.bench_servers", kind, str(descriptor)]
        process = subprocess.Popen(command, env=os.environ | settings, pass_fds=[descriptor])  # noqa: S603  # our own
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield Server(process, url)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@contextmanager
def postgres() -> Iterator[str]:
    """The built-in Postgres in a folder of its own, with the application's tables."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            url = server.start()
            asyncio.run(migrate(url))
            yield url
        finally:
            server.stop()
            shutil.rmtree(server.home, ignore_errors=True)


async def load(session: aiohttp.ClientSession, url: str, requests: int, concurrency: int) -> None:
    """Ask so many times, at most so many at a time."""
    numbers = iter(range(requests))

    async def ask() -> None:
        for number in numbers:
            async with session.post(url, data=QUESTIONS[number % len(QUESTIONS)]) as reply:
                reply.raise_for_status()
                await reply.read()

    await asyncio.gather(*(ask() for _ in range(concurrency)))


async def cost(session: aiohttp.ClientSession, server: Server, comparison: Comparison) -> float:
    """CPU microseconds of the server, for each request or chunk."""
    before = server.cpu_seconds()
    await load(session, f"{server.url}/{comparison.path}", comparison.requests, comparison.concurrency)
    return 1e6 * (server.cpu_seconds() - before) / (comparison.requests * comparison.units)


async def compare(session: aiohttp.ClientSession, servers: dict[str, Server], comparison: Comparison) -> str:
    """Warm both, measure in turn, and give a row of the table."""
    pair = servers[comparison.base], servers[comparison.server]
    rounds = [[await cost(session, server, comparison) for server in pair] for _ in range(ROUNDS + 1)][1:]
    ratios = sorted(over / base for base, over in rounds)
    base, over = (statistics.median(column) for column in zip(*rounds, strict=True))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    row = "| {} | **{:.2f}** | {} | {:.0f} | {:.0f} | {} |".format
    return row(comparison.name, statistics.median(ratios), spread, over, base, comparison.wanted)


async def measure(servers: dict[str, Server]) -> None:
    """Print a row for each comparison as it is done."""
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, {ROUNDS} rounds\n")
    print("| CPU time of the server | ratio, median | lowest to highest | us | base, us | wanted, at most |")
    print("|---|---|---|---|---|---|", flush=True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for comparison in COMPARISONS:
            print(await compare(session, servers, comparison), flush=True)


def main() -> None:
    """Start everything, measure, and end everything."""
    with ExitStack() as stack:
        provider = stack.enter_context(running("provider"))
        asked = {"CHAT_MODEL": "openai/bench", "CHAT_API_BASE": f"{provider.url}/v1", "CHAT_API_KEY": "none"}
        asked |= {"CHAT_INPUT_PRICE": "1", "CHAT_OUTPUT_PRICE": "4", "TENANT_BUDGET_USD": "1000000"}
        asked["DATABASE_URL"] = stack.enter_context(postgres())
        servers = {name: stack.enter_context(running(name, **asked)) for name in ("bare", "gateway", "pass")}
        servers["hits"] = stack.enter_context(running("gateway", CACHE_MODE="on", **asked))
        asyncio.run(measure(servers))


if __name__ == "__main__":
    main()
