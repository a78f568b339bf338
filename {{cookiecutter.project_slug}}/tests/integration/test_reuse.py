"""Answers given before: served where the meaning is near enough and nothing has changed, and never otherwise."""

import pytest
from sqlalchemy import text

from app.db import cache as rows
from app.db.engine import Database
from app.gateway.gateway import Gateway, open_gateway
from app.rag.pipeline import Pipeline
from app.rag.reuse import SETTINGS
from app.settings import Settings
from app.types import Answer, Citation, Filter, TextDelta
from tests.integration.stored import keep

TEA = "# Tea\n\nGreen tea is brewed at eighty degrees for two minutes, in a small clay pot.\n"
FIRST, AGAIN, OTHER = "How hot is green tea brewed?", "How hot is green tea brewed", "Who invented the clay pot?"
SOURCE = "tea.md"
SURELY_SAFE = 0.0


@pytest.fixture
async def ready(database: Database, gateway: Gateway, settings: Settings) -> Pipeline:
    """A pipeline over one document, with the route switched on."""
    await keep(database, gateway, settings, {SOURCE: TEA})
    switch = rows.Switch(
        route="ask",
        threshold=0.97,
        embedding_model=settings.embedding.model,
        false_hit_rate=SURELY_SAFE,
        false_hit_rate_at_most=SURELY_SAFE,
        pairs=1_000,
        dataset_hash="hash",
    )
    async with database.transaction() as connection:
        await rows.switch_on(connection, switch)
    return Pipeline(database, gateway, settings)


async def test_a_question_that_means_the_same_gets_the_answer_given_before(ready: Pipeline) -> None:
    """It is a new answer with the old text and citations, and says which question it was first given to."""
    first, again = await ready.ask(FIRST), await ready.ask(AGAIN)
    assert (again.text, again.citations) == (first.text, first.citations)
    assert first.citations
    assert again.id != first.id
    assert again.question == AGAIN
    assert f"First given to the question: {FIRST}" in again.notice
    assert again.usage.output_tokens == 0


async def test_it_streams_too(ready: Pipeline) -> None:
    """Text, citations and then the answer, as ever."""
    first = await ready.ask(FIRST)
    events = [event async for event in ready.stream(AGAIN)]
    assert [type(event) for event in events] == [TextDelta, *[Citation] * len(first.citations), Answer]


async def test_another_question_is_asked(ready: Pipeline) -> None:
    """What is not near enough goes the whole way."""
    await ready.ask(FIRST)
    assert "First given" not in (await ready.ask(OTHER)).notice


async def test_an_abstention_is_not_kept(ready: Pipeline) -> None:
    """The documents may answer tomorrow."""
    first, again = await ready.ask("What is the capital of Peru?"), await ready.ask("What is the capital of Peru")
    assert first.abstained
    assert "First given" not in again.notice


async def test_a_changed_document_never_gets_an_old_answer(
    ready: Pipeline, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """The answer is made anew, from what the document says now."""
    await ready.ask(FIRST)
    await keep(database, gateway, settings, {SOURCE: TEA.replace("eighty", "seventy")})
    again = await ready.ask(AGAIN)
    assert "seventy" in again.text
    assert "First given" not in again.notice


async def test_nothing_is_reused_before_it_was_measured(
    database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Without the switch every question goes the whole way."""
    await keep(database, gateway, settings, {SOURCE: TEA})
    pipeline = Pipeline(database, gateway, settings)
    await pipeline.ask(FIRST)
    assert "First given" not in (await pipeline.ask(FIRST)).notice


async def test_the_ledger_knows_of_it(ready: Pipeline, database: Database, settings: Settings) -> None:
    """A row that says semantic, without an attempt at the chat model."""
    await ready.ask(FIRST)
    async with open_gateway(settings, database) as gateway:
        await Pipeline(database, gateway, settings).ask(AGAIN)

    async with database.transaction() as connection:
        found = await connection.execute(text("SELECT role, cached, outcome FROM inferences ORDER BY started_at"))
    assert [tuple(row) for row in found] == [("embedding", "", "ok"), ("chat", "semantic", "ok")]


async def test_what_was_asked_of_some_documents_is_no_answer_for_others(
    ready: Pipeline, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """Other filters are another question; the same ones are the same."""
    await keep(database, gateway, settings, {SOURCE: TEA}, year="2024")
    first = await ready.ask(FIRST, filters=Filter({"year": "2024"}))
    assert first.citations
    for filters in (None, Filter(source_prefix="te"), Filter({"year": "2024"}, "te")):
        assert "First given" not in (await ready.ask(AGAIN, filters=filters)).notice
    again = await ready.ask(AGAIN, filters=Filter({"year": "2024"}))
    assert f"First given to the question: {FIRST}" in again.notice


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *(("passages", 9), ("candidates", 49), ("fusion", "rrf"), ("dense_weight", 0.5), ("neighbours", 1)),
        *(("passage_tokens", 7_999), ("max_output_tokens", 799), ("citation_faults", "flag"), ("abstain_below", 0.4)),
    ],
)
async def test_another_setting_is_another_answer(
    ready: Pipeline, database: Database, settings: Settings, *, name: str, other: object
) -> None:
    """What retrieval, the prompt or the check would do otherwise, it does."""
    await ready.ask(FIRST)
    changed = settings.model_copy(update={name: other})
    assert "First given" not in (await Pipeline(database, Gateway(changed), changed).ask(AGAIN)).notice
    assert "First given" in (await Pipeline(database, Gateway(settings), settings).ask(AGAIN)).notice


def test_every_setting_was_thought_of() -> None:
    """A new setting belongs into the scope, or here, where an answer is the same whatever it says."""
    elsewhere = {
        *("chat", "chat_2", "chat_3", "embedding", "embedding_2"),  # in the scope by their models
        *("chunk_characters", "chunk_overlap", "contextual_chunks"),  # seen when documents are read: the index's state
    }
    makes_no_difference = {
        *("app_name", "environment", "log_level", "database_url", "data_dir", "judge", "host", "port", "hub_url"),
        *("deadline_seconds", "max_attempts", "max_repairs", "breaker_failures", "breaker_seconds"),
        *("tenant_budget_usd", "key_budget_usd", "cache_mode", "cache_seconds", "semantic_cache_max_false_hits"),
        *("max_question_characters", "max_document_bytes", "max_document_pages", "max_attachment_bytes"),
        *("parse_seconds", "parse_memory_bytes", "allow_urls"),
        "history_tokens",  # the scope has the question as it is searched for
        *("retention_days", "api_key_secret", "key_requests_per_minute", "key_tokens_per_minute", "key_streams"),
        *("tenant_requests_per_minute", "tenant_tokens_per_minute", "tenant_streams", "cors_origins"),
        *("max_requests", "max_waiting", "waiting_seconds", "shutdown_seconds", "database_pool"),
        *("worker_concurrency", "upload_attempts", "max_queued_bytes"),
    }
    assert {*SETTINGS} == {*Settings.model_fields} - elsewhere - makes_no_difference
