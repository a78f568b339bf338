"""Logs: readable lines in development, JSON in production, secrets masked in both.

Knows nothing of what is logged.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from app.gateway.redaction import redact
from app.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Set up structlog, and send what libraries log through the same door to standard error."""
    secrets = [
        secret.get_secret_value()
        for secret in (settings.chat_api_key, settings.embedding_api_key, settings.database_url)
        if secret
    ]

    def mask(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {name: redact(value, secrets) if isinstance(value, str) else value for name, value in event.items()}

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
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
