"""Settings: where they come from, what is refused, and that `.env.example` shows them all."""

import re
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.settings import Settings, load_settings
from tests.conftest import PROJECT

EXAMPLE = PROJECT / ".env.example"
VARIABLE = re.compile(r"^(?:# )?([A-Z][A-Z0-9_]*)=", re.MULTILINE)


def test_without_an_environment_everything_is_offline_and_local() -> None:
    """The defaults need no key, no database and no network."""
    settings = load_settings()
    assert (settings.chat_model, settings.embedding_model) == ("offline/extractive", "offline/static")
    assert (settings.environment, settings.host, settings.database_url) == ("development", "127.0.0.1", None)


def test_a_variable_sets_the_field_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are read by name, converted, and lose only to an override."""
    monkeypatch.setenv("MAX_ATTEMPTS", "7")
    monkeypatch.setenv("PORT", "9000")
    settings = load_settings(port=1)
    assert (settings.max_attempts, settings.port) == (7, 1)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CHAT_API_KEY=` in a copied `.env` is no key, and `PASSAGES=` keeps the default."""
    monkeypatch.setenv("CHAT_API_KEY", "")
    monkeypatch.setenv("PASSAGES", "")
    settings = load_settings()
    assert (settings.chat_api_key, settings.passages) == (None, Settings.model_fields["passages"].default)


def test_a_file_is_read_and_a_variable_wins_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` stands below the environment, and what it holds for other programs is ignored."""
    env = tmp_path / ".env"
    env.write_text("APP_NAME=From the file\nPASSAGES=3\nSOMEBODY_ELSES=1\n")
    monkeypatch.setenv("PASSAGES", "4")
    settings = load_settings(_env_file=env)
    assert (settings.app_name, settings.passages) == ("From the file", 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEADLINE_SECONDS", "0"),
        ("MAX_ATTEMPTS", "0"),
        ("PASSAGES", "many"),
        ("DENSE_WEIGHT", "1.1"),
        ("CHUNK_CHARACTERS", "10"),
        ("PORT", "65536"),
        ("ENVIRONMENT", "staging"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error names the variable that is wrong."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        load_settings()


def test_an_error_names_every_variable_and_shows_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mistakes are one message, and what was written stays out of it, since it may be a secret."""
    monkeypatch.setenv("PASSAGES", "canary-one")
    monkeypatch.setenv("PORT", "canary-two")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert re.fullmatch(r"PASSAGES: .+; PORT: .+", caught.value.message)
    assert "canary" not in caught.value.message


def test_what_was_written_is_not_shown_by_the_settings_themselves() -> None:
    """Without `load_settings` around it, an error does not repeat the value either."""
    with pytest.raises(ValueError, match="passages") as caught:
        Settings.model_validate({"passages": "canary"})
    assert "canary" not in str(caught.value)


def test_secrets_are_not_shown_with_the_settings() -> None:
    """Printing the settings, as a debugger or a traceback does, shows no key and no database password."""
    url = "postgresql://me:canary-password@db/app"
    shown = repr(load_settings(chat_api_key="canary-chat", embedding_api_key="canary-embedding", database_url=url))
    assert "canary" not in shown


def test_settings_cannot_be_changed() -> None:
    """What was read at the start stays so."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().passages = 1  # type: ignore[misc]  # that is the point


def test_production_needs_a_database() -> None:
    """The built-in Postgres is refused in production, with the variable to set."""
    with pytest.raises(ConfigurationError, match="ENVIRONMENT=production needs DATABASE_URL"):
        load_settings(environment="production")
    assert load_settings(environment="production", database_url="postgresql://db/app").environment == "production"


def test_every_setting_stands_in_the_example_and_the_other_way_round() -> None:
    """`.env.example` has a line `NAME=value` or `# NAME=value` for each setting, and for nothing else."""
    shown = VARIABLE.findall(EXAMPLE.read_text(encoding="utf-8"))
    assert set(shown) == {name.upper() for name in Settings.model_fields}


def test_a_commented_line_of_the_example_shows_the_default(tmp_path: Path) -> None:
    """With every comment mark removed, only the database and what the project chose differ from the defaults."""
    uncommented = tmp_path / ".env"
    uncommented.write_text(VARIABLE.sub(r"\1=", EXAMPLE.read_text(encoding="utf-8")), encoding="utf-8")
    default, shown = Settings().model_dump(), load_settings(_env_file=uncommented).model_dump()
    changed = {name for name in default if default[name] != shown[name]}
    assert changed <= {"database_url", "app_name", "chat_model", "chat_api_base"}


def test_the_example_is_accepted_as_it_is() -> None:
    """Copied to `.env` without a change, it sets what the project chose and no database."""
    assert load_settings(_env_file=EXAMPLE.resolve(strict=True)).database_url is None
