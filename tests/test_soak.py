"""The soak of the gateway, with fewer calls than its command makes."""

import subprocess

import pytest

from tools.render import ROOT

pytestmark = pytest.mark.slow


def test_thousands_of_calls_lose_nothing() -> None:
    """`make soak-gateway` finds every call, row, task and connection again, and memory flat."""
    command = ["make", "soak-gateway", "CALLS=4000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ledger and providers agree; nothing was left" in done.stdout
