"""Hundreds of streams at a time through a real `app serve`, and a server that stops: `make soak-api`.

    python -m tools.soak_api [STREAMS SECONDS]

Exits with 1 and says why where a stream was dropped, a chunk is missing, twice or out of order, or a client of the
server that stops was not told. Server, provider and clients are a process each, on the same cores. Runs with the
generated project's Python, in its folder.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

import aiohttp
import psutil

from tools.bench_gateway import postgres

STREAMS, SECONDS = 500, 60
CHUNKS_A_SECOND = 10
STARTING_SECONDS = 10  # in which the streams begin: clients do not all come at once
STOPPED_STREAMS, STOPPED_SECONDS = 100, 25
READY_SECONDS = 120
ENDLESS = 100_000  # chunks of a stream that nobody waits for
HEAD = (
    "| streams | chunks | took | chunk to chunk: p50 / p95 / p99 / most | CPU of server / provider / clients | memory |"
)
NO_LIMIT = aiohttp.ClientTimeout(total=None)
QUESTION = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "Count."}]}
SETTINGS = {
    "CHAT_MODEL": "openai/soak",
    "CHAT_API_KEY": "none",
    "CHAT_MAX_CONCURRENCY": "1000",
    "DEADLINE_SECONDS": "300",
    "KEY_REQUESTS_PER_MINUTE": "1000000",
    "KEY_STREAMS": "1000",
}


@dataclass
class Stream:
    """What one client saw: each event's data, with the time at which it came, and how the connection ended."""

    events: list[tuple[float, bytes]] = field(default_factory=list)
    dropped: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pieces(self) -> list[tuple[float, str]]:
        """The pieces of text, each with its time."""
        parsed = [(at, json.loads(data)) for at, data in self.events if data.startswith(b"{")]
        deltas = [(at, event["choices"][0]["delta"]) for at, event in parsed if event.get("choices")]
        return [(at, delta["content"].strip()) for at, delta in deltas if delta.get("content")]

    @property
    def last(self) -> bytes:
        """The last event's data."""
        return self.events[-1][1] if self.events else b""


@contextmanager
def provider(chunks: int) -> Iterator[tuple[int, str]]:
    """The provider double in a process of its own, which counts up to `chunks` slowly: process id and URL."""
    command = [sys.executable, "-m", "tools.soak_api", "provider", str(chunks)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)  # noqa: S603  # ours
    try:
        yield process.pid, _line(process.stdout)
    finally:
        process.communicate()


def be_provider(chunks: int) -> None:
    """Be that process, until standard input ends."""
    from tests.provider import Provider, Reply  # noqa: PLC0415  # of the generated project

    with Provider() as double:
        double.always(Reply(" ".join(map(str, range(chunks))), pause=1 / CHUNKS_A_SECOND))
        print(double.url, flush=True)
        sys.stdin.read()


@contextmanager
def server(model_url: str, database_url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`app serve` with that model: the process and its URL."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**SETTINGS, "CHAT_API_BASE": model_url, "DATABASE_URL": database_url, "DATA_DIR": folder}
        command = [sys.executable, "-m", "app", "serve", "--port", "0"]
        process = subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.PIPE, text=True)  # noqa: S603  # ours
        try:
            yield process, _line(process.stderr).split()[0].rstrip("/")
        finally:
            process.kill()
            process.communicate()


def _line(pipe: IO[str] | None) -> str:
    """The first line that a process prints."""
    return pipe.readline().strip() if pipe else ""


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the server says that it is."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            async with session.get(f"{url}/readyz") as answer:
                if answer.ok:
                    return
            await asyncio.sleep(0.1)


async def read(session: aiohttp.ClientSession, url: str, stream: Stream, after: float = 0) -> Stream:
    """Ask, and read to the end, whatever that is."""
    await asyncio.sleep(after)
    try:
        async with session.post(f"{url}/v1/chat/completions", json=QUESTION) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if line.startswith(b"data: "):
                    stream.events.append((time.monotonic(), line[6:].strip()))
                    stream.begun.set()
    except aiohttp.ClientError as error:
        stream.dropped = repr(error)
    finally:
        stream.begun.set()
    return stream


