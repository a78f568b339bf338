"""Conversations and the places of citations over HTTP, in process: whose they are, their order, and their end."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.db import answers, conversations
from app.db.answers import read_rated, read_turns, save_answer
from app.db.conversations import LONGEST_TITLE
from app.db.engine import Database, connect
from app.errors import NotFound
from app.gateway.gateway import Gateway
from app.rag.pipeline import Pipeline
from app.settings import Settings
from app.types import Answer, Place, Usage
from tests.integration.conftest import Command
from tests.integration.stored import keep
from tests.integration.test_api import error_of, events_of, serving

LONG = " ".join(f"Sentence {n} says nothing of rivers at all, as one can read here." for n in range(60))
NILE = "The Nile is the longest river of Africa, with 6650 kilometres."
DOCUMENTS = {"rivers.md": f"# Rivers\n\n{LONG}\n\n{NILE}\n\n{LONG}\n", "lakes.md": "# Lakes\n\nLake Baikal is deep.\n"}
QUESTION = "How many kilometres long is the Nile?"
NOBODY = str(uuid.uuid4())


@pytest.fixture
async def client(settings: Settings, database: Database, gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application over two documents."""
    await keep(database, gateway, settings, DOCUMENTS)
    async with serving(settings) as client:
        yield client


async def begin(client: httpx.AsyncClient) -> str:
    """The id of a new conversation."""
    response = await client.post("/v1/conversations")
    assert response.status_code == 201
    return str(response.json()["id"])


async def ask(client: httpx.AsyncClient, conversation: str, question: str = QUESTION) -> dict[str, Any]:
    """An answer in a conversation."""
    body = {"question": question, "conversation_id": conversation}
    answer: dict[str, Any] = (await client.post("/v1/ask", json=body)).json()
    return answer


async def foreign(database: Database, tenant: str, owner: str) -> str:
    """The id of a conversation of somebody else."""
    async with database.for_tenant(tenant).transaction() as connection:
        return (await conversations.create_conversation(connection, tenant, owner)).id


async def test_a_conversation_is_its_answers_in_order(client: httpx.AsyncClient) -> None:
    """Each whole, as it was given, with nothing thought of it yet; the first question is the title."""
    conversation = await begin(client)
    given = [await ask(client, conversation, question) for question in (QUESTION, "Is Lake Baikal deep?")]
    assert [answer["conversation_id"] for answer in given] == [conversation] * 2
    read = (await client.get(f"/v1/conversations/{conversation}")).json()
    assert read["answers"] == [answer | {"feedback": None} for answer in given]
    assert (read["id"], read["title"]) == (conversation, QUESTION)
    assert read["updated_at"] > read["created_at"]


