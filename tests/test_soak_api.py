"""The soak of the API, smaller than its command runs it."""

import subprocess

import pytest

from tools.render import ROOT

pytestmark = pytest.mark.slow


def test_streams_are_whole_and_a_server_that_stops_tells_its_clients() -> None:
    """`make soak-api` drops nothing of 50 streams, and SIGTERM ends each with an event and the process with 0."""
    command = ["make", "soak-api", "STREAMS=50", "SECONDS=10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 50 | 5,000 |" in done.stdout
    assert "each got its last event, and the server ended with 0" in done.stdout
