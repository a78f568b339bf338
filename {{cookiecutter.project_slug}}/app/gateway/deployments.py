"""Which model plays which role, as the settings say; wrong or missing keys are found here, before a call.

Knows nothing of how a model is called.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import SecretStr

from app.errors import ConfigurationError
from app.settings import Settings

Role = Literal["chat", "embedding"]
# Everybody else needs a key, unless the settings name an endpoint of the team's own.
KEYLESS_PROVIDERS = {"offline", "ollama", "ollama_chat", "bedrock", "vertex_ai"}
EXTRACTIVE_NOTICE = "Answered offline by quoting sentences; no language model was used."


@dataclass(frozen=True)
class Deployment:
    """A model at an endpoint. `parameters` go along with every call."""

    role: Role
    model: str
    api_key: SecretStr | None = None
    api_base: str | None = None
    api_version: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def provider(self) -> str:
        """The part of the model's name that says who runs it."""
        return self.model.partition("/")[0]

    @property
    def is_offline(self) -> bool:
        """Whether the model runs inside this process, from a wheel."""
        return self.provider == "offline"

    @property
    def notice(self) -> str:
        """What a reader of the answer has to know about this model."""
        return EXTRACTIVE_NOTICE if self.is_offline and self.role == "chat" else ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return (self.api_key.get_secret_value(),) if self.api_key else ()


def resolve(settings: Settings) -> dict[Role, Deployment]:
    """Make the deployment of each role.

    Raises:
        ConfigurationError: says which variable to set.

    """
    chat = Deployment(
        "chat",
        settings.chat_model,
        settings.chat_api_key,
        settings.chat_api_base,
        settings.chat_api_version,
        {"abstain_below": settings.abstain_below} if settings.chat_model.startswith("offline/") else {},
    )
    embedding = Deployment(
        "embedding",
        settings.embedding_model,
        settings.embedding_api_key,
        settings.embedding_api_base,
        settings.embedding_api_version,
    )
    return {"chat": _checked(chat), "embedding": _checked(embedding)}


def _checked(deployment: Deployment) -> Deployment:
    variable = deployment.role.upper()
    if not all(deployment.model.partition("/")):
        raise ConfigurationError(f"{variable}_MODEL is {deployment.model!r}; write provider/model")
    known = {"chat": "offline/extractive", "embedding": "offline/static"}[deployment.role]
    if deployment.is_offline and deployment.model != known:
        raise ConfigurationError(f"{variable}_MODEL is {deployment.model!r}; the offline one is {known}")
    own_endpoint = deployment.provider != "azure" and deployment.api_base is not None
    if deployment.provider not in KEYLESS_PROVIDERS and deployment.api_key is None and not own_endpoint:
        raise ConfigurationError(f"{deployment.model} needs a key: set {variable}_API_KEY in .env")
    return deployment
