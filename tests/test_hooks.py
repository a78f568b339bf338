"""The hook that finishes a project: it can run again, and says what it could not do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

from tests.conftest import NO_LOCK, Bake, BakedProject
from tools.render import ROOT, export, render

SCRIPT = ROOT / "{{cookiecutter.project_slug}}" / "scripts" / "tested_set.py"
LOCK = """
version = 1
[[package]]
name = "mine"
version = "0.1.0"
source = { editable = "." }
[[package]]
name = "left"
version = "1.0"
source = { registry = "https://example.org/simple" }
sdist = { url = "https://example.org/left.tar.gz", hash = "sha256:aa" }
wheels = [{ url = "https://example.org/left.whl", hash = "sha256:bb" }]
"""


def run_hook(project: Path, **environment: str) -> str:
    """Run the post-generation hook in `project` and return what it said."""
    hook = ROOT / "hooks" / "post_gen_project.py"
    done = subprocess.run(
        [sys.executable, str(hook)],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def run_script(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run the tested-set script in `folder`."""
    return subprocess.run([sys.executable, SCRIPT, command], cwd=folder, capture_output=True, text=True, check=False)


def test_hooks_need_only_the_standard_library() -> None:
    """Each module that a hook imports comes with Python."""
    for hook in (ROOT / "hooks").glob("*.py"):
        imports = [
            line.split()[1] for line in hook.read_text("utf-8").splitlines() if line.startswith(("import ", "from "))
        ]
        assert imports
        assert set(imports) <= sys.stdlib_module_names


def test_prints_the_three_next_commands(bake: Bake, capfd: pytest.CaptureFixture[str]) -> None:
    """A person is told how to go on."""
    bake()
    message = capfd.readouterr().err
    for command in ("cd my-ai-app", "make ask q=", "make test"):
        assert command in message


def test_runs_again_without_touching_what_is_there(bake: Bake) -> None:
    """An update runs the hook again: the person's .env stays, and so does the repository."""
    project = bake().path
    (project / ".env").write_text("MINE=1\n")
    head = (project / ".git" / "HEAD").stat().st_mtime_ns
    run_hook(project)
    assert (project / ".env").read_text() == "MINE=1\n"
    assert (project / ".git" / "HEAD").stat().st_mtime_ns == head


def test_starts_a_repository_only_outside_of_one(tmp_path: Path) -> None:
    """Inside a repository no second one is made."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert not (render(tmp_path) / ".git").exists()


def test_rendering_again_keeps_what_people_added(tmp_path: Path) -> None:
    """`cookiecutter -f` refreshes the template's files and deletes nobody's own."""
    project = render(tmp_path)
    for name in ("app/own.py", "corpus/own.md", ".env"):
        (project / name).write_text("OWN=1\n")
    (project / "Makefile").write_text("broken")
    export(tmp_path / "template")
    cookiecutter(str(tmp_path / "template"), no_input=True, overwrite_if_exists=True, output_dir=str(tmp_path))
    assert {(project / name).read_text() for name in ("app/own.py", "corpus/own.md", ".env")} == {"OWN=1\n"}
    assert "help:" in (project / "Makefile").read_text()


def test_without_tools_the_project_is_made_and_told_of(bake: Bake) -> None:
    """Without uv and git the project stands, and the message says what to run later."""
    project = bake().path
    shutil.rmtree(project / ".git")
    message = run_hook(project, PATH="/nowhere", **{NO_LOCK: "0"})
    assert "make lock" in message
    assert "git is not installed" in message
    assert "make ask" in message


def test_without_a_network_the_message_says_what_to_run(bake: Bake, tmp_path: Path) -> None:
    """A lock that cannot be made is no failure: the message names `make lock`."""
    project = bake().path
    nothing = {
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_DEFAULT_INDEX": "http://127.0.0.1:9/",
        "UV_HTTP_RETRIES": "0",
    }
    message = run_hook(project, **nothing, **{NO_LOCK: "0"})
    assert "`make lock`" in message
    assert not (project / "uv.lock").exists()


def test_written_set_is_the_checked_set(tmp_path: Path) -> None:
    """A list written from a lock agrees with that lock and holds no address and not the project itself."""
    (tmp_path / "uv.lock").write_text(LOCK)
    assert run_script(tmp_path, "write").returncode == 0
    assert "http" not in (tmp_path / "tested-set.txt").read_text()
    assert "mine" not in (tmp_path / "tested-set.txt").read_text()
    assert run_script(tmp_path, "check").returncode == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [('version = "1.0"', 'version = "1.1"'), ("sha256:bb", "sha256:cc"), ('name = "left"', 'name = "right"')],
)
def test_difference_from_the_tested_set_is_loud(tmp_path: Path, old: str, new: str) -> None:
    """Another version, another file or another package is named in a warning."""
    (tmp_path / "uv.lock").write_text(LOCK)
    run_script(tmp_path, "write")
    (tmp_path / "uv.lock").write_text(LOCK.replace(old, new))
    checked = run_script(tmp_path, "check")
    assert checked.returncode == 1
    assert "WARNING" in checked.stderr
    assert "left==1.0" in checked.stderr


def test_a_lock_may_know_fewer_files(tmp_path: Path) -> None:
    """Another version of uv may leave files out of the lock; that is no difference."""
    (tmp_path / "uv.lock").write_text(LOCK)
    run_script(tmp_path, "write")
    (tmp_path / "uv.lock").write_text(
        LOCK.replace('sdist = { url = "https://example.org/left.tar.gz", hash = "sha256:aa" }', "")
    )
    assert run_script(tmp_path, "check").returncode == 0


@pytest.mark.parametrize(("date", "moves"), [("2020-01-01T00:00:00Z", True), ("2999-01-01T00:00:00Z", False)])
def test_upgrade_moves_the_date_with_a_cool_down(tmp_path: Path, date: str, *, moves: bool) -> None:
    """The date goes to a week ago, and never back."""
    (tmp_path / "pyproject.toml").write_text(f'[tool.uv]\nexclude-newer = "{date}"\n')
    assert run_script(tmp_path, "upgrade").returncode == 0
    assert (date not in (tmp_path / "pyproject.toml").read_text()) is moves


def test_wrong_command_teaches(default_project: BakedProject) -> None:
    """Without a known command the script prints how it is used."""
    done = run_script(default_project.path, "guess")
    assert done.returncode != 0
    assert "check" in done.stderr
