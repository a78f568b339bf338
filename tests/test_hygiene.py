"""What the template promises about itself: no Jinja in Python, a README that tells the truth, small files."""

import ast
import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import BakedProject
from tools.render import ROOT, template_files

PROJECT = ROOT / "{{cookiecutter.project_slug}}"
# Written in two parts, so that this file does not name what it forbids.
REGISTRIES = [host + rest for host, rest in (("py", "pi.org"), ("pythonhosted", ".org"), ("registry.npm", "js.org"))]
MAKE_COMMAND = re.compile(r"(?:^|`|\$ )make ([a-z][a-z-]+)", re.MULTILINE)
TREE = re.compile(r"^## Where things are\n.*?```\n(.*?)```", re.MULTILINE | re.DOTALL)


def texts() -> list[tuple[Path, str]]:
    """Every tracked file that is text."""
    return [
        (file, file.read_text(encoding="utf-8")) for file in template_files() if file.suffix not in {".pdf", ".png"}
    ]


def listed_tree(readme: str) -> list[str]:
    """The paths that a README's tree lists; indentation is nesting, a folder ends with a slash."""
    found = TREE.search(readme)
    assert found
    parents: list[str] = []
    paths = []
    for line in found[1].splitlines():
        name, _, purpose = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name]
        paths.append("".join(parents))
        assert purpose.strip() or name.endswith("/"), f"{name} has no purpose"
    return paths


def targets(makefile: str) -> set[str]:
    """The documented targets of a Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):.*## ", makefile, re.MULTILINE))


def test_no_jinja_in_python() -> None:
    """Design rule 1: the project is Python as it stands; only the first hook is filled in."""
    for file, text in texts():
        if file.suffix == ".py" and PROJECT in file.parents:
            assert not re.search(r"\{\{|\{%", text), file


def test_no_registry_and_no_lock() -> None:
    """No committed file names a package registry's host, and no lock file is committed."""
    for file, text in texts():
        assert not [host for host in REGISTRIES if host in text.lower()], file
        assert file.name not in {"uv.lock", "package-lock.json"}


@pytest.mark.parametrize("folder", [ROOT, PROJECT], ids=["template", "project"])
def test_readme_tree_is_the_real_tree(folder: Path) -> None:
    """Each path of the README's tree exists, and each file stands in the tree or in a folder that does."""
    paths = listed_tree((folder / "README.md").read_text(encoding="utf-8"))
    assert [path for path in paths if not (folder / path).exists()] == []
    whole = tuple(
        path for path in paths if path.endswith("/") and not any(p != path and p.startswith(path) for p in paths)
    )
    real = {file.relative_to(folder).as_posix() for file in template_files() if folder in file.parents}
    if folder == ROOT:
        real = {path for path in real if not path.startswith(PROJECT.name)}
    missing = {path for path in real if path not in paths and not path.startswith(whole)}
    assert {path for path in missing if not path.endswith("/__init__.py")} == set()


@pytest.mark.parametrize("folder", [ROOT, PROJECT], ids=["template", "project"])
def test_documented_make_targets_exist(folder: Path) -> None:
    """Every `make` command in a document exists, and every target has its line of help."""
    makefile = (folder / "Makefile").read_text(encoding="utf-8")
    documents = [file for file in template_files() if file.suffix in {".md", ".yml"} and folder in file.parents]
    if folder == ROOT:
        documents = [file for file in documents if PROJECT not in file.parents and file.name != "CHANGELOG.md"]
    known = targets(makefile) | (targets((PROJECT / "Makefile").read_text("utf-8")) if folder == ROOT else set())
    for document in documents:
        used = set(MAKE_COMMAND.findall(document.read_text(encoding="utf-8")))
        assert used <= known, f"{document}: {used - known}"