async def test_of_a_long_conversation_the_newest_answers_are_read(
    client: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound on what is shown, and on the turns that a question is read with; oldest first in both."""
    conversation = await begin(client)
    questions = [f"{QUESTION} Once more, the {n}. time." for n in range(4)]
    for question in questions:
        await ask(client, conversation, question)
    monkeypatch.setattr(answers, "MOST_ANSWERS", 3)
    monkeypatch.setattr(answers, "MOST_TURNS", 2)
    read = (await client.get(f"/v1/conversations/{conversation}")).json()
    assert [answer["question"] for answer in read["answers"]] == questions[1:]
    async with database.transaction() as connection:
        turns = await read_turns(connection, "default", conversation)
    assert [turn.question for turn in turns] == questions[2:]


async def test_what_was_thought_of_an_answer_is_read_with_it(client: httpx.AsyncClient) -> None:
    """Rating and words, so that whoever opens the conversation again can go on with them."""
    conversation = await begin(client)
    answer = await ask(client, conversation)
    opinion = {"rating": "down", "comment": "Too long.", "correction": "6650"}
    await client.post("/v1/feedback", json=opinion | {"answer_id": answer["id"]})
    read = (await client.get(f"/v1/conversations/{conversation}")).json()
    assert [one["feedback"] for one in read["answers"]] == [opinion]


async def test_a_question_goes_back_to_the_newest_before_it(client: httpx.AsyncClient) -> None:
    """Which is read with it, and not the first one."""
    conversation = await begin(client)
    for question in (QUESTION, "Is Lake Baikal deep?"):
        assert (await ask(client, conversation, question))["standalone"] == question
    answer = await ask(client, conversation, "and where is it?")
    assert (answer["question"], answer["standalone"]) == ("and where is it?", "Is Lake Baikal deep? and where is it?")


async def test_a_deleted_conversation_is_in_no_answer_that_was_kept(client: httpx.AsyncClient) -> None:
    """A request that is sent again with its Idempotency-Key is done again, and finds no conversation."""
    conversation, once = await begin(client), {"Idempotency-Key": "once"}
    body = {"question": QUESTION, "conversation_id": conversation}
    first = await client.post("/v1/ask", json=body, headers=once)
    assert (await client.post("/v1/ask", json=body, headers=once)).json() == first.json()
    assert (await client.delete(f"/v1/conversations/{conversation}")).status_code == 204
    assert error_of(await client.post("/v1/ask", json=body, headers=once), 404)["code"] == "not_found"


async def test_answers_stand_in_the_order_in_which_they_were_kept(database: Database) -> None:
    """Whichever transaction began first."""
    async with database.transaction() as connection:
        conversation = (await conversations.create_conversation(connection, "default", "")).id
    late, early = [blank(conversation) for _ in range(2)]
    async with database.transaction() as connection:
        await connection.execute(text("SELECT 1"))
        async with database.transaction() as another:
            await save_answer(another, "default", early)
        await save_answer(connection, "default", late)
    async with database.transaction() as connection:
        rated = await read_rated(connection, "default", "", conversation)
    assert [answer.id for answer in rated] == [early.id, late.id]


def blank(conversation: str | None) -> Answer:
    """An answer of which nothing matters but where it is kept."""
    known: dict[str, Any] = {"question": "Why?", "text": "", "abstained": True, "model": "", "notice": ""}
    rest: dict[str, Any] = {"prompt_hash": "", "usage": Usage(), "cost_nanousd": 0, "latency_ms": 0}
    return Answer(str(uuid.uuid4()), conversation_id=conversation, **known | rest)


async def test_a_question_without_a_conversation_is_in_none(client: httpx.AsyncClient) -> None:
    """It makes none, either."""
    answer = (await client.post("/v1/ask", json={"question": QUESTION})).json()
    assert (answer["conversation_id"], answer["standalone"]) == (None, QUESTION)
    assert (await client.get("/v1/conversations")).json()["data"] == []


async def test_a_streamed_answer_is_kept_too(client: httpx.AsyncClient) -> None:
    """The last event says where."""
    conversation = await begin(client)
    body = {"question": QUESTION, "conversation_id": conversation, "stream": True}
    _, last = events_of(await client.post("/v1/ask", json=body))[-1]
    read = (await client.get(f"/v1/conversations/{conversation}")).json()
    assert [answer["id"] for answer in read["answers"]] == [last["id"]]
    assert last["conversation_id"] == conversation


async def test_the_list_is_paged_and_begins_with_the_newest_answer(client: httpx.AsyncClient) -> None:
    """An answer moves its conversation to the top."""
    first, second, third = [await begin(client) for _ in range(3)]
    await ask(client, first)
    page = (await client.get("/v1/conversations", params={"limit": 2})).json()
    assert [one["id"] for one in page["data"]] == [first, third]
    assert (page["has_more"], page["last_id"]) == (True, third)
    rest = (await client.get("/v1/conversations", params={"limit": 2, "after": third})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([second], False)


async def test_a_page_after_nothing_is_refused(client: httpx.AsyncClient) -> None:
    """An id that is not there is 404, and a word is no id."""
    error_of(await client.get("/v1/conversations", params={"after": NOBODY}), 404)
    error_of(await client.get("/v1/conversations", params={"after": "first"}), 422)


@pytest.mark.parametrize(("tenant", "whose"), [("default", "somebody"), ("other", "")])
async def test_a_conversation_of_somebody_else_is_not_there(
    client: httpx.AsyncClient, database: Database, tenant: str, whose: str
) -> None:
    """Of another owner or another tenant: nothing reads, continues, deletes or lists it."""
    theirs = await foreign(database, tenant, whose)
    body = {"question": QUESTION, "conversation_id": theirs}
    for response in (
        await client.get(f"/v1/conversations/{theirs}"),
        await client.delete(f"/v1/conversations/{theirs}"),
        await client.get("/v1/conversations", params={"after": theirs}),
        await client.post("/v1/ask", json=body),
        await client.post("/v1/ask", json=body | {"stream": True}),
    ):
        assert theirs in error_of(response, 404)["message"]
    assert (await client.get("/v1/conversations")).json()["data"] == []
    async with database.for_tenant(tenant).transaction() as connection:
        assert await conversations.read_conversation(connection, tenant, whose, theirs)


async def test_deleting_a_conversation_deletes_its_answers_and_their_feedback(
    client: httpx.AsyncClient, database: Database
) -> None:
    """And nothing else."""
    conversation, other = await begin(client), await begin(client)
    gone, kept = await ask(client, conversation), await ask(client, other)
    for answer in (gone, kept):
        rated = await client.post("/v1/feedback", json={"answer_id": answer["id"], "rating": "up"})
        assert rated.status_code == 200
    assert (await client.delete(f"/v1/conversations/{conversation}")).status_code == 204
    error_of(await client.delete(f"/v1/conversations/{conversation}"), 404)
    async with database.transaction() as connection:
        left = [
            list(await connection.scalars(text(query)))
            for query in ("SELECT id::text FROM answers", "SELECT answer_id::text FROM feedback")
        ]
    assert left == [[kept["id"]], [kept["id"]]]


@pytest.mark.parametrize("whose", ["", "somebody"])
async def test_an_answer_whose_conversation_is_gone_by_then_is_not_found(
    client: httpx.AsyncClient, database: Database, gateway: Gateway, settings: Settings, whose: str
) -> None:
    """It was deleted while the answer was made, or is another's: no fault of ours, and nothing is kept."""
    conversation = await begin(client)
    if not whose:
        await client.delete(f"/v1/conversations/{conversation}")
    pipeline = Pipeline(database, gateway, settings)
    with pytest.raises(NotFound, match=conversation):
        await pipeline.ask(QUESTION, place=Place(whose, conversation))
    async with database.transaction() as connection:
        assert not await connection.scalar(text("SELECT count(*) FROM answers"))


async def test_a_stream_into_a_conversation_that_is_deleted_ends_with_an_error(
    client: httpx.AsyncClient, database: Database
) -> None:
    """The last event says 404's code: here the deletion holds the row until the answer waits for it."""
    conversation = await begin(client)
    body = {"question": QUESTION, "conversation_id": conversation, "stream": True}
    async with database.transaction() as connection:
        await conversations.delete_conversation(connection, "default", "", conversation)
        streaming = asyncio.create_task(client.post("/v1/ask", json=body))
        await waits_for_a_lock(database)
    events = events_of(await streaming)
    assert {"delta", "citation"} <= {name for name, _ in events}
    name, data = events[-1]
    assert (name, data["error"]["code"], data["error"]["type"]) == ("error", "not_found", "invalid_request_error")


async def waits_for_a_lock(database: Database) -> None:
    """Return when another connection waits for what this test holds."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with asyncio.timeout(20), database.engine.connect() as connection:
        while not await connection.scalar(waiting):
            await connection.rollback()  # what it shows is of one moment in each transaction


async def test_of_two_questions_at_once_none_is_lost(client: httpx.AsyncClient) -> None:
    """Both are in the conversation, which is called after one of them."""
    conversation = await begin(client)
    questions = [f"{QUESTION} {n}" for n in range(6)]
    given = await asyncio.gather(*(ask(client, conversation, question) for question in questions))
    read = (await client.get(f"/v1/conversations/{conversation}")).json()
    assert {answer["id"] for answer in read["answers"]} == {answer["id"] for answer in given}
    assert read["title"] == read["answers"][0]["question"]


@pytest.mark.parametrize("path", ["/v1/conversations/first", "/v1/answers/first/citations/1"])
async def test_a_word_is_no_id(client: httpx.AsyncClient, path: str) -> None:
    """It is the client's mistake."""
    error_of(await client.get(path), 422)


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("How  long\nis it?", "How long is it?"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("word " * 16 + "word", "word " * 14 + "word…"),
        ("a " + "x" * 90, "a " + "x" * 77 + "…"),
    ],
)
def test_a_title_is_one_line_cut_at_a_word(question: str, title: str) -> None:
    """Where there is no word's end near, it is cut anyhow."""
    assert conversations.title_of(question) == title
    assert len(title) <= LONGEST_TITLE


