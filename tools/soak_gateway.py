"""Ten thousand calls through the gateway while a third of what its providers do is wrong: `make soak-gateway`.

    python -m tools.soak_gateway [CALLS]

Exits with 1 and says why where a call, a row, a task, a connection or memory was lost. The soak itself is a test of
the generated project; this runs more of it, with the project's Python, in its folder.
"""

import asyncio
import sys
import time

import structlog
from app.db.engine import connect
from tests.integration.test_soak import Soak, soak

from tools.bench_gateway import postgres

CALLS = 10_000
AT_A_TIME = 64
TIMEOUT_SECONDS = 5
MOST_GROWTH = 1.1  # memory after the last call, over memory after the first fifth of them


def main() -> None:
    """Run it and print how it went."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    calls = int(sys.argv[1]) if sys.argv[1:] else CALLS
    began = time.monotonic()
    with postgres() as url:
        report = asyncio.run(run(url, calls))
    growth = report.late_megabytes / report.early_megabytes
    print(f"{calls:,} calls, {report.attempts:,} attempts, {time.monotonic() - began:.0f} s")
    print(", ".join(f"{outcome} {count:,}" for outcome, count in report.outcomes.most_common()))
    print(f"the longest call took {report.longest:.1f} s; ledger and providers agree; nothing was left")
    print(f"memory {report.early_megabytes:.0f} MB after a fifth, {report.late_megabytes:.0f} MB at the end")
    if growth > MOST_GROWTH:
        sys.exit(f"memory grew {growth:.2f} times")


async def run(url: str, calls: int) -> Soak:
    """The soak on a database that was just made."""
    async with connect(url) as database:
        return await soak(database, calls=calls, at_a_time=AT_A_TIME, timeout_seconds=TIMEOUT_SECONDS)


if __name__ == "__main__":
    main()
