"""What Schemathesis cannot know of this API: an Idempotency-Key is for one request, so each case gets its own."""

import itertools
import re
from typing import Any

import schemathesis

NAME = "Idempotency-Key"
VALID = re.compile(r"[ -~]*[!-~][ -~]*")
LONGEST = 255
numbers = itertools.count()


@schemathesis.hook  # type: ignore[untyped-decorator]  # its types are not read: `make check` does without it
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
    """A key that is one stays one, and becomes unique; what is none is sent as it is."""
    given = (case.headers or {}).get(NAME)
    if isinstance(given, str) and len(given) <= LONGEST and VALID.fullmatch(given):
        number = str(next(numbers))
        case.headers[NAME] = given[: LONGEST - len(number)] + number
