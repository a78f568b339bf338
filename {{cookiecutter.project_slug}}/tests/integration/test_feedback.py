"""Feedback over HTTP, and what `app feedback` makes of it: drafts that `app dataset review` reads."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.datasets.feedback import cases_of
from app.db import conversations, feedback
from app.db.answers import save_answer
from app.db.engine import Database, connect
from app.db.feedback import Feedback
from app.evals.dataset import load_dataset, split_of
from app.gateway.gateway import Gateway
from app.rag.abstention import ABSTENTION
from app.settings import Settings
from app.types import Answer, Citation, Rating, Usage
from tests.integration.conftest import Command
from tests.integration.stored import keep
from tests.integration.test_api import error_of, serving
from tests.integration.test_conversations import waits_for_a_lock

QUESTION = "How many kilometres long is the Nile?"
NILE = "The Nile is 6650 kilometres long."
split = partial(split_of, seed=0, gate_share=0.5)


@pytest.fixture
async def client(settings: Settings, database: Database, gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application over one document."""
    await keep(database, gateway, settings, {"nile.md": NILE})
    async with serving(settings) as client:
        yield client


async def ask(client: httpx.AsyncClient, **given: Any) -> dict[str, Any]:
    """An answer."""
    answer: dict[str, Any] = (await client.post("/v1/ask", json={"question": QUESTION} | given)).json()
    return answer


async def rate(client: httpx.AsyncClient, answer: dict[str, Any], **said: Any) -> httpx.Response:
    """What comes back for a rating."""
    return await client.post("/v1/feedback", json={"answer_id": answer["id"], "rating": "up"} | said)


async def test_an_answer_is_rated_and_rated_again(client: httpx.AsyncClient) -> None:
    """The second rating takes the place of the first, whole."""
    answer = await ask(client)
    first = (await rate(client, answer, rating="down", comment=" wrong\0 ", correction="7088")).json()
    again = await rate(client, answer)
    assert (first["rating"], first["comment"], first["correction"]) == ("down", "wrong", "7088")
    assert again.status_code == 200
    [kept] = (await client.get("/v1/feedback")).json()["data"]
    assert kept == again.json()
    assert (kept["id"], kept["answer_id"]) == (first["id"], answer["id"])
    assert (kept["rating"], kept["comment"], kept["correction"], kept["reviewed_at"]) == ("up", "", "", None)


async def test_a_conversation_shows_what_was_thought_of_its_answers(client: httpx.AsyncClient) -> None:
    """Up, down or nothing yet, with the words."""
    conversation = (await client.post("/v1/conversations")).json()["id"]
    for rating in ("up", "down", None):
        answer = await ask(client, conversation_id=conversation)
        if rating:
            await rate(client, answer, rating=rating)
    read = (await client.get(f"/v1/conversations/{conversation}")).json()
    told = [{"rating": rating, "comment": "", "correction": ""} for rating in ("up", "down")]
    assert [answer["feedback"] for answer in read["answers"]] == [*told, None]


