"""POST /v1/ask limited to some documents, over HTTP in process."""

from typing import Any

import pytest

from app.db.engine import Database
from app.gateway.gateway import Gateway
from app.settings import Settings
from tests.integration.stored import keep
from tests.integration.test_api import error_of, events_of, serving

QUESTION = "How many kilometres long is the Nile?"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("filters", [{"metadata": {"year": "2007"}}, {"source_prefix": "new/"}])
async def test_filters_decide_which_documents_answer(
    database: Database, gateway: Gateway, settings: Settings, filters: dict[str, Any], *, stream: bool
) -> None:
    """By metadata or path, whole or as events."""
    await keep(database, gateway, settings, {"old/nile.md": "The Nile is 6650 kilometres long.\n"}, year="1990")
    await keep(database, gateway, settings, {"new/nile.md": "The Nile is 7088 kilometres long.\n"}, year="2007")
    body = {"question": QUESTION, "filters": filters, "stream": stream}
    async with serving(settings) as client:
        response = await client.post("/v1/ask", json=body)
    answer = events_of(response)[-1][1] if stream else response.json()
    assert [passage["source"] for passage in answer["passages"]] == ["new/nile.md"]
    assert (answer["text"], answer["reason"]) == ("The Nile is 7088 kilometres long. [1]", "")
    assert answer["passages"][0]["use"] == "cited"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"filters": {"metdata": {"year": "2007"}}}, 422),
        ({"filter": {}}, 422),
        ({"filters": {"metadata": {"year": 2007}}}, 422),
        ({"filters": {"metadata": {str(n): "" for n in range(21)}}}, 422),
        ({"filters": {"metadata": {"year": "x" * 1_001}}}, 400),
        ({"filters": {"source_prefix": "x" * 1_001}}, 422),
        ({"filters": {"source_prefix": "\0"}}, 400),
        ({"filters": None}, 422),
    ],
)
async def test_a_filter_that_is_none_is_refused(
    settings: Settings, database: Database, body: dict[str, Any], status: int
) -> None:
    """Misspelt, of another type or too large: it never becomes a filter that filters nothing."""
    assert database
    async with serving(settings) as client:
        error_of(await client.post("/v1/ask", json={"question": QUESTION} | body), status)
