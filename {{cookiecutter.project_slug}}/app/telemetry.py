"""Logs: readable lines in development, JSON in production, secrets masked in both.

Knows nothing of what is logged.
"""

import logging
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog

from app.gateway.deployments import secrets
from app.gateway.redaction import redact
from app.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Set up structlog, and send what libraries log through the same door to standard error."""
    own = [secret for secret in (settings.database_url, settings.api_key_secret) if secret is not None]
    known = [*secrets(settings), *(secret.get_secret_value() for secret in own)]

    def mask(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {name: _masked(value, known) for name, value in event.items()}

    production = settings.environment == "production"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask,
    ]
    shown = structlog.processors.JSONRenderer() if production else structlog.dev.ConsoleRenderer(colors=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown]
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # a list of parts at every start
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _masked(value: object, secrets: Sequence[str]) -> object:
    """A value without secrets, to its innermost parts; what is no plain value is masked as it would be shown."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, dict):
        return {name: _masked(inner, secrets) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner, secrets) for inner in value]
    return redact(value if isinstance(value, str) else repr(value), secrets)
