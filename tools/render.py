"""Render the template as a user would get it: from git's view of this folder, without caches and leftovers.

    python tools/render.py OUTPUT_DIR [name=value ...]

Working in place leaves files that git ignores, and cookiecutter would copy each of them.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.main import cookiecutter

ROOT = Path(__file__).parent.parent


def render(output: Path, **values: str) -> Path:
    """Render into a new folder below `output` and return it.

    Raises:
        cookiecutter.exceptions.CookiecutterException: a hook refused the values, or the folder exists.

    """
    with tempfile.TemporaryDirectory() as copy:
        export(Path(copy))
        options = {"no_input": True, "default_config": True, "extra_context": values}
        return Path(cookiecutter(copy, output_dir=str(output), **options))


def export(target: Path) -> None:
    """Copy the template's files, as they stand in the working tree, into `target`."""
    for file in template_files():
        copy = target / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)


def template_files() -> list[Path]:
    """Every file that git tracks, or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout  # noqa: S603  # git
    return [ROOT / name for name in filter(None, listed.split("\0")) if (ROOT / name).is_file()]


if __name__ == "__main__":
    output, *pairs = sys.argv[1:]
    print(render(Path(output), **dict(pair.split("=", 1) for pair in pairs)))