async def asked_by(url: str, tenant: str, owner: str) -> None:
    """A conversation with an answer, and an answer without one."""
    async with connect(url) as database, database.for_tenant(tenant).transaction() as connection:
        conversation = (await conversations.create_conversation(connection, tenant, owner)).id
        for place in (conversation, None):
            await save_answer(connection, tenant, blank(place), owner)


async def left(url: str) -> list[tuple[str, str, int]]:
    """Tenant, owner and number of answers, of all that are left."""
    query = text("SELECT tenant, owner, count(*) FROM answers GROUP BY 1, 2 ORDER BY 1, 2")
    async with connect(url) as database, database.across_tenants() as connection:
        return [(row[0], row[1], row[2]) for row in await connection.execute(query)]


def test_what_somebody_has_asked_is_deleted_on_request(app: Command, migrated_url: str) -> None:
    """In conversations and outside, of this owner and tenant alone; again there is nothing left."""
    for tenant, owner in (("acme", "anna"), ("acme", "ben"), ("default", "anna")):
        asyncio.run(asked_by(migrated_url, tenant, owner))
    ended = app("conversations", "delete", "--owner", "anna", "--tenant", "acme")
    assert (ended.status, ended.out) == (0, "deleted 1 conversations and 2 answers of anna")
    assert asyncio.run(left(migrated_url)) == [("acme", "ben", 2), ("default", "anna", 2)]
    assert (
        "deleted 0 conversations and 0 answers"
        in app("conversations", "delete", "--owner", "anna", "--tenant", "acme").out
    )
    assert app("conversations", "delete", "--owner", "anna").out == "deleted 1 conversations and 2 answers of anna"