def test_links_between_documents_hold() -> None:
    """Each relative link and each path in code marks that looks like a file of the project exists."""
    for file, text in texts():
        if file.suffix != ".md" or "corpus" in file.parts or "corpus_pdf" in file.parts:
            continue
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
            assert (file.parent / target).exists(), f"{file}: {target}"
        if PROJECT in file.parents:
            for path in re.findall(r"`((?!evals/reports/)(?:app|docs|evals|tests|scripts)/[\w./-]+)`", text):
                assert (PROJECT / path).exists(), f"{file}: {path}"


def test_same_dependency_date_everywhere() -> None:
    """Template and generated project consider packages up to the same day."""
    dates = {
        tomllib.loads((f / "pyproject.toml").read_text("utf-8"))["tool"]["uv"]["exclude-newer"] for f in (ROOT, PROJECT)
    }
    assert len(dates) == 1


def test_litellm_is_pinned_to_a_clean_release() -> None:
    """Litellm is pinned exactly, and not to one of the compromised releases."""
    dependencies = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    [pin] = [dependency for dependency in dependencies if dependency.startswith("litellm")]
    assert re.fullmatch(r"litellm==[\d.]+", pin)
    assert pin.split("==")[1] not in {"1.82.7", "1.82.8", "1.107.0"}
    assert pin in (PROJECT / "tested-set.txt").read_text("utf-8")


def code_lines(source: str) -> int:
    """Lines of code as counters of code count them: no blank lines, no comments, no docstrings."""
    texts = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    documented = {line for text in texts for line in range(text.lineno, (text.end_lineno or text.lineno) + 1)}
    lines = enumerate(map(str.strip, source.splitlines()), 1)
    return sum(bool(line) and not line.startswith("#") and number not in documented for number, line in lines)


def test_generated_project_stays_small(default_project: BakedProject) -> None:
    """The default project has at most 450 files beside the corpus, and `app/` at most 15,500 lines of code."""
    files = [file.relative_to(default_project.path) for file in default_project.files()]
    assert len([file for file in files if file.parts[0] != "corpus"]) <= 450
    sources = [default_project.read(str(file)) for file in files if file.parts[0] == "app" and file.suffix == ".py"]
    assert sum(map(code_lines, sources)) <= 15_500


def test_the_harness_can_be_read_in_an_hour() -> None:
    """`app/evals/` has less than 1,000 lines of code; see decision 0019."""
    sources = [text for file, text in texts() if PROJECT / "app" / "evals" in file.parents and file.suffix == ".py"]
    assert 0 < sum(map(code_lines, sources)) < 1_000


def test_modules_stay_small() -> None:
    """No module of the generated application exceeds 300 lines."""
    lengths = {file: len(text.splitlines()) for file, text in texts() if PROJECT / "app" in file.parents}
    assert {str(file): length for file, length in lengths.items() if length > 300} == {}


def test_corpus_is_what_the_readme_says() -> None:
    """40 to 60 articles in three formats, and the PDFs come from the sources kept for them."""
    kinds = Counter(file.suffix for file in (PROJECT / "corpus").iterdir())
    assert 40 <= sum(kinds.values()) <= 60
    assert set(kinds) == {".md", ".html", ".pdf"}
    sources = {file.stem for file in (ROOT / "tools" / "corpus_pdf").glob("*.md")}
    assert sources == {file.stem for file in (PROJECT / "corpus").glob("*.pdf")}


def test_copied_folders_hold_no_jinja_that_would_be_lost() -> None:
    """A folder that is copied as it stands holds nothing that was meant to be filled in."""
    options = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    for file, text in texts():
        if PROJECT in file.parents and f"{file.relative_to(PROJECT).parts[0]}/*.*" in options["_copy_without_render"]:
            assert "cookiecutter." not in text, file


def test_hook_knows_the_dependencies() -> None:
    """No project can be named like one of its direct dependencies."""
    metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
    wanted = [*metadata["project"]["dependencies"], *metadata["dependency-groups"]["dev"]]
    names = {found[0] for dependency in wanted if (found := re.match(r"[a-z0-9-]+", dependency))}
    hook = (ROOT / "hooks" / "pre_gen_project.py").read_text("utf-8")
    assert {name for name in names if f'"{name}"' not in hook} == set()
