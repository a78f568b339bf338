"""Several configurations over one dataset: the settings as they are, and with some of them changed.

Knows nothing of how a run goes, or of how runs are compared.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from app.datasets.corpus import alone
from app.db.engine import Database
from app.errors import ConfigurationError, InvalidInput
from app.evals import runner
from app.evals.dataset import Dataset
from app.evals.provenance import ASIDE
from app.evals.runs import Run
from app.gateway.deployments import resolve
from app.gateway.gateway import open_gateway
from app.session import key_value
from app.settings import Settings, load_settings, variables

CURRENT = "as it is"


def configurations(changes: Iterable[str]) -> dict[str, Settings]:
    """The settings as they are, and those that each `NAME=VALUE[,NAME=VALUE]` makes of them, by name.

    Raises:
        InvalidInput: a name is no setting on which answers depend, or is a secret, which would show in every report; or
            two configurations are one.
        ConfigurationError: a value is wrong, or a model cannot work as it is set.

    """
    found = {CURRENT: load_settings()}
    for change in dict.fromkeys(changes):
        settings = changed([change])
        if twin := next((name for name, other in found.items() if other == settings), None):
            as_set = "changes nothing: it is what is set"
            raise InvalidInput(f"{change} {as_set if twin == CURRENT else f'is the same as {twin}'}")
        found[change] = settings
    for settings in found.values():
        resolve(settings)
    return found


def changed(changes: Iterable[str]) -> Settings:
    """The settings with all of these changes. Raises as `configurations`."""
    overrides: dict[str, Any] = {}
    for pair in (pair for change in changes for pair in change.split(",")):
        name, value = key_value(pair, "--set")
        role, field = _place(name.strip())
        (overrides.setdefault(role, {}) if role else overrides)[field] = value.strip()
    try:
        return load_settings(**overrides)
    except ConfigurationError as error:
        raise ConfigurationError(f"--set {','.join(changes)}: {error.message}") from None


def _place(name: str) -> tuple[str, str]:
    """Where Settings has it: CHAT_MODEL is the field model of chat."""
    known = dict(variables())
    if name not in known:
        nearest = get_close_matches(name.upper(), known, n=1, cutoff=0)[0]
        raise InvalidInput(f"--set: {name} is no setting; did you mean {nearest}?")
    if name.lower() in ASIDE or name.endswith("_API_KEY"):
        raise InvalidInput(f"--set: {name} belongs into .env or the environment")
    role = known[name].lower()
    return role, name.lower().removeprefix(f"{role}_")


async def run_all(
    dataset: Dataset,
    documents: Iterable[Path],
    database: Database,
    given: Mapping[str, Settings],
    *,
    repeats: int = 1,
    **options: Any,  # noqa: ANN401  # those of `runner.run`
) -> list[Run]:
    """One run after the other: they share a tenant, and each cuts and embeds the documents as its settings say.

    Raises:
        InvalidInput: attempts would be answered from the cache, or as `runner.run`.
        AppError: as `runner.run`; what was answered stays in the journals.

    """
    for settings in given.values():
        _refuse_one_answer_several_times(settings, repeats)
    runs, files = [], list(documents)
    async with alone(database) as own:
        for name, settings in given.items():
            async with open_gateway(settings, database) as gateway:
                run = runner.run(dataset, files, own, gateway, settings, name=name, repeats=repeats, **options)
                runs.append(await run)
    return runs


def _refuse_one_answer_several_times(settings: Settings, repeats: int) -> None:
    if repeats > 1 and settings.cache_mode in {"on", "read_only"}:
        raise InvalidInput(
            f"with CACHE_MODE={settings.cache_mode} all attempts may be one cached answer: set CACHE_MODE=off"
        )
