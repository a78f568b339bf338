"""`bake()`: render the template as a user would get it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.render import render

NO_LOCK = "COOKIECUTTER_AI_APP_NO_LOCK"


@dataclass(frozen=True)
class BakedProject:
    """A rendered project."""

    path: Path

    def read(self, name: str) -> str:
        """The text of one of its files."""
        return (self.path / name).read_text(encoding="utf-8")

    def files(self) -> list[Path]:
        """Its files, without those of git."""
        return sorted(p for p in self.path.rglob("*") if p.is_file() and ".git" not in p.relative_to(self.path).parts)


Bake = Callable[..., BakedProject]


@pytest.fixture(autouse=True)
def _quiet_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no lock at each render, and keep cookiecutter's own files out of the home folder."""
    monkeypatch.setenv(NO_LOCK, "1")


@pytest.fixture
def bake(tmp_path: Path) -> Bake:
    """Render with the given options into a fresh folder, outside of any repository."""

    def baked(**options: str) -> BakedProject:
        output = tmp_path / f"bake-{len(list(tmp_path.iterdir()))}"
        return BakedProject(render(output, **options))

    return baked


@pytest.fixture(scope="session")
def default_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BakedProject]:
    """The default project, rendered once; not to be changed."""
    before = os.environ.get(NO_LOCK)
    os.environ[NO_LOCK] = "1"
    yield BakedProject(render(tmp_path_factory.mktemp("default")))
    os.environ.pop(NO_LOCK) if before is None else os.environ.update({NO_LOCK: before})
