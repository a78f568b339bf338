"""What the server finds out when it starts, after the models are loaded and before it says that it is ready."""

import asyncio

import httpx
import pytest

from app.api.main import create_app
from app.db.engine import Database
from app.settings import Settings

PATIENCE_SECONDS = 20
UNPRICED = {"model": "openai/nobody-knows-me", "api_base": "http://127.0.0.1:1/v1"}
PRICED = {**UNPRICED, "input_price": 1, "output_price": 2}
TOLD = "the price of openai/nobody-knows-me is not known, and a budget is set: set {0}_INPUT_PRICE and {0}_OUTPUT_PRICE"


async def readiness(settings: Settings, **changes: object) -> httpx.Response:
    """What the server says once its models are loaded."""
    app = create_app(settings.model_validate({**settings.model_dump(), **changes}))
    transport = httpx.ASGITransport(app)
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        while (ready := await client.get("/readyz")).json()["models"] == "loading":
            pass
    return ready


@pytest.mark.parametrize("budget", ["tenant_budget_usd", "key_budget_usd"])
@pytest.mark.parametrize("place", ["chat", "chat_2", "judge", "embedding"])
async def test_under_a_budget_a_model_without_a_price_keeps_the_server_from_being_ready(
    settings: Settings, database: Database, capsys: pytest.CaptureFixture[str], budget: str, place: str
) -> None:
    """Whatever its role and place, and whosever budget: the variables to set are in the answer and in the log."""
    assert database
    ready = await readiness(settings, **{budget: 5, "chat": PRICED, place: UNPRICED})
    told = TOLD.format(place.upper())
    assert (ready.status_code, ready.json()["models"]) == (503, told)
    logged = capsys.readouterr().err
    assert told in logged
    assert "Traceback" not in logged


@pytest.mark.parametrize(
    "changes",
    [{"chat": UNPRICED}, {"chat": PRICED, "tenant_budget_usd": 5}, {"key_budget_usd": 0}],
    ids=["no budget", "priced", "offline"],
)
async def test_otherwise_the_server_gets_ready(
    settings: Settings, database: Database, changes: dict[str, object]
) -> None:
    """Without a budget no price is needed, and offline models cost nothing."""
    assert database
    assert (await readiness(settings, **changes)).json()["models"] == "ok"