async def test_feedback_is_paged_newest_first(client: httpx.AsyncClient) -> None:
    """With the id after which to go on."""
    said = [(await rate(client, await ask(client))).json()["id"] for _ in range(3)]
    page = (await client.get("/v1/feedback", params={"limit": 2})).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([said[2], said[1]], True)
    rest = (await client.get("/v1/feedback", params={"limit": 2, "after": said[1]})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([said[0]], False)
    error_of(await client.get("/v1/feedback", params={"after": str(uuid.uuid4())}), 404)


@pytest.mark.parametrize("column", ["owner", "tenant"])
async def test_somebody_elses_answer_cannot_be_rated(client: httpx.AsyncClient, owner: Database, column: str) -> None:
    """Nor one that is not there: both are 404."""
    answer = await ask(client)
    async with owner.engine.begin() as connection:
        await connection.execute(text(f"UPDATE answers SET {column} = 'somebody'"))
    error_of(await rate(client, answer), 404)
    error_of(await rate(client, {"id": str(uuid.uuid4())}), 404)
    assert (await client.get("/v1/feedback")).json()["data"] == []


async def test_somebody_elses_feedback_is_not_listed(client: httpx.AsyncClient, owner: Database) -> None:
    """Nor is its id a place to go on from."""
    said = (await rate(client, await ask(client))).json()["id"]
    async with owner.engine.begin() as connection:
        await connection.execute(text("UPDATE feedback SET owner = 'somebody'"))
    assert (await client.get("/v1/feedback")).json()["data"] == []
    error_of(await client.get("/v1/feedback", params={"after": said}), 404)


async def test_an_answer_that_is_deleted_meanwhile_cannot_be_rated(
    client: httpx.AsyncClient, database: Database
) -> None:
    """The rating waits for the deletion, and finds nothing."""
    conversation = (await client.post("/v1/conversations")).json()["id"]
    answer = await ask(client, conversation_id=conversation)
    async with database.transaction() as connection:
        await conversations.delete_conversation(connection, "default", "", conversation)
        rating = asyncio.create_task(rate(client, answer))
        await waits_for_a_lock(database)
    error_of(await rating, 404)


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"rating": "sideways"}, "rating"),
        ({"comment": "x" * 4_001}, "comment"),
        ({"correction": "\ud800"}, "correction"),
        ({"stars": 5}, "stars"),
        ({"answer_id": "first"}, "answer_id"),
    ],
)
async def test_feedback_that_is_none_names_the_field(
    client: httpx.AsyncClient, said: dict[str, Any], param: str
) -> None:
    """Other ratings, other fields, too much, or half a character."""
    body = json.dumps({"answer_id": str(uuid.uuid4()), "rating": "up"} | said)
    response = await client.post("/v1/feedback", content=body, headers={"content-type": "application/json"})
    assert error_of(response, 422)["param"] == param


def answer_to(question: str, **given: Any) -> Answer:
    """An answer with two citations of two documents."""
    citations = tuple(Citation(n, n, f"{n}.md", "Nile", "", f"word {n}", 0, 6) for n in (1, 2))
    plain: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "question": question,
        "standalone": question,
        "text": "It is long [1], very long. [1][2]",
        "abstained": False,
        "model": "m",
        "notice": "",
        "prompt_hash": "",
        "usage": Usage(),
        "cost_nanousd": 0,
        "latency_ms": 0,
        "citations": citations,
    }
    return Answer(**plain | given)


