"""Which models play which role, in which order, as the settings say; wrong or missing keys are found here.

Knows nothing of how a model is called.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from app.errors import ConfigurationError
from app.gateway import offline
from app.gateway.offline import EXTRACTIVE, MINILM
from app.settings import DeploymentSettings, Settings

Role = str
"""The name of a settings field that holds DeploymentSettings: `chat`, `embedding`, `judge`, or one of your own."""

# Everybody else needs a key, unless the settings name an endpoint of the team's own.
KEYLESS_PROVIDERS = {"offline", "ollama", "ollama_chat", "bedrock", "vertex_ai"}
OFFLINE_MODELS = {"embedding": tuple(offline.EMBEDDERS)}
EXTRACTIVE_NOTICE = "Answered offline by quoting sentences; no language model was used."
FIELD = re.compile(r"(?P<role>[a-z_]+?)(?:_(?P<place>\d))?")
# What stands elsewhere in an address could be a secret, and addresses are shown.
ADDRESS = re.compile(r"https?://(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?(?:/[^\s?#]*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Deployment:
    """A model at an endpoint, playing a role. `variable` begins the names of its settings: CHAT, CHAT_2.

    `parameters` go along with every call.
    """

    role: Role
    variable: str
    settings: DeploymentSettings
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """provider/model."""
        return self.settings.model

    @property
    def provider(self) -> str:
        """The part of the model's name that says who runs it."""
        return self.model.partition("/")[0]

    @property
    def is_offline(self) -> bool:
        """Whether the model runs inside this process, from a wheel."""
        return self.provider == "offline"

    @property
    def batch(self) -> int:
        """How many texts it embeds in one call: a provider many, and a slow model of ours few, to be done in time."""
        return 16 if self.model == MINILM else 128

    @property
    def notice(self) -> str:
        """What a reader of the answer has to know about this model."""
        return EXTRACTIVE_NOTICE if self.model == EXTRACTIVE else ""

    @property
    def api_key(self) -> SecretStr | None:
        """What proves to the provider who we are."""
        return self.settings.api_key

    @property
    def price_variables(self) -> str:
        """What to set where nobody knows the price."""
        return f"{self.variable}_INPUT_PRICE and {self.variable}_OUTPUT_PRICE"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return (self.api_key.get_secret_value(),) if self.api_key else ()


def resolve(settings: Settings) -> dict[Role, tuple[Deployment, ...]]:
    """Make each role's deployments, first choice first. A role without a model is left out.

    Raises:
        ConfigurationError: says which variable to set.

    """
    roles: dict[Role, list[Deployment]] = {}
    for deployment in _configured(settings):
        roles.setdefault(deployment.role, []).append(_checked(deployment))
    for role, deployments in roles.items():
        _check_fallbacks(role, deployments)
    return {role: tuple(deployments) for role, deployments in roles.items()}


def secrets(settings: Settings) -> list[str]:
    """Every key of every deployment."""
    return [secret for deployment in _configured(settings) for secret in deployment.secrets]


def price_unknown(deployment: Deployment) -> ConfigurationError:
    """The error where a budget is set, and nobody can say what a call would take of it."""
    return ConfigurationError(
        f"the price of {deployment.model} is not known, and a budget is set: set {deployment.price_variables}"
    )


def _configured(settings: Settings) -> Iterator[Deployment]:
    for name in sorted(type(settings).model_fields):
        value = getattr(settings, name)
        if isinstance(value, DeploymentSettings) and (parts := FIELD.fullmatch(name)):
            parameters = {"abstain_below": settings.abstain_below} if value.model == EXTRACTIVE else {}
            yield Deployment(parts["role"], name.upper(), value, parameters)


def _checked(deployment: Deployment) -> Deployment:
    variable = deployment.variable
    if not all(deployment.model.partition("/")):
        raise ConfigurationError(f"{variable}_MODEL is {deployment.model!r}; write provider/model")
    if deployment.is_offline:
        known = OFFLINE_MODELS.get(deployment.role, (EXTRACTIVE,))
        if deployment.model not in known:
            raise ConfigurationError(
                f"{variable}_MODEL is {deployment.model!r}; the offline one is {' or '.join(known)}"
            )
        offline.check_installed(deployment.model)
    if not ADDRESS.fullmatch(deployment.settings.api_base or "http://unset"):
        raise ConfigurationError(
            f"{variable}_API_BASE must be http(s)://host/path, without a user, a password or a query"
        )
    own_endpoint = deployment.provider != "azure" and deployment.settings.api_base is not None
    if deployment.provider not in KEYLESS_PROVIDERS and deployment.api_key is None and not own_endpoint:
        raise ConfigurationError(f"{deployment.model} needs a key: set {variable}_API_KEY in .env")
    return deployment


def _check_fallbacks(role: Role, deployments: list[Deployment]) -> None:
    """Refuse a chain that would change, without a word, who reads the data and who is paid, or what a vector means."""
    if len({deployment.is_offline for deployment in deployments}) > 1:
        names = " and ".join(f"{d.variable}_MODEL={d.model}" for d in deployments)
        raise ConfigurationError(f"{names}: an offline model and a provider's cannot stand in for each other")
    if role == "embedding" and len({d.model.rpartition("/")[2] for d in deployments}) > 1:
        raise ConfigurationError("EMBEDDING_2_MODEL must be the same model at another endpoint: vectors differ")
