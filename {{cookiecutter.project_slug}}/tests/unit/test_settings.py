"""Settings: where they come from, what is refused, and that `.env.example` shows them all."""

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.errors import ConfigurationError
from app.gateway.deployments import resolve
from app.settings import ChatSettings, DeploymentSettings, Settings, forget_addresses, load_settings, variables
from tests.conftest import PROJECT

EXAMPLE = PROJECT / ".env.example"
VARIABLE = re.compile(r"^(?:# )?([A-Z][A-Z0-9_]*)=", re.MULTILINE)
SECRET = "0123456789abcdefghijklmnopqrstuv"


def is_nested(name: str) -> bool:
    """Whether this field holds a deployment's settings."""
    kind = Settings.model_fields[name].annotation
    return any(isinstance(k, type) and issubclass(k, DeploymentSettings) for k in get_args(kind) or (kind,))


def test_without_an_environment_everything_is_offline_and_local() -> None:
    """The defaults need no key, no database and no network."""
    settings = load_settings()
    assert (settings.chat.model, settings.embedding.model) == ("offline/extractive", "offline/static")
    assert (settings.environment, settings.host, settings.database_url) == ("development", "127.0.0.1", None)


def test_a_variable_sets_the_field_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are read by name, converted, and lose only to an override."""
    monkeypatch.setenv("MAX_ATTEMPTS", "7")
    monkeypatch.setenv("PORT", "9000")
    settings = load_settings(port=1)
    assert (settings.max_attempts, settings.port) == (7, 1)


def test_a_variable_of_a_role_sets_the_field_of_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the role's name is one field, however many words it has; the other fields keep their defaults."""
    monkeypatch.setenv("CHAT_MAX_CONCURRENCY", "3")
    monkeypatch.setenv("CHAT_CACHED_INPUT_PRICE", "0.25")
    assert load_settings().chat == ChatSettings(max_concurrency=3, cached_input_price=0.25)


def test_a_number_makes_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """CHAT_2_MODEL is asked where CHAT_MODEL fails, with a key and limits of its own."""
    monkeypatch.setenv("CHAT_MODEL", "openai/first")
    monkeypatch.setenv("CHAT_API_KEY", "canary")
    monkeypatch.setenv("CHAT_2_MODEL", "ollama_chat/second")
    monkeypatch.setenv("CHAT_2_TIMEOUT_SECONDS", "5")
    first, second = resolve(load_settings())["chat"]
    assert (first.model, first.variable, second.model, second.variable) == (
        "openai/first",
        "CHAT",
        "ollama_chat/second",
        "CHAT_2",
    )
    assert (first.settings.timeout_seconds, second.settings.timeout_seconds, second.api_key) == (30, 5, None)


def test_a_role_that_is_not_set_is_left_out() -> None:
    """There is no judge, and no fallback, until one is named."""
    assert {role: len(models) for role, models in resolve(load_settings()).items()} == {"chat": 1, "embedding": 1}


