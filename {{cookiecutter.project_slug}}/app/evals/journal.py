"""The answers of an unfinished run, on disk as soon as they are there: a run that is interrupted goes on from them.

Knows nothing of how an answer comes, or of scores.
"""

from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from app.errors import ConfigurationError
from app.types import Answer

LINE = TypeAdapter(tuple[str, Answer])
"""A case's id and an answer to it. The attempts at a case are alike, so they need no number."""


class Journal:
    """A file of answers, one a line: opened with what an earlier run left, which is taken out of it in memory alone.

    Each answer is handed to the system at once, so that `kill -9` loses none that is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, list[Answer]] = {}
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            with suppress(ValidationError):  # cut short, by what ended the run
                case_id, answer = LINE.validate_json(line)
                self._kept.setdefault(case_id, []).append(answer)

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """How many answers are left to take."""
        return sum(map(len, self._kept.values()))

    def take(self, case_id: str) -> Answer | None:
        """An answer to this case that no attempt has taken yet."""
        kept = self._kept.get(case_id)
        return kept.pop(0) if kept else None

    def add(self, case_id: str, answer: Answer) -> None:
        """Write an answer down; the line break comes first, and so ends a line that was cut short.

        Raises:
            ConfigurationError: it cannot be written.

        """
        line = b"\n" + LINE.dump_json((case_id, answer))
        try:
            self._file.write(line)
        except OSError as error:
            raise ConfigurationError(
                f"the answers cannot be written to {self._path}: {error.strerror or error}"
            ) from None
