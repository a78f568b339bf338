"""Logs: one shape for our lines and the libraries', secrets masked in development and in production."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.settings import Settings
from app.telemetry import configure_logging

KEY, URL = "canary-key-2f81", "postgresql://me:canary-password@db/app"
PEPPER = "canary-1a2b3c4d5e6f7089-canary-1a2b3c4d5e6f7089"
ENVIRONMENTS = pytest.mark.parametrize("environment", ["development", "production"])


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Take away what a test has set up."""
    yield
    logging.basicConfig(handlers=[], level="WARNING", force=True)
    structlog.reset_defaults()


def configured(environment: str) -> Settings:
    """Set up logging with secrets in the settings."""
    settings = Settings.model_validate(
        {
            "environment": environment,
            "log_level": "INFO",
            "chat_2": {"model": "openai/second", "api_key": KEY},
            "database_url": URL,
            "api_key_secret": PEPPER,
        }
    )
    configure_logging(settings)
    return settings


def log_a_failure() -> None:
    """An error whose text holds a secret, logged with its traceback."""
    try:
        int(KEY)
    except ValueError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")


@ENVIRONMENTS
def test_no_secret_is_logged(environment: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in a message, an argument, a value, a nested value, an error or a traceback, ours or a library's."""
    configured(environment)
    event = f"with {KEY}"
    structlog.get_logger("ours").info(
        event, url=URL, nested={"headers": [("x-key", KEY)]}, error=ValueError(KEY), bare=KEY
    )
    logging.getLogger("theirs").warning("with %s and %s", URL, PEPPER)
    log_a_failure()
    written = capsys.readouterr().err
    assert "canary" not in written
    assert written.count("[redacted]") == 9


@ENVIRONMENTS
def test_what_looks_like_a_key_is_masked_without_being_known(
    environment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that stands in no setting is known by its shape."""
    configured(environment)
    structlog.get_logger("ours").info("sk-abcdefghijklmnop1234", header="Bearer abcdef")
    written = capsys.readouterr().err
    assert written.count("[redacted]") == 2
    assert "abcdef" not in written


def test_production_writes_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line, ours and a library's, has event, level, logger, time and values of their own type."""
    configured("production")
    structlog.get_logger("ours").info("stored", chunks=3)
    logging.getLogger("theirs").warning("slow")
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["level"], ours["logger"], ours["chunks"]) == ("stored", "info", "ours", 3)
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("slow", "warning", "theirs")
    assert ours["timestamp"].endswith("Z")


def test_a_traceback_stays_in_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is a field of the line, with the error and where it came from."""
    configured("production")
    log_a_failure()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ["log_a_failure" in line["exception"] for line in lines] == [True, True]


def test_development_writes_readable_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees the event and its values, without colour codes."""
    configured("development")
    structlog.get_logger("ours").info("stored", chunks=3)
    line = capsys.readouterr().err
    assert "stored" in line
    assert "chunks=3" in line
    assert "\x1b" not in line


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL counts for us and for libraries."""
    configured("development")
    structlog.get_logger("ours").debug("small")
    logging.getLogger("theirs").debug("talk")
    assert capsys.readouterr().err == ""
