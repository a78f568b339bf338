"""What the generated project computes equals what well-known libraries do, which it does not depend on.

They are laid over the default project's environment for the time of the test; the code is the one in this folder.
"""

import os
import subprocess

import pytest

from tools.peers import PINS
from tools.render import ROOT

PROJECT = ROOT / "{{cookiecutter.project_slug}}"
DEFAULT = "build/default/my-ai-app"
STATISTICS = ("scipy==1.17.1", "statsmodels==0.15.0")
ORACLES = {
    "against_scipy.py": STATISTICS,
    "against_inter_rater.py": STATISTICS,
    "against_ir_measures.py": PINS["ir-measures"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", ORACLES)
def test_figures_are_those_of_known_libraries(script: str) -> None:
    """Every figure of the script agrees; a script that holds no test fails."""
    subprocess.run(["make", f"{DEFAULT}/.venv/made"], cwd=ROOT, check=True)
    extra = [argument for pin in ORACLES[script] for argument in ("--with", pin)]
    command = ["uv", "run", "--quiet", "--no-sync", "--project", DEFAULT, *extra, "python", "-m", "pytest"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        [*command, "--noconftest", "-p", "no:cacheprovider", f"tests/oracles/{script}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
