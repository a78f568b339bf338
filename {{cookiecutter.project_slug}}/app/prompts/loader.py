"""Prompt files: front matter, then one section per message; the content hash says which version answered.

Knows nothing of what a prompt is for.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

import yaml

from app.errors import ConfigurationError
from app.types import Message

FOLDER = Path(__file__).parent
SECTION = re.compile(r"^## (system|user|assistant)\n", re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    """A prompt file, parsed. `sections` are (role, template) with $placeholders."""

    name: str
    content_hash: str
    sections: tuple[tuple[str, str], ...]

    def messages(self, **values: str) -> list[Message]:
        """Fill the placeholders; a value is inserted as it is and never read as a template.

        Raises:
            KeyError: a placeholder has no value.

        """
        return [{"role": role, "content": Template(text).substitute(values)} for role, text in self.sections]


@cache
def load_prompt(name: str) -> Prompt:
    """Read `name`.md from this folder.

    Raises:
        ConfigurationError: there is none.

    """
    try:
        raw = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"there is no prompt {name!r}: write it to app/prompts/{name}.md") from None
    _, front, body = raw.split("---\n", 2)
    parts = SECTION.split(body)[1:]
    sections = tuple((role, text.strip()) for role, text in zip(parts[::2], parts[1::2], strict=True))
    return Prompt(yaml.safe_load(front)["name"], hashlib.sha256(raw.encode()).hexdigest(), sections)


def all_hashes() -> dict[str, str]:
    """The content hash of every prompt by its name: another one of them can mean another answer."""
    return {path.stem: load_prompt(path.stem).content_hash for path in sorted(FOLDER.glob("*.md"))}