def rated(answer: Answer, rating: Rating, correction: str = "") -> tuple[Feedback, Answer]:
    """What was said of an answer."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Feedback(str(uuid.uuid4()), answer.id, rating, "", correction, now, None), answer


def test_a_good_answer_becomes_the_reference() -> None:
    """Without its marks, and with what it quoted as evidence; the question is the one that was searched for."""
    answer = answer_to("and how long?", standalone="How long is\nthe Nile?")
    [case] = cases_of([rated(answer, "up")], split)
    assert (case.question, case.reference) == ("How long is the Nile?", "It is long, very long.")
    assert (case.answerable, case.relevant, case.tags, case.source) == (
        True,
        {"1.md": 1, "2.md": 1},
        ("feedback",),
        "feedback",
    )
    assert [(one.document, one.quote) for one in case.evidence] == [("1.md", "word 1"), ("2.md", "word 2")]


@pytest.mark.parametrize("rating", ["up", "down"])
def test_a_correction_becomes_the_reference(rating: Rating) -> None:
    """What was quoted for the other answer is no evidence of it."""
    [case] = cases_of([rated(answer_to(QUESTION), rating, "6650.")], split)
    assert (case.reference, case.relevant, case.evidence) == ("6650.", {"1.md": 1, "2.md": 1}, ())


def test_a_refusal_that_was_right_is_a_question_without_an_answer() -> None:
    """Unless somebody said what the answer is."""
    refused = partial(answer_to, abstained=True, text=ABSTENTION, citations=())
    right, wrong = cases_of([rated(refused("Who?"), "up"), rated(refused("Why?"), "down", "Because.")], split)
    cases = {case.question: (case.answerable, case.reference) for case in (right, wrong)}
    assert cases == {"Who?": (False, ""), "Why?": (True, "Because.")}


def test_of_one_question_a_correction_counts_first() -> None:
    """Whatever its case and spacing, and whoever rated it when."""
    said = [
        rated(answer_to("Why?"), "up"),
        rated(answer_to("why? "), "down", "So."),
        rated(answer_to("WHY?"), "up", "No."),
    ]
    assert [case.reference for case in cases_of(said, split)] == ["So."]


def given(url: str, *said: tuple[Rating, str, str], tenant: str = "default") -> None:
    """Feedback on answers to these questions: rating, question, correction."""

    async def write() -> None:
        async with connect(url) as database, database.for_tenant(tenant).transaction() as connection:
            for rating, question, correction in said:
                answer = answer_to(question)
                await save_answer(connection, tenant, answer, "me")
                await feedback.save_feedback(connection, tenant, "me", answer.id, rating=rating, correction=correction)

    asyncio.run(write())


def test_feedback_is_exported_reviewed_and_not_exported_again(app: Command, migrated_url: str) -> None:
    """What says nothing of the right answer, and what is another tenant's, stays out of it."""
    given(migrated_url, ("up", "One?", ""), ("down", "Two?", "[b]2[/b]"), ("down", "Three?", ""))
    given(migrated_url, ("up", "Four?", ""), tenant="other")
    ended = app("feedback", "export", "-o", "drafts.jsonl")
    assert (ended.status, ended.out.partition(";")[0]) == (0, "2 drafts are in drafts.jsonl")
    assert {case.question for case in load_dataset(Path("drafts.jsonl")).cases} == {"One?", "Two?"}
    assert app("dataset", "review", "drafts.jsonl", "--dataset", "cases.jsonl", stdin="a\na\n").status == 0
    assert {case.reference for case in load_dataset(Path("cases.jsonl")).cases} == {
        "It is long, very long.",
        "[b]2[/b]",
    }
    again = app("feedback", "export", "-o", "drafts.jsonl")
    assert (again.status, "no new feedback" in again.out, Path("drafts.jsonl").exists()) == (1, True, False)
    assert app("feedback", "export", "-o", "other.jsonl", "--tenant", "other").status == 0


def test_what_was_rated_anew_is_exported_anew(app: Command, migrated_url: str) -> None:
    """The correction came after the first review."""
    given(migrated_url, ("up", "One?", ""))
    assert app("feedback", "export", "-o", "first.jsonl").status == 0

    async def correct() -> None:
        async with connect(migrated_url) as database, database.transaction() as connection:
            [(said, _)] = await feedback.read_rated(connection, "default", limit=9)
            assert said.reviewed_at is not None
            await feedback.save_feedback(connection, "default", "me", said.answer_id, rating="down", correction="1.")

    asyncio.run(correct())
    assert app("feedback", "export", "-o", "second.jsonl").status == 0
    assert [case.reference for case in load_dataset(Path("second.jsonl")).cases] == ["1."]


def test_an_export_overwrites_nothing(app: Command, migrated_url: str) -> None:
    """And marks nothing as reviewed."""
    given(migrated_url, ("up", "One?", ""))
    Path("drafts.jsonl").write_text("mine")
    assert "exists already" in app("feedback", "export", "-o", "drafts.jsonl").err
    assert Path("drafts.jsonl").read_text() == "mine"
    assert app("feedback", "export", "-o", "other.jsonl").status == 0


def test_feedback_is_listed_newest_first(app: Command, migrated_url: str) -> None:
    """With what was said, and whether it was exported."""
    for question in ("One?", "Two?"):
        given(migrated_url, ("down", question, f"[b]{question}[/b]"))
    app("feedback", "export", "-o", "drafts.jsonl")
    given(migrated_url, ("up", "Three?", ""))
    rows = [line.split("│") for line in app("feedback", "list").out.splitlines() if "?" in line]
    assert [(row[2].strip(), row[3].strip(), row[5].strip()) for row in rows] == [
        ("up", "Three?", ""),
        ("down", "Two?", "[b]Two?[/b]"),
        ("down", "One?", "[b]One?[/b]"),
    ]
    assert [bool(row[6].strip()) for row in rows] == [False, True, True]
    assert app("feedback", "list", "--limit", "1").out.count("?") == 1
    assert app("feedback", "list", "--tenant", "typo").out == "nobody in the tenant typo has said anything yet"
