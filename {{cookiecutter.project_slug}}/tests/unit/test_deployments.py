"""Which models play which role: what is refused before anything starts, and that a refusal shows no secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigurationError
from app.gateway.deployments import price_unknown, resolve, secrets
from app.settings import Settings

CANARY = "canary-7d1c"
KEYED = {"model": "openai/a-model", "api_key": CANARY}


def refusal(**roles: dict[str, str]) -> str:
    """What is said of these roles."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(Settings(**roles))  # type: ignore[arg-type]  # pydantic makes the settings of a dict
    return caught.value.message


@pytest.mark.parametrize(
    ("model", "address"),
    [
        ("ollama_chat/a-model", "http://localhost:11434"),
        ("azure/a-deployment", "https://my-resource.openai.azure.com/"),
        ("openai/a-model", "http://vllm_1:8000/v1"),
        ("openai/a-model", "https://models.example.org/a/path/v1/"),
        ("openai/a-model", "HTTP://[::1]:8000/v1"),
        ("openai/a-model", "http://b\u00fccher.example/v1"),
    ],
)
def test_an_address_is_taken_as_it_is_written(model: str, address: str) -> None:
    """Hosts by name and number, ports and paths, as the documents show them."""
    settings = Settings(chat={"model": model, "api_key": CANARY, "api_base": address})
    assert resolve(settings)["chat"][0].settings.api_base == address


@pytest.mark.parametrize(
    "address",
    [
        CANARY,
        f"ftp://{CANARY}",
        f"//{CANARY}/v1",
        "http://",
        f"http:///{CANARY}",
        f"http://me:{CANARY}@host/v1",
        f"http://{CANARY}@host",
        f"http://host\\@{CANARY}/",
        f"http://host:port/{CANARY}",
        f"http://host/v1?key={CANARY}",
        f"http://host?{CANARY}",
        f"http://host/v1#{CANARY}",
        f"http://host/v1\n{CANARY}",
        f"http://host\n{CANARY}",
        f" http://host/{CANARY}",
    ],
)
def test_another_address_is_refused_without_showing_it(address: str) -> None:
    """Addresses are shown by commands and errors, so none may hold what proves who we are."""
    assert refusal(chat_2={**KEYED, "model": "openai/b", "api_base": address}, chat=KEYED) == (
        "CHAT_2_API_BASE must be http(s)://host/path, without a user, a password or a query"
    )


@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["//{}{}@host/v1", "//host/{}?{}", "//host{}#{}"]))
def test_no_user_and_no_query_passes(one: str, other: str, shape: str) -> None:
    """Whatever is written before an @, or after a question mark or a hash sign."""
    said = refusal(chat={**KEYED, "api_base": "https:" + shape.format(one.replace("/", ""), other.replace("/", ""))})
    assert said.startswith("CHAT_API_BASE must be ")


@pytest.mark.parametrize(
    ("role", "model", "told"),
    [
        ("chat", "gpt-4o", "CHAT_MODEL is 'gpt-4o'; write provider/model"),
        ("chat", "openai/", "CHAT_MODEL is 'openai/'; write provider/model"),
        ("judge", "offline/other", "JUDGE_MODEL is 'offline/other'; the offline one is offline/extractive"),
        (
            "embedding",
            "offline/extractive",
            "EMBEDDING_MODEL is 'offline/extractive'; the offline one is offline/static or offline/minilm",
        ),
        ("judge", "openai/a-model", "openai/a-model needs a key: set JUDGE_API_KEY in .env"),
    ],
)
def test_a_model_that_cannot_work_is_refused(role: str, model: str, told: str) -> None:
    """The variable to set is named."""
    assert refusal(**{role: {"model": model}}) == told


def test_azure_needs_a_key_at_its_own_address_too() -> None:
    """An address alone does not make an endpoint the team's own there."""
    assert "set CHAT_API_KEY" in refusal(chat={"model": "azure/x", "api_base": "https://x.openai.azure.com"})


@pytest.mark.parametrize("model", ["ollama_chat/a-model", "bedrock/a-model", "vertex_ai/a-model"])
def test_who_has_no_key_needs_none(model: str) -> None:
    """A server of one's own, or credentials of another kind."""
    [deployment] = resolve(Settings(judge={"model": model}))["judge"]
    assert (deployment.model, deployment.secrets) == (model, ())


def test_an_offline_model_and_a_providers_cannot_stand_in_for_each_other() -> None:
    """Who reads the data would change without a word."""
    assert "CHAT_MODEL=offline/extractive and CHAT_2_MODEL=openai/a-model: " in refusal(chat_2=KEYED)


def test_vectors_of_two_models_do_not_mix() -> None:
    """A second choice for embeddings is the same model at another endpoint."""
    first = {**KEYED, "model": "openai/one"}
    assert refusal(embedding=first, embedding_2={**KEYED, "model": "openai/other"}).startswith("EMBEDDING_2_MODEL must")
    same = Settings(embedding=first, embedding_2={**KEYED, "model": "azure/one"})
    assert [deployment.variable for deployment in resolve(same)["embedding"]] == ["EMBEDDING", "EMBEDDING_2"]


def test_every_key_is_a_secret() -> None:
    """Of each role and each choice, whatever becomes of the model."""
    settings = Settings(chat=KEYED, chat_3={**KEYED, "api_key": "third"}, judge={**KEYED, "api_key": "judge"})
    assert sorted(secrets(settings)) == [CANARY, "judge", "third"]


def test_an_unknown_price_names_what_to_set() -> None:
    """The variables of the very deployment."""
    _, second = resolve(Settings(chat=KEYED, chat_2=KEYED))["chat"]
    assert price_unknown(second).message == (
        "the price of openai/a-model is not known, and a budget is set: set CHAT_2_INPUT_PRICE and CHAT_2_OUTPUT_PRICE"
    )
