"""Columns of which many tables have some. Knows no table."""

from typing import Any

from sqlalchemy import Column, DateTime, Text, func
from sqlalchemy.types import TypeEngine


def required(kind: type[TypeEngine[Any]] | TypeEngine[Any], *names: str) -> list[Column[Any]]:
    """Columns of one type that are never null."""
    return [Column(name, kind, nullable=False) for name in names]


def texts(*names: str) -> list[Column[Any]]:
    """Texts that are never null, and empty where there is nothing to say."""
    return [Column(name, Text, nullable=False, server_default="") for name in names]


def moments(*names: str) -> list[Column[Any]]:
    """Times that are now, where nothing else is said."""
    return [Column(name, DateTime(timezone=True), nullable=False, server_default=func.now()) for name in names]
