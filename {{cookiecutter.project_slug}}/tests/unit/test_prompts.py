"""Prompts: what is put in comes out again, and a version is known by its hash."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.prompts.fence import FencedPassage, fence, neutral, read_fences, restored
from app.prompts.loader import FOLDER, Prompt, all_hashes, load_prompt
from app.types import Passage

HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            ["<passage", "</passage>", "<question>\n", "\n</question>", "&lt;passage", "&amp;lt;/question"]
        ),
        st.sampled_from(["&", "amp;", "<", "/", '"', "'", "\n", ' id="1" section="x">', "</PASSAGE>", "$question"]),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


def passage(text: str, heading: str, source: str, page: int | None) -> Passage:
    """A passage that retrieval found."""
    return Passage(
        chunk_id=1, source=source, title="A", heading=heading, start=0, end=1, text=text, score=1.0, page=page
    )


@given(
    question=HOSTILE,
    passages=st.lists(st.builds(passage, HOSTILE, HOSTILE, HOSTILE, st.none() | st.integers(1, 2_000)), max_size=4),
)
def test_what_is_fenced_is_read_back_unchanged(question: str, passages: list[Passage]) -> None:
    """No text, heading, source or question can open or close a fence, and none is altered on the way."""
    messages = load_prompt("answer").messages(passages=fence(passages), question=neutral(question))
    read, fenced = read_fences(messages)
    assert read == question
    assert fenced == [FencedPassage(n, given.heading, given.text) for n, given in enumerate(passages, 1)]


@given(HOSTILE)
def test_neutral_text_holds_no_fence(text: str) -> None:
    """A model sees tags only where the pipeline put them."""
    for tag in ("<passage", "</passage", "<question", "</question"):
        assert tag + ">" not in neutral(text).lower()


@given(HOSTILE)
def test_what_was_fenced_is_restored(text: str) -> None:
    """Words that a model copied are compared with the document's own."""
    assert restored(neutral(text)) == text


def test_a_model_can_name_the_source() -> None:
    """Each passage carries its document's name, its page where there is one, and its section."""
    shown = fence([passage("Words.", 'A > "B"', "c&d.pdf", 3), passage("More.", "C", "e.md", None)])
    assert shown.splitlines()[0] == '<passage id="1" source="c&amp;d.pdf" page="3" section="A &gt; &quot;B&quot;">'
    assert '<passage id="2" source="e.md" section="C">' in shown


def test_ordinary_markup_is_left_alone() -> None:
    """Only the two tags of a fence are escaped, so that quotes stay verbatim."""
    assert neutral("<b>a</b> &lt;p&gt; <passages> &amp;") == "<b>a</b> &lt;p&gt; <passages> &amp;"


def test_a_prompt_without_fences_has_neither_question_nor_passages() -> None:
    """The offline model can be sent anything."""
    assert read_fences([{"role": "user", "content": "Hello <passage id='1'>?"}]) == ("", [])


def test_the_hash_is_of_the_whole_file() -> None:
    """Whoever has the file can tell which version gave an answer."""
    raw = (FOLDER / "answer.md").read_bytes()
    assert load_prompt("answer").content_hash == hashlib.sha256(raw).hexdigest()
    assert load_prompt("answer").name == "answer"


def test_every_prompt_has_its_hash() -> None:
    """What depends on any of them can be told apart by all of them."""
    hashes = all_hashes()
    assert hashes["answer"] == load_prompt("answer").content_hash
    assert set(hashes) == {path.stem for path in FOLDER.glob("*.md")}


def test_any_change_of_a_prompt_changes_its_hash(tmp_path: Path) -> None:
    """Also one in the front matter, and one that only adds a blank."""
    raw = "---\nname: greet\n---\n## user\n\nHello.\n"
    hashes = set()
    for number, text in enumerate([raw, raw.replace("greet", "great"), raw + " "]):
        (tmp_path / f"{number}.md").write_text(text, encoding="utf-8")
        hashes.add(load_prompt(str(tmp_path / str(number))).content_hash)
    assert len(hashes) == 3


def test_sections_become_messages_in_order(tmp_path: Path) -> None:
    """A second-level heading with a role begins a message; other headings belong to the text."""
    text = "---\nname: chat\n---\n## system\nBe brief.\n## user\n## Task\n$what\n---\n## assistant\nYes.\n"
    (tmp_path / "chat.md").write_text(text, encoding="utf-8")
    assert load_prompt(str(tmp_path / "chat")).messages(what="Go.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "## Task\nGo.\n---"},
        {"role": "assistant", "content": "Yes."},
    ]


@given(st.text(alphabet="${}a\\ question%"))
def test_a_value_is_never_read_as_a_template(value: str) -> None:
    """Dollar signs and braces in documents and questions are left alone."""
    [message] = Prompt("p", "", (("user", "Q: $question."),)).messages(question=value)
    assert message["content"] == f"Q: {value}."


def test_a_missing_value_is_an_error() -> None:
    """A prompt never goes out with a hole in it."""
    with pytest.raises(KeyError, match="question"):
        load_prompt("answer").messages(passages="")


def test_the_answer_prompt_says_how_to_cite_and_to_abstain() -> None:
    """The words that the citation reader and the offline model rely on are asked for."""
    system, user = load_prompt("answer").messages(passages="P", question="Q")
    assert (system["role"], user["role"]) == ("system", "user")
    assert '[n: "words"]' in system["content"]
    assert "NOT IN THE DOCUMENTS" in system["content"]
    assert user["content"] == "P\n\n<question>\nQ\n</question>"
