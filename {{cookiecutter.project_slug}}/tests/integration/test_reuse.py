"""Answers given before: served where the meaning is near enough and nothing has changed, and never otherwise."""

from pathlib import Path

import pytest
from sqlalchemy import text

from app.db import cache as rows
from app.db.engine import Database
from app.gateway.gateway import Gateway, open_gateway
from app.rag.ingest import Ingester
from app.rag.pipeline import Pipeline
from app.settings import Settings
from app.types import Answer, Citation, TextDelta

TEA = "# Tea\n\nGreen tea is brewed at eighty degrees for two minutes, in a small clay pot.\n"
FIRST, AGAIN, OTHER = "How hot is green tea brewed?", "How hot is green tea brewed", "Who invented the clay pot?"
SURELY_SAFE = 0.0


@pytest.fixture
async def ready(database: Database, gateway: Gateway, settings: Settings, tmp_path: Path) -> Pipeline:
    """A pipeline over one document, with the route switched on."""
    await ingest(database, gateway, settings, tmp_path, TEA)
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


async def ingest(database: Database, gateway: Gateway, settings: Settings, folder: Path, text: str) -> None:
    """Store the text as the only document."""
    source = folder / "tea.md"
    source.write_text(text)
    await Ingester(database, gateway, settings).ingest_files([source])


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
    ready: Pipeline, database: Database, gateway: Gateway, settings: Settings, tmp_path: Path
) -> None:
    """The answer is made anew, from what the document says now."""
    await ready.ask(FIRST)
    await ingest(database, gateway, settings, tmp_path, TEA.replace("eighty", "seventy"))
    again = await ready.ask(AGAIN)
    assert "seventy" in again.text
    assert "First given" not in again.notice


async def test_nothing_is_reused_before_it_was_measured(
    database: Database, gateway: Gateway, settings: Settings, tmp_path: Path
) -> None:
    """Without the switch every question goes the whole way."""
    await ingest(database, gateway, settings, tmp_path, TEA)
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
