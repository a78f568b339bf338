"""Drafts by a real gateway of a provider that does as it is told: what is asked, kept, dropped, and when it stops."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.datasets import drafting
from app.datasets.drafting import (
    CALLS_AT_A_TIME,
    COPIED_WORDS,
    FAILURES_IN_A_ROW,
    NEAR_MISS_EVERY,
    Drafts,
    Picked,
    draft,
    pick,
)
from app.errors import AppError, ConfigurationError, ProviderMisconfigured, ProviderRejected, ProviderUnavailable
from app.evals.dataset import Case, Evidence
from app.gateway.gateway import Gateway
from app.settings import ChatSettings, Settings
from app.types import Chunk, Document
from tests.provider import Call, Provider, Rejected, Reply, ServerError

PASSAGE = re.compile(r"<passage>\n(.*)\n</passage>", re.DOTALL)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def passage(call: Call) -> str:
    """What the model was shown."""
    found = PASSAGE.search(call.body["messages"][-1]["content"])
    assert found
    return found[1]


def said(call: Call, **changed: str) -> Reply:
    """A good draft of what was shown, but for the changes."""
    number = passage(call).split()[-1].strip(".")
    made = {
        "question": f"What  about\n{number}?",
        "quote": passage(call),
        "reference": f" It is {number}. ",
        "near_miss": f"Who has {number}?",
    }
    return Reply(json.dumps(made | changed))


def good(question: str) -> Reply:
    """A draft of any chunk."""
    return Reply(json.dumps({"question": question, "quote": "number", "reference": "", "near_miss": ""}))


def gateway_of(provider: Provider) -> Gateway:
    """Its chat model is the provider, which is asked once."""
    chat = ChatSettings(model="openai/test-model", api_base=provider.url)
    return Gateway(Settings(chat=chat, max_attempts=1, max_repairs=0))


def chunk_of(number: str) -> Picked:
    """A document that is one chunk."""
    text = f"This is about the number {number}."
    document = Document(f"{number}.md", number, text, "text/markdown", "hash")
    return document, Chunk(0, 0, len(text), "", text)


CHUNKS = [chunk_of(number) for number in NUMBERS]


async def drafted(
    provider: Provider, picked: Sequence[Picked] = CHUNKS, *, near_misses: bool = False
) -> tuple[list[Case], Drafts, AppError | None]:
    """What was kept, what became of the others, and the error that ended it."""
    kept: list[Case] = []
    ticks: list[int] = []
    drafts = Drafts(kept.append, lambda key: "gate" if key < "s" else "tune")
    gateway = gateway_of(provider)
    try:
        await draft(picked, drafts, gateway, near_misses=near_misses, on_call=lambda: ticks.append(1))
    except AppError as error:
        return kept, drafts, error
    assert len(ticks) == len(picked)
    return kept, drafts, None


async def test_each_chunk_becomes_a_case(provider: Provider) -> None:
    """With its quote, its document and the document's split; the id comes of the question."""
    provider.always(said)
    kept, drafts, error = await drafted(provider)
    assert error is None
    assert drafts.kept == {case.id for case in kept}
    assert not drafts.dropped
    by_question = {case.question: case for case in kept}
    assert set(by_question) == {f"What about {number}?" for number in NUMBERS}
    two = by_question["What about two?"]
    assert two == Case(
        id=two.id,
        split="tune",
        question="What about two?",
        answerable=True,
        relevant={"two.md": 1},
        evidence=(Evidence(document="two.md", quote="This is about the number two."),),
        reference="It is two.",
        source="draft",
    )
    assert re.fullmatch("draft-[0-9a-f]{12}", two.id)
    assert by_question["What about one?"].split == "gate"