@pytest.mark.parametrize("role", ["JUDGE", "CHAT_2"])
def test_a_role_without_a_model_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """Whoever limits a model has to name it."""
    monkeypatch.setenv(f"{role}_MAX_CONCURRENCY", "3")
    with pytest.raises(ConfigurationError, match=f"^{role}_MODEL: "):
        load_settings()


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CHAT_API_KEY=` in a copied `.env` is no key, and `PASSAGES=` keeps the default."""
    monkeypatch.setenv("CHAT_API_KEY", "")
    monkeypatch.setenv("PASSAGES", "")
    settings = load_settings()
    assert (settings.chat.api_key, settings.passages) == (None, Settings.model_fields["passages"].default)


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
        ("CHAT_MAX_CONCURRENCY", "0"),
        ("EMBEDDING_OUTPUT_PRICE", "-1"),
        ("TENANT_BUDGET_USD", "inf"),
        ("KEY_BUDGET_USD", "1e300"),
        ("DEADLINE_SECONDS", "inf"),
        ("DEADLINE_SECONDS", "nan"),
        ("CHAT_INPUT_PRICE", "inf"),
        ("CHAT_2_OUTPUT_PRICE", "1e300"),
        ("CHAT", "canary"),
        ("CHAT", "[]"),
        ("JUDGE", "canary"),
    ],
)
def test_a_wrong_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error names the variable that is wrong."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"\b{name}: ") as caught:
        load_settings()
    assert "canary" not in caught.value.message


def test_the_white_space_around_a_key_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What copying leaves at the ends is taken off, and nothing but that is no key."""
    monkeypatch.setenv("CHAT_API_KEY", "\n canary key\t\r\n")
    monkeypatch.setenv("EMBEDDING_API_KEY", " \n")
    settings = load_settings()
    assert settings.chat.api_key
    assert settings.chat.api_key.get_secret_value() == "canary key"
    assert settings.embedding.api_key is None


@pytest.mark.parametrize("odd", ["\n", "\r", "\t", "\x7f", "\u00e9", "\u201d", "\u200b"])
@pytest.mark.parametrize("role", ["chat", "judge"])
def test_a_key_that_fits_into_no_header_is_refused_without_showing_it(role: str, odd: str) -> None:
    """A line break would be found by the first call, in an error that shows the key; so it is found here."""
    with pytest.raises(ConfigurationError, match=rf"^{role.upper()}_API_KEY: a key has one line") as caught:
        load_settings(**{role: {"model": "openai/a-model", "api_key": f"canary{odd}canary"}})
    assert "canary" not in caught.value.message


def load_file(folder: Path, text: str) -> Settings:
    """Read an `.env` with this text."""
    env = folder / ".env"
    env.write_text(text, encoding="utf-8")
    return load_settings(_env_file=env)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TENANT_BUGET_USD", "TENANT_BUDGET_USD"),
        ("tenant_buget_usd", "TENANT_BUDGET_USD"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("CHAT_MODLE", "CHAT_MODEL"),
        ("CHAT_4_MODEL", "CHAT_[123]_MODEL"),
        ("CHAT_2_MAX_CONCURENCY", "CHAT_2_MAX_CONCURRENCY"),
        ("JUDGE_KEY", "JUDGE_API_KEY"),
        ("CHAT", "CHAT_[A-Z]+"),
    ],
)
def test_a_misspelt_name_in_the_file_is_refused_with_the_nearest(tmp_path: Path, name: str, meant: str) -> None:
    """A limit that nobody reads is no limit, so the name is told, and not what was written."""
    with pytest.raises(ConfigurationError) as caught:
        load_file(tmp_path, f"PASSAGES=3\nexport {name}='canary'\n")
    told = rf"{name.upper()} in \.env is no setting; did you mean {meant}\?"
    assert re.fullmatch(told, caught.value.message)


def test_every_misspelt_name_is_told_at_once(tmp_path: Path) -> None:
    """Two mistakes are one message."""
    with pytest.raises(ConfigurationError, match=r"mean PASSAGES\? EMBEDDING_MODLE .* mean EMBEDDING_MODEL\?$"):
        load_file(tmp_path, "PASAGES=3\nEMBEDDING_MODLE=x\n")


def test_other_programs_may_havevariables_in_the_file(tmp_path: Path) -> None:
    """What Compose, Postgres, AWS or a test run read is left alone, also where a setting's name is a part of it."""
    names = ("POSTGRES_PASSWORD", "COMPOSE_PROJECT_NAME", "AWS_REGION_NAME", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY")
    near = ("PGHOST", "PGPORT", "TEST_DATABASE_URL", "CHATTY", "SMTP_HOST", "PYTHON_IMAGE", "UV_IMAGE", "TZ")
    assert load_file(tmp_path, "".join(f"{name}=1\n" for name in (*names, *near))) == Settings()


@given(st.sampled_from(sorted(dict(variables()))), st.data())
def test_a_name_that_is_one_letter_short_is_found(name: str, data: st.DataObject) -> None:
    """Whatever long name loses a letter, some setting is proposed."""
    place = data.draw(st.integers(0, len(name) - 1))
    short = name[:place] + name[place + 1 :]
    assume(len(name) > 4 and short not in dict(variables()))
    with TemporaryDirectory() as folder, pytest.raises(ConfigurationError, match=f"^{short} in .env is no setting"):
        load_file(Path(folder), f"{short}=1\n")


def test_a_misspelt_name_in_the_environment_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment belongs to everybody."""
    monkeypatch.setenv("CHAT_MODLE", "x")
    assert load_settings() == Settings()


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
    keys = {
        name: {"model": "openai/a-model", "api_key": f"canary-{name}"}
        for name in Settings.model_fields
        if is_nested(name)
    }
    settings = load_settings(database_url=url, **keys)
    assert settings.judge
    assert settings.judge.api_key
    assert "canary" not in f"{settings!r} {settings} {settings.judge!r} {settings.model_dump()}"


def test_settings_cannot_be_changed() -> None:
    """What was read at the start stays so."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().passages = 1  # type: ignore[misc]  # that is the point


SAFE = {
    "environment": "production",
    "database_url": "postgresql://app:6f1d0a9b@db/app",
    "api_key_secret": "9f8e7d6c5b4a3021" * 4,
}


def test_production_starts_with_settings_that_are_safe() -> None:
    """A user of the database without a password may log in by other means."""
    for url in (SAFE["database_url"], "postgresql://app@db/app", "postgresql://db/app"):
        assert load_settings(**SAFE | {"database_url": url}).environment == "production"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"database_url": None}, "ENVIRONMENT=production needs DATABASE_URL"),
        ({"api_key_secret": None}, "ENVIRONMENT=production needs API_KEY_SECRET"),
        ({"log_level": "DEBUG"}, "ENVIRONMENT=production needs another LOG_LEVEL"),
        *(
            ({"database_url": f"postgresql://{login}"}, "ENVIRONMENT=production needs another password in DATABASE_URL")
            for login in (
                *("app:app@db/app", "me:postgres@db/app", "me:password@db/app", "me:changeme@db/app", "me:ME@db/app"),
                *("me:@db/app", "m%65:me@db/app", "me:p%61ssword@db/app", "me@db/app?password=Postgres"),
            )
        ),
    ],
)
def test_production_refuses_what_is_unsafe(changes: dict[str, object], told: str) -> None:
    """Each with the variable to set; development takes the same."""
    with pytest.raises(ConfigurationError, match=told):
        load_settings(**SAFE | changes)
    assert load_settings(**SAFE | changes | {"environment": "development"})


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "short",
        "9f8e7d6c5b4a3021" * 2 + "changeme",
        "your-key-" * 9,
        "a" * 40,
        "abcdefg" * 6,
        "9f8e7d6c5b4a302" * 2 + "1",
    ],
)
def test_a_secret_that_can_be_guessed_is_none(secret: str) -> None:
    """Whatever the environment; an empty one is none, and the message does not show the rest."""
    if not secret:
        assert load_settings().api_key_secret is None
        return
    with pytest.raises(
        ConfigurationError, match="API_KEY_SECRET: it has to be 32 or more random characters"
    ) as refused:
        load_settings(api_key_secret=secret)
    assert secret not in str(refused.value)


def test_a_url_that_is_none_is_told_where_it_is_used() -> None:
    """Here nobody stumbles over it, or shows it."""
    assert load_settings(**SAFE | {"database_url": "postgresql://[canary/app"})


def test_every_setting_stands_in_the_example_and_the_other_way_round() -> None:
    """`.env.example` has a line `NAME=value` or `# NAME=value` for each setting, and for nothing else.

    Of the roles it shows CHAT_ whole, and names the others.
    """
    example = EXAMPLE.read_text(encoding="utf-8")
    flat = {name.upper() for name in Settings.model_fields if not is_nested(name)}
    chat = {f"CHAT_{name.upper()}" for name in ChatSettings.model_fields}
    assert set(VARIABLE.findall(example)) == flat | chat
    named = {f"{name.upper()}_" for name in Settings.model_fields if is_nested(name) and name != "chat"}
    assert {prefix for prefix in named if not re.search(rf"\b{prefix}\b", example)} == set()


def test_a_commented_line_of_the_example_shows_the_default(tmp_path: Path) -> None:
    """With every comment mark removed, only the database and what the project chose differ from the defaults."""
    uncommented = tmp_path / ".env"
    uncommented.write_text(VARIABLE.sub(r"\1=", EXAMPLE.read_text(encoding="utf-8")), encoding="utf-8")
    default, shown = Settings(), load_settings(_env_file=uncommented)
    changed = {name for name in Settings.model_fields if getattr(default, name) != getattr(shown, name)}
    assert changed <= {"database_url", "app_name", "chat"}
    changed = {name for name in ChatSettings.model_fields if getattr(default.chat, name) != getattr(shown.chat, name)}
    assert changed <= {"model", "api_base"}


def test_the_example_is_accepted_as_it_is() -> None:
    """Copied to `.env` without a change, it sets what the project chose and no database."""
    assert load_settings(_env_file=EXAMPLE.resolve(strict=True)).database_url is None


def test_only_the_settings_say_where_a_provider_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that libraries would read are taken away, each time they come; our own variables stay."""
    for name in ("GROQ_API_BASE", "OPENAI_BASE_URL", "CHAT_API_BASE", "DATABASE_URL", "PATH_TO_ENDPOINTS"):
        monkeypatch.setenv(name, "x")
    for _ in range(2):
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "x")
        forget_addresses()
        assert "AZURE_OPENAI_ENDPOINT" not in os.environ
    assert not {"GROQ_API_BASE", "OPENAI_BASE_URL"} & os.environ.keys()
    assert {"CHAT_API_BASE", "DATABASE_URL", "PATH_TO_ENDPOINTS"} <= os.environ.keys()


