"""What the model reads: the best passages that fit, whole where possible."""

import pytest

from app.gateway.gateway import Gateway
from app.prompts.fence import fence
from app.rag.reading import fitting
from app.settings import ChatSettings, Settings
from app.types import Passage

SENTENCE = "The cat sat on the mat, and the \u00e9clair was gone. "
MESSAGES = [{"role": "user", "content": "Where is it?"}]


def passage(text: str, number: int = 1) -> Passage:
    """A passage that begins at character 50 of its document."""
    return Passage(number, "a.md", "A", "Cats", 50, 50 + len(text), text, 1.0)


async def fit(settings: Settings, *texts: str, **limits: object) -> list[Passage]:
    """What is read of these texts."""
    settings = settings.model_copy(update=limits)
    passages = [passage(text, number) for number, text in enumerate(texts, 1)]
    return await fitting(passages, MESSAGES, gateway=Gateway(settings), settings=settings)


async def test_the_lowest_ranked_are_left_out(settings: Settings) -> None:
    """What is read keeps its order and its words, and a smaller one does not slip in behind one that was left out."""
    texts = [SENTENCE * 5, SENTENCE * 6, SENTENCE * 50, "Short."]
    assert await fit(settings, *texts) == [passage(text, n) for n, text in enumerate(texts, 1)]
    assert [p.text for p in await fit(settings, *texts, passage_tokens=200)] == texts[:2]
    assert [p.text for p in await fit(settings, *texts, passage_tokens=160)] == texts[:1]
    assert await fit(settings) == []


@pytest.mark.parametrize("tokens", [100, 137, 1_000])
async def test_what_is_read_is_within_the_limit(settings: Settings, tokens: int) -> None:
    """Four bytes a token, what stands around the passages included."""
    read = await fit(settings, *[SENTENCE * 3] * 30, passage_tokens=tokens)
    assert read
    assert sum(len(fence([p]).encode()) for p in read) <= tokens * 4


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (SENTENCE * 20, "was gone."),
        (SENTENCE.replace(".", "\u3002").replace(" ", "") * 20, "wasgone\u3002"),
        ("a line without a full stop\n" * 40, "full stop"),
    ],
)
async def test_a_first_passage_that_is_too_long_is_cut_at_an_end(settings: Settings, text: str, end: str) -> None:
    """Of a sentence or a line; its own end moves with it."""
    [read] = await fit(settings, text, passage_tokens=150)
    assert read.text.endswith(end)
    assert text.startswith(read.text)
    assert (read.start, read.end) == (50, 50 + len(read.text))
    assert 300 < len(fence([read]).encode()) <= 600


async def test_without_an_end_it_is_cut_anywhere(settings: Settings) -> None:
    """Never in the middle of a character."""
    [read] = await fit(settings, "\u00e9" * 1_000, passage_tokens=100)
    assert set(read.text) == {"\u00e9"}
    assert len(fence([read]).encode()) in {399, 400}


async def test_the_smallest_context_of_the_models_counts(settings: Settings) -> None:
    """What the question, the prompt and the reply take of it is not there for passages."""
    small = ChatSettings(model="openai/a", api_base="http://127.0.0.1:1", context_tokens=1_000)
    limits = {"chat": small.model_copy(update={"context_tokens": 9_000}), "chat_2": small, "max_output_tokens": 500}
    read = await fit(settings, *[SENTENCE * 5] * 30, **limits)
    taken = sum(len(fence([p]).encode()) for p in read)
    assert 1_000 < taken <= (1_000 - 500) * 3
    assert len(await fit(settings, *[SENTENCE * 5] * 30, **limits | {"chat_2": None})) > len(read)


async def test_a_context_that_holds_nothing_still_gets_a_little(settings: Settings) -> None:
    """Then the provider says what is wrong, and not an empty prompt."""
    tiny = ChatSettings(model="openai/a", api_base="http://127.0.0.1:1", context_tokens=10)
    [read] = await fit(settings, SENTENCE * 30, chat=tiny)
    assert SENTENCE.strip() in read.text
