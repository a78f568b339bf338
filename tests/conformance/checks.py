"""Runs the checks of one Python client, and tells how each ended. Knows no client."""

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version

Check = Callable[[], object]


def run(package: str, columns: Mapping[str, Mapping[str, Check]]) -> None:
    """Print a JSON object: the package with its version, and per column each check with what was wrong, or nothing."""
    results: dict[str, dict[str, str]] = {}
    for column, checks in columns.items():
        results[column] = {}
        for name, check in checks.items():
            try:
                check()
                results[column][name] = ""
            except Exception as error:  # noqa: BLE001  # whatever goes wrong is the result
                traceback.print_exc(file=sys.stderr)
                results[column][name] = f"{type(error).__name__}: {error}"[:300] or "failed"
    print(json.dumps({"client": f"{package} {version(package)}", "results": results}))  # noqa: T201  # the result
