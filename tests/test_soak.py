"""The soak of the gateway, as its command runs it."""

import subprocess

import pytest

from tools.render import ROOT

pytestmark = pytest.mark.slow


def test_ten_thousand_calls_lose_nothing() -> None:
    """`make soak-gateway` finds every call, row, task and connection again, and memory flat."""
    done = subprocess.run(["make", "soak-gateway"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ledger and providers agree; nothing was left" in done.stdout
