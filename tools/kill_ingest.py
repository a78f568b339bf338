"""Twenty times `kill -9` at random moments of an ingest of two thousand documents: `make kill-ingest`.

    python -m tools.kill_ingest [KILLS [DOCUMENTS]]

Exits with 1 and says why where a document is missing, is there twice, differs from a clean run or has left something
behind. The same is a test of the generated project; this does more of it, with the project's Python, in its folder.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.integration.test_kill import kill_ingest

from tools.bench_gateway import postgres

KILLS, DOCUMENTS = 20, 2_000
SEED = 2026


def main() -> None:
    """Run it and print how it went."""
    kills, documents = [*map(int, sys.argv[1:]), *(KILLS, DOCUMENTS)[len(sys.argv[1:]) :]]
    began = time.monotonic()
    with postgres() as url, tempfile.TemporaryDirectory() as folder:
        say = partial(print, flush=True)
        report = kill_ingest(url, Path(folder), documents=documents, kills=kills, seed=SEED, say=say)
    stages = sum(0 < left < documents for left in report.left)
    print(
        f"{kills} kills in {time.monotonic() - began:.0f} s, {stages} of them between the first document and the last"
    )
    print(f"{report.documents:,} documents, {report.chunks:,} chunks; each once, and as in a clean run")
    if report.faults:
        sys.exit("\n".join(report.faults))


if __name__ == "__main__":
    main()
