"""The only reader of the environment: `.env` and variables in, one frozen object out.

Refuses what would be unsafe in production. Knows nothing of what the settings are used for.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ConfigurationError

MEGABYTE = 1_000_000


class Settings(BaseSettings):
    """Each field is one environment variable of the same name in capitals; `.env.example` shows them all."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    app_name: str = "AI app"
    environment: Literal["development", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"

    database_url: SecretStr | None = Field(
        None, description="Postgres with pgvector; empty runs the one from the wheel, in DATA_DIR"
    )
    data_dir: Path = Path(".data")

    chat_model: str = Field("offline/extractive", description="provider/model, as litellm names it")
    chat_api_key: SecretStr | None = None
    chat_api_base: str | None = Field(None, description="for Ollama, Azure and OpenAI-compatible servers")
    chat_api_version: str | None = Field(None, description="for Azure")
    embedding_model: str = "offline/static"
    embedding_api_key: SecretStr | None = None
    embedding_api_base: str | None = None
    embedding_api_version: str | None = None

    deadline_seconds: float = Field(60, gt=0, description="for one model call, its retries included")
    max_attempts: int = Field(3, ge=1, le=10, description="tries of one model call before giving up")
    max_output_tokens: int = Field(800, ge=1)

    passages: int = Field(10, ge=1, le=50, description="how many passages the model reads")
    candidates: int = Field(50, ge=1, le=1000, description="how many each retriever may propose")
    dense_weight: float = Field(0.4, ge=0, le=1, description="the vector side's share in the fused score")
    chunk_characters: int = Field(900, ge=100, le=20_000)
    abstain_below: float = Field(0.425, ge=0, le=1, description="the extractive model's threshold, set on data")

    max_question_characters: int = Field(4_000, ge=1)
    max_document_bytes: int = Field(20 * MEGABYTE, ge=1)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)

    @model_validator(mode="after")
    def _safe_in_production(self) -> Self:
        if self.environment == "production" and self.database_url is None:
            raise ValueError("ENVIRONMENT=production needs DATABASE_URL: the built-in Postgres is for development")
        return self


def load_settings(**overrides: object) -> Settings:
    """Read the environment once; `overrides` win over it.

    Raises:
        ConfigurationError: names each variable that is wrong, never its value.

    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates what mypy cannot see
    except ValidationError as error:
        raise ConfigurationError("; ".join(map(_line, error.errors()))) from None


def _line(error: ErrorDetails) -> str:
    """`VARIABLE: what is wrong`, or the bare message where it concerns more than one variable."""
    variable = ".".join(map(str, error["loc"])).upper()
    message = error["msg"].removeprefix("Value error, ")
    return f"{variable}: {message}" if variable else message