async def load(url: str, count: int, chunks: int, *processes: psutil.Process) -> str:
    """Read so many streams at a time, and check each; a row of the table."""
    used = [sum(process.cpu_times()[:2]) for process in processes]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=NO_LIMIT) as session:
        await ready(session, url)
        began = time.monotonic()
        starts = [STARTING_SECONDS * number / count for number in range(count)]
        streams = await asyncio.gather(*(read(session, url, Stream(), after) for after in starts))
        seconds = time.monotonic() - began
    for stream in streams:
        _check(stream, chunks)
    gaps = [later - earlier for s in streams for (earlier, _), (later, _) in zip(s.pieces, s.pieces[1:], strict=False)]
    cuts = statistics.quantiles(gaps, n=1000)
    cpu = [sum(process.cpu_times()[:2]) - before for process, before in zip(processes, used, strict=True)]
    p50, p95, p99 = (round(1000 * cuts[at - 1]) for at in (500, 950, 990))
    times = f"{p50} / {p95} / {p99} / {1000 * max(gaps):.0f} ms"
    shares = " / ".join(f"{100 * used / seconds:.0f} %" for used in cpu)
    memory = processes[0].memory_info().rss / 1e6
    return f"| {count} | {len(gaps) + count:,} | {seconds:.0f} s | {times} | {shares} | {memory:.0f} MB |"


def _check(stream: Stream, chunks: int) -> None:
    """A stream that is not as it should be ends this program."""
    numbers = [text for _, text in stream.pieces]
    if stream.dropped or stream.last != b"[DONE]":
        sys.exit(f"a stream was dropped after {len(numbers)} chunks: {stream.dropped or stream.last!r}")
    if numbers != list(map(str, range(chunks))):
        sys.exit(f"chunks are missing, twice or out of order: {len(numbers)} of {chunks}")


async def stop(process: subprocess.Popen[str], url: str, count: int) -> str:
    """Send SIGTERM while so many streams are open; say how each of them ended, and the process."""
    streams = [Stream() for _ in range(count)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=NO_LIMIT) as session:
        await ready(session, url)
        reading = [asyncio.create_task(read(session, url, stream)) for stream in streams]
        await asyncio.gather(*(stream.begun.wait() for stream in streams))
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        await asyncio.wait(reading, timeout=STOPPED_SECONDS)
    status = await asyncio.to_thread(process.wait, STOPPED_SECONDS)
    seconds = time.monotonic() - began
    told = sum(b"shutting_down" in stream.last and not stream.dropped for stream in streams)
    if (told, status) != (count, 0) or seconds > STOPPED_SECONDS:
        sys.exit(f"{told} of {count} streams were told, and the server ended with {status} after {seconds:.1f} s")
    return (
        f"SIGTERM with {count} open streams: each got its last event, and the server ended with 0 after {seconds:.1f} s"
    )


def main(count: int, seconds: int) -> None:
    """Run both, and print how they went."""
    chunks, stopped = seconds * CHUNKS_A_SECOND, min(count, STOPPED_STREAMS)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    with postgres() as database_url:
        with provider(chunks) as (double, model_url), server(model_url, database_url) as (process, url):
            watched = [psutil.Process(pid) for pid in (process.pid, double, os.getpid())]
            row = asyncio.run(load(url, count, chunks, *watched))
        print(f"{HEAD}\n|---|---|---|---|---|---|")
        print(f"{row}\n", flush=True)
        with provider(ENDLESS) as (_, model_url), server(model_url, database_url) as (process, url):
            print(asyncio.run(stop(process, url, stopped)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["provider"]:
        be_provider(int(sys.argv[2]))
    else:
        main(*(map(int, sys.argv[1:]) if sys.argv[1:] else (STREAMS, SECONDS)))
