"""Where documents come from: files, folders, patterns and standard input, and the names by which they are known again.

Knows nothing of formats.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO

from pathspec import GitIgnoreSpec

from app.errors import DocumentTooLarge, InvalidInput

IGNORE_FILE = ".ragignore"
STDIN = "stdin"
# What a terminal obeys instead of showing it: control characters but tab and newline, and changes of direction.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LONGEST_NAME = 2_000  # bytes; an entry of the index over sources cannot hold more than 2,700

Rules = tuple[tuple[Path, GitIgnoreSpec], ...]


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file that `paths` name, folder by folder, sorted; a path may be a pattern such as `docs/**/*.md`.

    Hidden files of a folder are left out, and what its `.ragignore` files name, in gitignore's syntax. A link inside a
    folder counts where it leads to a file of the same folder. A file that is named itself is always taken.

    Raises:
        InvalidInput: a path does not exist, or is neither file nor folder; a pattern finds nothing.

    """
    for path in paths:
        for found in _expanded(path):
            if found.is_dir():
                yield from _below(found, found.resolve(), ())
            elif found.is_file():
                yield found
            else:
                raise InvalidInput(f"{found} is neither a file nor a folder")


def read_file(path: Path, *, max_bytes: int) -> tuple[str, bytes]:
    """Read a file's source and bytes; the source is the path, relative where it lies below the working directory.

    Raises:
        DocumentTooLarge: it is larger than `max_bytes`; then it is not read.
        InvalidInput: its name cannot be stored.

    """
    absolute = path.resolve()
    inside = absolute.is_relative_to(Path.cwd())
    source = (absolute.relative_to(Path.cwd()) if inside else absolute).as_posix()
    check_name(source)
    check_size(absolute.name, path.stat().st_size, max_bytes)
    with path.open("rb") as file:
        return source, _read(file, absolute.name, max_bytes)


def read_stdin(stream: BinaryIO | None = None, *, max_bytes: int) -> tuple[str, bytes]:
    """Read a document from standard input, to its end. Raises DocumentTooLarge as `read_file` does."""
    return STDIN, _read(stream or sys.stdin.buffer, "standard input", max_bytes)


def hash_content(data: bytes) -> str:
    """The hash by which a document is known again."""
    return hashlib.sha256(data).hexdigest()


def check_name(source: str) -> None:
    """Refuse a name that the database cannot hold, or that a terminal would not show as it is."""
    if not source.strip():
        raise InvalidInput("the name is empty; give the document one")
    if source != source.encode(errors="replace").decode():
        raise InvalidInput(f"the name {source!r} is not valid Unicode; rename it")
    if CONTROL.search(source) or "\t" in source or "\n" in source:
        raise InvalidInput(f"the name {source!r} holds control characters; rename it")
    if len(source.encode()) > LONGEST_NAME:
        raise InvalidInput(f"the name {source[:40]}... has more than {LONGEST_NAME:,} bytes")


def check_size(name: str, size: int, max_bytes: int) -> None:
    """Refuse what is larger than `max_bytes`."""
    if size > max_bytes:
        raise DocumentTooLarge(f"{name} has {size / 1e6:.1f} MB; MAX_DOCUMENT_BYTES allows {max_bytes / 1e6:.1f} MB")


def _read(file: BinaryIO, name: str, max_bytes: int) -> bytes:
    """A file may grow while it is read, and a pipe has no size."""
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DocumentTooLarge(f"{name} has more than the {max_bytes / 1e6:.1f} MB that MAX_DOCUMENT_BYTES allows")
    return data


def _expanded(path: Path) -> list[Path]:
    """The path itself, or what its pattern finds."""
    if path.exists():
        return [path]
    if not has_magic(str(path)):
        raise InvalidInput(f"{path} does not exist")
    found = [Path(name) for name in sorted(glob(str(path), recursive=True))]  # noqa: PTH207  # leaves out hidden ones
    files = [file for file in found if file.is_file()]
    if not files:
        raise InvalidInput(f"no file fits the pattern {path}; ** stands for any number of folders")
    return files


def _below(folder: Path, root: Path, rules: Rules) -> Iterator[Path]:
    """The files of a folder and of those in it; a link to a folder is not followed, so nothing goes in circles."""
    if (ignore := folder / IGNORE_FILE).is_file():
        lines = ignore.read_text(encoding="utf-8", errors="replace").splitlines()
        rules = (*rules, (folder, GitIgnoreSpec.from_lines(lines)))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.name.startswith(".") or _is_ignored(path, rules, is_folder=entry.is_dir()):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(path, root, rules)
        elif entry.is_file() and (not entry.is_symlink() or path.resolve().is_relative_to(root)):
            yield path


def _is_ignored(path: Path, rules: Rules, *, is_folder: bool) -> bool:
    """What the nearest file with a rule for it says."""
    for folder, spec in reversed(rules):
        name = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
        if (included := spec.check_file(name).include) is not None:
            return included
    return False
