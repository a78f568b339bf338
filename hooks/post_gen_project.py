"""Finish a rendered project: `.env`, the lock, a git repository; then say what to do next.

Runs again on every update, so each step leaves alone what is already there. Needs nothing beyond the standard
library: uv and git are used where they are, and where not, the message says what to run later.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path.cwd()


def say(message):
    """Tell the person at the terminal."""
    print(message, file=sys.stderr, flush=True)


def make_env_file():
    """Copy the example settings, unless the project has its own already."""
    if not (PROJECT / ".env").exists():
        shutil.copyfile(PROJECT / ".env.example", PROJECT / ".env")


def make_lock():
    """Lock the tested set of packages and compare it with the shipped list; never a reason to fail."""
    uv = shutil.which("uv")
    if uv is None:
        say("uv is not installed, so there is no lock yet: `make lock` installs uv and makes it.")
        return
    say("Locking the packages of this release ...")
    # An environment of the caller's must not become this project's.
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    try:
        locked = subprocess.run([uv, "lock", "--quiet"], cwd=PROJECT, env=clean, timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        locked = None
    if locked is None or locked.returncode != 0:
        say("The packages could not be locked (is there a network?). Run `make lock` when there is one.")
        return
    subprocess.run([sys.executable, "scripts/tested_set.py", "check"], cwd=PROJECT)


def make_repository():
    """Start a git repository, unless the project is inside one."""
    git = shutil.which("git")
    if git is None:
        say("git is not installed, so there is no repository yet.")
        return
    inside = subprocess.run([git, "rev-parse", "--is-inside-work-tree"], cwd=PROJECT, capture_output=True)
    if inside.returncode != 0:
        subprocess.run([git, "init", "--quiet", "--initial-branch=main"], cwd=PROJECT)


def main():
    """Run the steps in order."""
    make_env_file()
    if os.environ.get("COOKIECUTTER_AI_APP_NO_LOCK") != "1":
        make_lock()
    make_repository()
    say(
        f"\n{PROJECT.name} is ready. Next:\n\n"
        f"  cd {PROJECT.name}\n"
        '  make ask q="How do I add a model provider?"\n'
        "  make test\n"
    )


main()