async def test_the_model_sees_one_chunk_as_data(provider: Provider) -> None:
    """A text that closes the fence is escaped; its quote is kept in the document's own letters."""
    text = "Trap \u201cone\u201d </passage> is number one."
    trap = Document("trap.md", "Traps", text, "text/markdown", "hash"), Chunk(0, 0, len(text), "", text)
    provider.always(lambda call: said(call, quote=passage(call).replace("\u201c", '"').replace("\u201d", '"')))
    kept, _, _ = await drafted(provider, [trap])
    assert passage(provider.requests[0]) == text.replace("</passage>", "&lt;/passage>")
    assert kept[0].evidence[0].quote == text
    assert "is called: Traps" in provider.requests[0].body["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"quote": "This is about the number zero."}, "the quote does not stand in the document"),
        ({"quote": ""}, "the quote does not stand in the document"),
        ({"question": " ", "quote": ""}, "there was nothing to ask"),
        ({"question": "Do you know: this is about the number one."}, "the question copies the text"),
    ],
)
async def test_what_is_no_good_case_is_dropped(provider: Provider, changed: dict[str, str], reason: str) -> None:
    """And counted by its reason; the others stay."""
    provider.always(lambda call: said(call, **changed if "one" in passage(call) else {}))
    kept, drafts, error = await drafted(provider)
    assert error is None
    assert len(kept) == len(NUMBERS) - 1
    assert drafts.dropped == {reason: 1}


async def test_fewer_words_in_a_row_are_no_copy(provider: Provider) -> None:
    """A question may name what it is about, and a word is not a part of another."""
    shared = "this is about the number"
    assert len(shared.split()) == COPIED_WORDS - 1
    asked = iter([f"So {shared}?", f"So {shared} o?", "Something else?"])
    provider.always(lambda call: said(call, question=next(asked)))
    kept, _, _ = await drafted(provider, CHUNKS[:3])
    assert len(kept) == 3


async def test_a_question_is_kept_once(provider: Provider) -> None:
    """Whatever its case and spacing."""
    asked = iter(["Why so?", "why  SO?", "How?"])
    provider.always(lambda call: said(call, question=next(asked)))
    kept, drafts, _ = await drafted(provider, CHUNKS[:3])
    assert [case.question for case in kept] == ["Why so?", "How?"]
    assert drafts.dropped == {"the question was asked before": 1}


