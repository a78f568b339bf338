"""The only reader of the environment: `.env` and variables in, one frozen object out.

Refuses what would be unsafe in production. Knows nothing of what the settings are used for.
"""

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from app.errors import ConfigurationError
from app.guessing import SHORTEST_SECRET, has_known_password, is_guessable

MILLION = 1_000_000
ADDRESS = re.compile(r"_(?:API_BASE|BASE_URL|API_URL|ENDPOINT)(?:_URL)?$")
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")  # as a browser sends it


class DeploymentSettings(BaseModel):
    """One model at one endpoint; the field `api_key` of `chat` is the variable CHAT_API_KEY."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)

    model: str = Field(description="provider/model, as litellm names it")
    api_key: SecretStr | None = None
    api_base: str | None = Field(None, description="for Ollama, Azure and OpenAI-compatible servers")
    api_version: str | None = Field(None, description="for Azure")
    input_price: float | None = Field(
        None, ge=0, le=MILLION, description="USD per million tokens, where litellm knows none"
    )
    cached_input_price: float | None = Field(None, ge=0, le=MILLION, description="empty: as INPUT_PRICE")
    output_price: float | None = Field(None, ge=0, le=MILLION)
    context_tokens: int | None = Field(None, ge=1, description="what it reads at once; empty: as litellm knows")
    max_concurrency: int = Field(64, ge=1, description="calls at a time, from one process")
    timeout_seconds: float = Field(30, gt=0, description="for the reply; of a stream, for its first token")
    idle_seconds: float = Field(15, gt=0, description="the longest silence in a stream")
    json_schema: bool | None = Field(None, description="takes a JSON schema; empty: as litellm knows")
    images: bool | None = Field(None, description="takes images; empty: as litellm knows")
    audio: bool | None = Field(None, description="takes audio; empty: as litellm knows")

    @field_validator("api_key")
    @classmethod
    def _fits_into_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        """Without the white space that copying leaves around it."""
        plain = key.get_secret_value().strip() if key else ""
        if not (plain.isascii() and plain.isprintable()):
            raise ValueError("a key has one line, and no characters but ASCII")
        return SecretStr(plain) if plain else None


class ChatSettings(DeploymentSettings):
    """What answers when nothing is set: offline, by quoting."""

    model: str = "offline/extractive"


class EmbeddingSettings(DeploymentSettings):
    """What embeds when nothing is set: offline, static vectors."""

    model: str = "offline/static"


class Settings(BaseSettings):
    """Each field is one environment variable of the same name in capitals; `.env.example` shows them all.

    A field that holds DeploymentSettings is a role, and its fields are variables that begin with its name. A number
    at its end makes it the next choice of the role: `chat_2` is asked where `chat` fails.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        enable_decoding=False,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    app_name: str = "AI app"
    environment: Literal["development", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"

    database_url: SecretStr | None = Field(
        None, description="Postgres with pgvector; empty runs the one from the wheel, in DATA_DIR"
    )
    data_dir: Path = Path(".data")
    database_pool: int = Field(10, ge=2, le=1_000, description="connections of one process, and ten more at a rush")

    chat: ChatSettings = ChatSettings()
    chat_2: DeploymentSettings | None = None
    chat_3: DeploymentSettings | None = None
    embedding: EmbeddingSettings = EmbeddingSettings()
    embedding_2: DeploymentSettings | None = None
    judge: DeploymentSettings | None = None

    deadline_seconds: float = Field(
        60, gt=0, le=86_400, description="for one answer: all of its calls, retries and waits"
    )
    max_attempts: int = Field(3, ge=1, le=10, description="tries of one deployment before the next is asked")
    max_output_tokens: int = Field(800, ge=1)
    max_repairs: int = Field(2, ge=0, le=5, description="how often a model is shown what was wrong with its JSON")
    breaker_failures: int = Field(5, ge=1, description="failures in a row after which a deployment is left alone")
    breaker_seconds: float = Field(30, gt=0, description="for so long")

    tenant_budget_usd: float | None = Field(
        None, ge=0, le=MILLION, description="per tenant and day (UTC); empty: no limit"
    )
    key_budget_usd: float | None = Field(
        None, ge=0, le=MILLION, description="per API key and day (UTC); empty: no limit"
    )
    cache_mode: Literal["off", "on", "read_only", "write_only"] = "off"
    cache_seconds: int = Field(3_600, ge=1, description="how old a cached completion may be")
    semantic_cache_max_false_hits: float = Field(
        0.01, ge=0, le=1, description="above this measured share a semantic cache does not switch on"
    )

    answer_prompt: str = Field(
        "answer", pattern=r"^[\w-]+$", description="the file of app/prompts/ that asks for an answer"
    )
    passages: int = Field(10, ge=1, le=50, description="how many passages the model reads")
    candidates: int = Field(50, ge=1, le=1000, description="how many each retriever may propose")
    fusion: Literal["weighted", "rrf"] = "weighted"
    dense_weight: float = Field(0.4, ge=0, le=1, description="the vector side's share in the fused score")
    neighbours: int = Field(0, ge=0, le=10, description="chunks before and after each one found, read with it")
    rewrite: bool = Field(default=False, description="let the chat model write search queries for each question")
    rerank: Literal["off", "llm", "cross-encoder"] = "off"
    rerank_model: str = Field(
        "cross-encoder/ms-marco-MiniLM-L6-v2", description="a folder or a name at the hub, with an ONNX file"
    )
    hub_url: str = Field("https://huggingface.co", description="where rerank_model is fetched from, once")
    chunk_characters: int = Field(900, ge=100, le=20_000)
    chunk_overlap: int = Field(0, ge=0, description="characters; less than CHUNK_CHARACTERS")
    contextual_chunks: bool = Field(default=False, description="let the chat model place each chunk in its document")
    passage_tokens: int = Field(8_000, ge=100, description="how much of the passages the model reads, about")
    citation_faults: Literal["drop", "flag"] = "drop"
    abstain_below: float = Field(0.425, ge=0, le=1, description="the extractive model's threshold, set on data")

    max_question_characters: int = Field(4_000, ge=1)
    max_document_bytes: int = Field(20 * MILLION, ge=1)
    max_document_pages: int = Field(2_000, ge=1, description="pages, slides, sheets or parts of an archive")
    parse_seconds: float = Field(4, gt=0, description="for reading one document, in a process of its own")
    parse_memory_bytes: int = Field(1_000 * MILLION, ge=100 * MILLION, description="for that process")
    allow_urls: bool = Field(default=False, description="let `app ingest` fetch https addresses")
    max_attachment_bytes: int = Field(10 * MILLION, ge=1, description="of an image or a sound in a message")

    history_tokens: int = Field(
        2_000, ge=0, description="how much of a conversation a follow-up question is read with, about"
    )
    retention_days: int | None = Field(
        None, ge=1, description="answers, conversations and feedback are removed after so long; empty: kept"
    )

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    api_key_secret: SecretStr | None = Field(
        None, description="what API keys are hashed with: 32 characters or more; production needs it"
    )
    key_requests_per_minute: int = Field(600, ge=0, description="of one API key; 0: no limit")
    key_tokens_per_minute: int = Field(0, ge=0, description="of one API key; 0: no limit")
    key_streams: int = Field(20, ge=0, description="of one API key at a time; 0: no limit")
    tenant_requests_per_minute: int = Field(0, ge=0, description="of all its keys; 0: no limit")
    tenant_tokens_per_minute: int = Field(0, ge=0, description="of all its keys; 0: no limit")
    tenant_streams: int = Field(0, ge=0, description="of all its keys at a time; 0: no limit")
    cors_origins: str = Field("", description="origins whose pages may call the API, with commas; empty: none")
    max_requests: int = Field(1_000, ge=1, description="in work at a time, of one process")
    max_waiting: int = Field(100, ge=0, description="that wait for their turn; more are turned away")
    waiting_seconds: float = Field(5, ge=0, description="the longest that one waits")
    shutdown_seconds: float = Field(15, ge=0, le=300, description="for streams that are open when the server stops")
    worker_concurrency: int = Field(
        2, ge=0, le=100, description="jobs at a time in the server's process; 0: in `app worker` alone"
    )
    max_queued_bytes: int = Field(
        1_000 * MILLION, ge=1, description="of one tenant's uploads that wait, or failed and are kept"
    )
    upload_attempts: int = Field(3, ge=1, le=20, description="before a document is set aside")

    @field_validator("api_key_secret")
    @classmethod
    def _hard_to_guess(cls, secret: SecretStr | None) -> SecretStr | None:
        """Whoever knows it and reads the database can make keys."""
        plain = secret.get_secret_value() if secret else ""
        if secret and is_guessable(plain):
            raise ValueError(
                f"it has to be {SHORTEST_SECRET} or more random characters, for example from `openssl rand -hex 32`"
            )
        return secret

    @model_validator(mode="after")
    def _safe_in_production(self) -> Self:
        if self.environment != "production":
            return self
        if self.database_url is None:
            raise ValueError("ENVIRONMENT=production needs DATABASE_URL: the built-in Postgres is for development")
        if has_known_password(self.database_url.get_secret_value()):
            raise ValueError(
                "ENVIRONMENT=production needs another password in DATABASE_URL: anybody would try this one"
            )
        if self.api_key_secret is None:
            raise ValueError("ENVIRONMENT=production needs API_KEY_SECRET, for example from `openssl rand -hex 32`")
        if self.log_level == "DEBUG":
            raise ValueError("ENVIRONMENT=production needs another LOG_LEVEL: DEBUG shows what people ask")
        return self

    @property
    def allowed_origins(self) -> list[str]:
        """CORS_ORIGINS, taken apart."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @model_validator(mode="after")
    def _origins_are_origins(self) -> Self:
        for origin in self.allowed_origins:
            if origin == "*" and self.environment == "development":
                continue
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    "CORS_ORIGINS takes origins like https://app.example.com, with commas; no * in production"
                )
        return self

    @model_validator(mode="after")
    def _overlap_is_a_part(self) -> Self:
        if self.chunk_overlap >= self.chunk_characters:
            raise ValueError("CHUNK_OVERLAP has to be less than CHUNK_CHARACTERS")
        return self


def load_settings(**overrides: object) -> Settings:
    """Read the environment once; `overrides` win over it.

    Raises:
        ConfigurationError: names each variable that is wrong, never its value.

    """
    _check_names(overrides.get("_env_file", Settings.model_config.get("env_file")))
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates what mypy cannot see
    except ValidationError as error:
        raise ConfigurationError("; ".join(map(_line, error.errors()))) from None


def _check_names(file: object) -> None:
    """Refuse what seems to be meant for us and is no setting; the file may hold other programs' variables too."""
    known = dict(variables())
    problems = []
    for name in map(str.upper, DotEnvSettingsSource(Settings, file).env_vars):  # type: ignore[arg-type]  # as above
        if name in known:
            continue
        is_of_a_role = any(f"{name}_".startswith(f"{role}_") for role in known.values() if role)
        nearest = get_close_matches(name, known, n=1, cutoff=0 if is_of_a_role else 0.8)
        # PGHOST and TEST_DATABASE_URL are somebody's own, not HOST and DATABASE_URL misspelt.
        if nearest and (is_of_a_role or nearest[0] not in name):
            problems.append(f"{name} in .env is no setting; did you mean {nearest[0]}?")
    if problems:
        raise ConfigurationError(" ".join(problems))


def variables() -> Iterator[tuple[str, str]]:
    """Each variable that is a setting, with the role that it belongs to, or nothing."""
    for name, field in Settings.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        roles = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, DeploymentSettings)]
        yield from ((f"{name}_{part}".upper(), name.upper()) for role in roles for part in role.model_fields)
        if not roles:
            yield name.upper(), ""


def _line(error: ErrorDetails) -> str:
    """`VARIABLE: what is wrong`, or the bare message where it concerns more than one variable."""
    variable = "_".join(map(str, error["loc"])).upper()
    message = error["msg"].removeprefix("Value error, ")
    return f"{variable}: {message}" if variable else message


def forget_addresses() -> None:
    """Take out of the environment what would tell a library where a provider is, and with it who gets the key.

    Only the settings say that.
    """
    for name in [name for name in os.environ if ADDRESS.search(name) and not name.startswith(OURS)]:
        os.environ.pop(name, None)


OURS = tuple(f"{field.upper()}_" for field in Settings.model_fields)
