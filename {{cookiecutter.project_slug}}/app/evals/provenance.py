"""What answers depend on: the settings, the documents, the prompts, the models and the code.

Knows nothing of how a run goes.
"""

import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, SecretStr

from app.evals.dataset import Dataset
from app.evals.runs import Configuration
from app.prompts.loader import all_hashes
from app.settings import Settings

CODE = Path(__file__).parent.parent
ASIDE = {"app_name", "environment", "log_level", "database_url", "data_dir", "host", "port"}
"""Settings on which no answer depends."""
LIMITS = re.compile(r"BUDGET|DEADLINE|BREAKER|CONCURRENCY|ATTEMPTS|_SECONDS$")
"""Settings that decide whether there is an answer, and not what it says: who goes on with a run raises one."""
MEASURES = {"commands", "datasets", "evals", "judging", "reports", "tuning"}


def describe(
    dataset: Dataset,
    documents: Mapping[str, str],
    settings: Settings,
    *,
    name: str = "",
    repeats: int = 1,
    judge_model: str = "",
) -> Configuration:
    """What a run over `dataset` is made with; `documents` are content hashes by source."""
    return Configuration(
        name=name,
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        split=" and ".join(sorted({case.split for case in dataset.cases})),
        documents_hash=_hash(*(part for item in sorted(documents.items()) for part in item)),
        chat_model=settings.chat.model,
        embedding_model=settings.embedding.model,
        judge_model=judge_model,
        settings=dict(_changed(settings)),
        prompts=all_hashes(),
        revision=revision(),
        repeats=repeats,
    )


def fingerprint(configuration: Configuration) -> str:
    """The same for two runs whose answers can stand in for each other's.

    Instead of the revision, which says nothing of changes that are not committed, the code itself counts. What only
    measures answers does not, nor do limits: where one was met there is no answer.
    """
    one = configuration
    made = [one.dataset_hash, one.documents_hash, one.chat_model, one.embedding_model, _code()]
    named = sorted({**one.settings, **one.prompts}.items())
    return _hash(*made, *(f"{name}={value}" for name, value in named if not _is_aside(name)))[:32]


def _is_aside(name: str) -> bool:
    return name.lower().startswith("judge") or LIMITS.search(name) is not None


@cache  # what is running, and not what is edited meanwhile
def _code() -> str:
    files = sorted(path for path in CODE.rglob("*.py") if path.relative_to(CODE).parts[0] not in MEASURES)
    return _hash(*(path.read_text(encoding="utf-8") for path in files))


def revision(folder: Path = CODE) -> str:
    """The commit that the code in `folder` is at, with a plus where it was changed since; empty without git."""
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--", "."]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603  # constant
    except (OSError, subprocess.CalledProcessError):
        return ""
    lines = done.stdout.splitlines()
    commit = lines[0].removeprefix("# branch.oid ")[:12] if lines else ""
    return commit + "+" * any(not line.startswith("#") for line in lines)


def _changed(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each variable that is not as it comes, with its value; never a secret."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _changed(value, f"{prefix}{name}_")
        elif not (value == field.default or name in ASIDE or isinstance(value, SecretStr)):
            yield f"{prefix}{name}".upper(), str(value)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
