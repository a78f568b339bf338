"""The tested set of packages: compare uv.lock with tested-set.txt, write the list anew, or move the date.

    python scripts/tested_set.py check     warn loudly about every package that differs from the list
    python scripts/tested_set.py write     make the list from uv.lock, after the tests have passed on it
    python scripts/tested_set.py upgrade   move exclude-newer to a week ago; `make upgrade` then locks anew

The list holds names, versions and the hashes of the files, and no addresses. Needs only the standard library.
"""

import re
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

LIST = Path("tested-set.txt")
LOCK = Path("uv.lock")
PYPROJECT = Path("pyproject.toml")
COOL_DOWN = timedelta(days=7)
DATE = re.compile(r'^exclude-newer = "([^"]+)"', re.MULTILINE)

Packages = dict[str, set[str]]
"""`name==version` to the hashes of its files."""


def locked() -> Packages:
    """What uv.lock holds, without the project itself."""
    packages: Packages = {}
    for package in tomllib.loads(LOCK.read_text(encoding="utf-8"))["package"]:
        if {"virtual", "editable"} & package["source"].keys():
            continue
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        packages[f"{package['name']}=={package['version']}"] = {f["hash"].removeprefix("sha256:") for f in files}
    return packages


def listed() -> Packages:
    """What tested-set.txt holds."""
    lines = (line.split() for line in LIST.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {name: set(hashes) for name, *hashes in lines}


def check() -> int:
    """Compare; 1 where a package differs. A lock may know fewer files than the list, never others."""
    now, tested = locked(), listed()
    problems = [f"{name}: not in the tested set" for name in sorted(now.keys() - tested.keys())]
    problems += [f"{name}: tested, but not locked" for name in sorted(tested.keys() - now.keys())]
    problems += [
        f"{name}: {len(now[name] - tested[name])} files with other hashes than those that were tested"
        for name in sorted(now.keys() & tested.keys())
        if now[name] - tested[name]
    ]
    if not problems:
        print(f"The lock is the tested set: {len(now)} packages.", file=sys.stderr)
        return 0
    print("\nWARNING: the locked packages are NOT the set this project was tested with:", file=sys.stderr)
    print("\n".join(f"  {problem}" for problem in problems), file=sys.stderr)
    print("Find out why before you install them. After a deliberate change: `make tested-set`.\n", file=sys.stderr)
    return 1


def write() -> int:
    """Make the list from the lock."""
    lines = [" ".join([name, *sorted(hashes)]) for name, hashes in sorted(locked().items())]
    header = "# The packages this project was tested with: name==version and the SHA-256 of every file."
    LIST.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    print(f"{LIST}: {len(lines)} packages", file=sys.stderr)
    return 0


def upgrade() -> int:
    """Move the date up to which packages are considered, with a cool-down, and never back."""
    text = PYPROJECT.read_text(encoding="utf-8")
    found = DATE.search(text)
    if found is None:
        print(f"{PYPROJECT} has no exclude-newer date", file=sys.stderr)
        return 2
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    date = max(datetime.fromisoformat(found[1]), now - COOL_DOWN)
    new = f'exclude-newer = "{date:%Y-%m-%dT%H:%M:%SZ}"'
    PYPROJECT.write_text(DATE.sub(new, text), encoding="utf-8")
    print(f"{found[0]} -> {new}", file=sys.stderr)
    return 0


COMMANDS = {"check": check, "write": write, "upgrade": upgrade}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:  # noqa: PLR2004  # the program and one command
        sys.exit(__doc__)
    sys.exit(COMMANDS[sys.argv[1]]())
