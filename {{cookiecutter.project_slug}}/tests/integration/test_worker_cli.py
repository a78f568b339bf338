"""`app worker`: what it says, and how it ends."""

import os
import signal
from collections.abc import Iterator
from threading import Thread

import psycopg
import pytest

from tests.integration.conftest import Command

PATIENCE_SECONDS = 30
REGISTERED = "SELECT 1 FROM jobs.procrastinate_workers"
LISTENING = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"


@pytest.fixture
def handlers() -> Iterator[None]:
    """What this process does with signals, put back in the end."""
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    yield
    for sign, handler in before.items():
        signal.signal(sign, handler)


def terminate_when_working(url: str) -> None:
    """Ask this process to end, as soon as its worker waits for jobs."""
    with psycopg.connect(url, autocommit=True) as watching:
        while not watching.execute(LISTENING).fetchone():
            pass
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("environment", "options", "jobs"), [("3", [], 3), ("0", [], 2), ("3", ["--concurrency", "1"], 1)]
)
def test_it_works_until_it_is_told_to_end(
    app: Command,
    migrated_url: str,
    handlers: None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    environment: str,
    options: list[str],
    jobs: int,
) -> None:
    """SIGTERM ends it well; it says how much it does at a time, and leaves no worker behind."""
    assert handlers is None
    monkeypatch.setenv("WORKER_CONCURRENCY", environment)
    telling = Thread(target=terminate_when_working, args=[migrated_url], daemon=True)
    telling.start()
    ended = app("worker", *options)
    telling.join(PATIENCE_SECONDS)
    lines = [f"working, {jobs} jobs at a time; Ctrl-C stops", "stopping: running jobs have 15 seconds"]
    assert (ended.status, ended.err.splitlines()) == (0, lines)
    with psycopg.connect(migrated_url) as after:
        assert after.execute(REGISTERED).fetchone() is None
