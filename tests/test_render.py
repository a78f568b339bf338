"""Every option value renders into files that parse and hold no trace of the template."""

import ast
import json
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Bake, BakedProject
from tools.render import ROOT

OPTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
CHOICES = [
    (name, value) for name, values in OPTIONS.items() if isinstance(values, list) and name[0] != "_" for value in values
]
JINJA = re.compile(r"\{\{ ?cookiecutter|\{%|\bcookiecutter\.[a-z_]")


def parse(file: Path) -> None:
    """Parse a file by its kind; raises where it cannot be."""
    text = file.read_text(encoding="utf-8")
    match file.suffix or file.name:
        case ".py":
            ast.parse(text)
        case ".toml":
            tomllib.loads(text)
        case ".json":
            json.loads(text)
        case ".jsonl":
            [json.loads(line) for line in text.splitlines()]
        case ".yaml" | ".yml":
            yaml.safe_load(text)


@pytest.mark.parametrize(("option", "value"), CHOICES)
def test_each_value_renders_to_files_that_parse(bake: Bake, option: str, value: str) -> None:
    """Every YAML, TOML, JSON and Python file parses, and no Jinja is left anywhere."""
    for file in bake(**{option: value}).files():
        if file.suffix != ".pdf":
            parse(file)
            assert not JINJA.search(file.read_text(encoding="utf-8")), file


def test_options_stay_few() -> None:
    """There are at most twelve options, each with a prompt a person understands."""
    public = [name for name in OPTIONS if not name.startswith("_")]
    assert len(public) <= 12
    assert set(public) == set(OPTIONS["__prompts__"])


def test_every_provider_has_defaults() -> None:
    """Each provider that can be chosen has its defaults, and no other has any."""
    assert set(OPTIONS["llm_provider"]) == set(OPTIONS["_providers"])


@pytest.mark.parametrize("provider", OPTIONS["llm_provider"])
def test_provider_sets_only_the_environment_files(bake: Bake, default_project: BakedProject, provider: str) -> None:
    """The provider changes .env and .env.example alone, and both name its model."""
    project = bake(llm_provider=provider)
    changed = {
        str(file.relative_to(project.path))
        for file in project.files()
        if file.read_bytes() != (default_project.path / file.relative_to(project.path)).read_bytes()
    }
    assert changed == (set() if provider == "offline" else {".env", ".env.example"})
    assert f"\nCHAT_MODEL={OPTIONS['_providers'][provider]['model']}\n" in project.read(".env")


@pytest.mark.parametrize(
    ("name", "first_line", "identifier"),
    [
        ("MIT", "MIT License", "MIT"),
        ("Apache-2.0", "Apache License", "Apache-2.0"),
        ("Proprietary", "All rights reserved", "LicenseRef-Proprietary"),
    ],
)
def test_license(bake: Bake, name: str, first_line: str, identifier: str) -> None:
    """The chosen licence stands in LICENSE with its holder, and in the package's metadata."""
    project = bake(license=name, author_name="Ada Example")
    assert first_line.lower() in project.read("LICENSE")[:200].lower()
    assert "Ada Example" in project.read("LICENSE")
    assert tomllib.loads(project.read("pyproject.toml"))["project"]["license"] == identifier


def test_names_reach_the_files(bake: Bake) -> None:
    """Name, slug, description and author stand where people and tools look for them."""
    project = bake(project_name="Anna's Über Desk", description="Answers; it's 100 % checked.", author_name="Zoë Ö")
    metadata = tomllib.loads(project.read("pyproject.toml"))["project"]
    assert project.path.name == metadata["name"] == "anna-s-uber-desk"
    assert metadata["authors"] == [{"name": "Zoë Ö", "email": "you@example.com"}]
    assert metadata["description"] == "Answers; it's 100 % checked."
    assert project.read("README.md").startswith("# Anna's Über Desk\n\nAnswers; it's 100 % checked.\n")
    assert 'APP_NAME="Anna\'s Über Desk"' in project.read(".env.example")


def test_default_project_renders_quickly(bake: Bake) -> None:
    """Rendering, the lock not counted, takes about a second; the bound leaves room for a busy machine."""
    began = time.monotonic()
    bake()
    assert time.monotonic() - began < 10