async def cited(client: httpx.AsyncClient) -> tuple[str, dict[str, Any]]:
    """The address of an answer's only citation, and the citation."""
    answer = (await client.post("/v1/ask", json={"question": QUESTION})).json()
    [citation] = answer["citations"]
    return f"/v1/answers/{answer['id']}/citations/{citation['marker']}", citation


async def test_a_citation_is_shown_with_what_stands_around_it(client: httpx.AsyncClient) -> None:
    """As the document has it: 1,500 characters on each side."""
    address, citation = await cited(client)
    place = (await client.get(address)).json()
    whole = DOCUMENTS["rivers.md"].rstrip()
    assert (place["quote"], place["changed"]) == (NILE, False)
    assert (place["before"] + place["quote"] + place["after"]) in whole
    assert (len(place["before"]), len(place["after"])) == (1_500, 1_500)
    shared = ("marker", "source", "title", "heading", "page", "quote")
    assert {name: place[name] for name in shared} == {name: citation[name] for name in shared}


async def test_at_the_ends_of_a_document_there_is_less_around(
    client: httpx.AsyncClient, database: Database, gateway: Gateway, settings: Settings
) -> None:
    """From its first character to its last; offsets count characters, whatever bytes they take."""
    await keep(database, gateway, settings, {"rivers.md": f"Ägypten 🐫:\n\n{NILE}\n\nÖäß.\n"})
    address, _ = await cited(client)
    place = (await client.get(address)).json()
    assert (place["before"], place["quote"], place["changed"]) == ("Ägypten 🐫:\n\n", NILE, False)
    assert place["after"].strip() == "Öäß."


@pytest.mark.parametrize("how", ["deleted", "shortened", "moved"])
async def test_a_quote_that_does_not_stand_there_any_more_is_shown_as_it_was_read(
    client: httpx.AsyncClient, database: Database, gateway: Gateway, settings: Settings, how: str
) -> None:
    """It says so, and shows the passage."""
    address, citation = await cited(client)
    if how == "deleted":
        [document] = [d for d in (await client.get("/v1/documents")).json()["data"] if d["source"] == "rivers.md"]
        assert (await client.delete(f"/v1/documents/{document['id']}")).status_code == 204
    else:
        new = "# Rivers\n" if how == "shortened" else f"One line more.\n\n{DOCUMENTS['rivers.md']}"
        await keep(database, gateway, settings, {"rivers.md": new})
    place = (await client.get(address)).json()
    assert (place["changed"], place["quote"]) == (True, citation["quote"])
    assert place["before"] + place["quote"] + place["after"] in DOCUMENTS["rivers.md"]
    assert place["before"]


@pytest.mark.parametrize("known", [True, False])
async def test_an_answer_that_was_kept_otherwise_is_shown_all_the_same(
    client: httpx.AsyncClient, database: Database, *, known: bool
) -> None:
    """Its passage is one of several, or not known any more: then the quote stands for itself."""
    address, citation = await cited(client)
    other = "replace(replace((passages->0)::text, 'rivers.md', 'other.md'), 'Sentence', 'Sentenze')::jsonb"
    kept = f"jsonb_build_array({other}) || passages" if known else "'[]'"
    async with database.transaction() as connection:
        await connection.execute(text(f"UPDATE answers SET passages = {kept}"))
        await connection.execute(text("DELETE FROM documents"))
    place = (await client.get(address)).json()
    assert (place["changed"], place["quote"], bool(place["before"])) == (True, citation["quote"], known)
    assert "Sentenze" not in place["before"]


async def test_a_citation_that_is_not_there_is_404(client: httpx.AsyncClient, database: Database) -> None:
    """No such number, no such answer, or somebody else's."""
    address, _ = await cited(client)
    error_of(await client.get(address[:-1] + "2"), 404)
    error_of(await client.get(address[:-1] + str(2**70)), 404)
    error_of(await client.get(f"/v1/answers/{NOBODY}/citations/1"), 404)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE answers SET owner = 'somebody'"))
    error_of(await client.get(address), 404)