@pytest.mark.parametrize(
    "origins",
    [
        "",
        "https://app.example.com",
        "http://localhost:3000, https://[::1]:8443 ,",
        "https://a.example,https://b.example",
    ],
)
def test_origins_are_a_list_with_commas(origins: str) -> None:
    """As browsers send them, in production too."""
    production = {
        "environment": "production",
        "database_url": "postgresql://h/d",
        "api_key_secret": SAFE["api_key_secret"],
    }
    settings = Settings.model_validate({"cors_origins": origins, **production})
    assert settings.allowed_origins == [part.strip() for part in origins.split(",") if part.strip()]


@pytest.mark.parametrize(
    "origins",
    ["app.example.com", "https://app.example.com/", "https://a.example/x", "https://a b", "null", "https://*"],
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    """It would never match, or match too much."""
    with pytest.raises(ConfigurationError, match="CORS_ORIGINS takes origins"):
        load_settings(cors_origins=origins)


@pytest.mark.parametrize("environment", ["development", "production"])
def test_every_origin_is_for_development_alone(environment: str) -> None:
    """`*` is refused in production."""
    given = {"environment": environment, "database_url": "postgresql://h/d", "api_key_secret": SAFE["api_key_secret"]}
    if environment == "development":
        assert Settings.model_validate({**given, "cors_origins": "*"}).allowed_origins == ["*"]
        return
    with pytest.raises(ConfigurationError, match="CORS_ORIGINS takes origins"):
        load_settings(**given, cors_origins="*")