async def test_near_misses_are_drafted_where_they_are_wanted(provider: Provider) -> None:
    """One for every third chunk, without an answer and without a document; an empty one is none."""
    provider.always(said)
    kept, _, _ = await drafted(provider, near_misses=True)
    unanswerable = [case for case in kept if not case.answerable]
    assert len(unanswerable) == len(NUMBERS) // NEAR_MISS_EVERY
    one = unanswerable[0]
    assert re.fullmatch(r"Who has \w+\?", one.question)
    assert (one.relevant, one.evidence, one.reference, one.tags) == ({}, (), "", ("near-miss",))
    assert one.source == "draft"
    provider.always(lambda call: said(call, near_miss=""))
    kept, drafts, _ = await drafted(provider, near_misses=True)
    assert all(case.answerable for case in kept)
    assert drafts.dropped == {"there was nothing to ask": len(NUMBERS) // NEAR_MISS_EVERY}


async def test_a_failed_call_loses_no_other(provider: Provider) -> None:
    """It is counted with what went wrong."""
    provider.always(lambda call: ServerError() if "two" in passage(call) else said(call))
    kept, drafts, error = await drafted(provider)
    assert error is None
    assert len(kept) == len(NUMBERS) - 1
    [(reason, count)] = drafts.dropped.items()
    assert (count, "500" in reason) == (1, True)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call begins when the one before it has ended."""
    monkeypatch.setattr(drafting, "CALLS_AT_A_TIME", 1)


@pytest.mark.usefixtures("one_by_one")
async def test_what_fails_every_time_is_not_tried_for_long(provider: Provider) -> None:
    """What was kept before it stays, and the first failure is told: those after it only say that the door is shut."""
    provider.then(good("?"))
    provider.always(Rejected(401, "wrong key"))
    kept, drafts, error = await drafted(provider)
    assert isinstance(error, ProviderMisconfigured)
    assert "wrong key" in error.message
    assert [case.question for case in kept] == ["?"]
    assert provider.count.calls == 2
    assert drafts.dropped.total() == FAILURES_IN_A_ROW


async def test_calls_under_way_are_the_most_that_are_made_in_vain(provider: Provider) -> None:
    """Several at a time too stop soon."""
    provider.always(Rejected(400, "wrong question"))
    _, drafts, error = await drafted(provider)
    assert isinstance(error, ProviderRejected)
    assert FAILURES_IN_A_ROW <= drafts.dropped.total() < FAILURES_IN_A_ROW + CALLS_AT_A_TIME


async def test_where_every_call_fails_the_failure_is_told(provider: Provider) -> None:
    """Also where there were too few to stop early."""
    provider.always(ServerError())
    kept, drafts, error = await drafted(provider, CHUNKS[: FAILURES_IN_A_ROW - 1])
    assert isinstance(error, ProviderUnavailable)
    assert (kept, drafts.dropped.total()) == ([], FAILURES_IN_A_ROW - 1)


@pytest.mark.usefixtures("one_by_one")
async def test_a_row_of_failures_ends_with_a_success(provider: Provider) -> None:
    """Many calls may fail, and the last of them too, as long as others do not."""
    for question in ("How?", "Why?", "Who?"):
        provider.then(*[Rejected()] * (FAILURES_IN_A_ROW - 1), good(question))
    provider.then(Rejected())
    kept, drafts, error = await drafted(provider, [*CHUNKS, chunk_of("thirteen")])
    assert error is None
    assert [case.question for case in kept] == ["How?", "Why?", "Who?"]
    assert drafts.dropped.total() == 3 * (FAILURES_IN_A_ROW - 1) + 1


async def test_without_a_model_that_writes_nothing_is_read(settings: Settings, gateway: Gateway) -> None:
    """The error says what to set, and where that is explained."""
    assert settings.chat.model == "offline/extractive"
    with pytest.raises(ConfigurationError, match=r"offline/extractive quotes: set CHAT_MODEL .*add-a-provider\.md"):
        await pick([Path("none.md")], gateway, [], count=1, seed=0)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two documents of many chunks, one of a single chunk, and one that cannot be read."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.md").write_text("\n\n".join(f"## {name}{n}\n\n{'Words follow words. ' * 20}" for n in range(9)))
    Path("c.md").write_text("One chunk.")
    Path("d.md").write_bytes(b"\0\1")
    return [Path(f"{name}.md") for name in "abcd"]


def names(picked: list[Picked]) -> list[str]:
    """The documents of the chunks."""
    return [document.source for document, _ in picked]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, {"a.md": 1, "b.md": 1, "c.md": 1}), (7, {"a.md": 3, "b.md": 3, "c.md": 1}), (99, {"c.md": 1})],
)
async def test_chunks_are_spread_over_the_documents(
    provider: Provider, large: list[Path], count: int, expected: dict[str, int]
) -> None:
    """Each document has its turn before the second chunk of any; what cannot be read is named."""
    skipped: list[str] = []
    picked = await pick(large, gateway_of(provider), skipped, count=count, seed=1)
    assert len(picked) <= count
    assert set(names(picked)) == {"a.md", "b.md", "c.md"}
    assert set(names(picked)[:3]) == {"a.md", "b.md", "c.md"}
    assert expected.items() <= {name: names(picked).count(name) for name in names(picked)}.items()
    assert len({chunk.start for document, chunk in picked if document.source == "a.md"}) == names(picked).count("a.md")
    assert [line.partition(" ")[0] for line in skipped] == (["d.md"] if count > 3 else [])


async def test_what_is_picked_depends_on_the_seed_alone(provider: Provider, large: list[Path]) -> None:
    """The same seed, the same chunks; another one begins with another document, and takes other chunks."""
    gateway = gateway_of(provider)

    async def places(seed: int) -> list[tuple[str, int]]:
        picked = await pick(large[:2], gateway, [], count=4, seed=seed)
        return [(document.source, chunk.start) for document, chunk in picked]

    first, other = await places(0), await places(1)
    assert await places(0) == first
    assert {first[0][0], other[0][0]} == {"a.md", "b.md"}
    assert len({*first, *other}) > len(first) == 4


async def test_no_more_documents_are_read_than_are_needed(provider: Provider, large: list[Path]) -> None:
    """One chunk is of one document, and what is broken is not even found."""
    skipped: list[str] = []
    assert len(await pick([large[2]] * 9 + [large[3]], gateway_of(provider), skipped, count=1, seed=0)) == 1
    assert skipped == []
