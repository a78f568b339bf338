"""Documents are read in processes of their own: limited, without secrets, replaced when they break."""

import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from app.errors import AppError, DocumentTooLarge, InvalidInput, UnsupportedDocument
from app.rag import child, parsing
from app.rag.chunking import split
from app.rag.loading import load_bytes
from app.rag.parsing import Parser
from app.settings import Settings
from tests.conftest import PROJECT
from tests.documents import docx, eml, ods, paragraph, pdf, pptx, xls, xlsx

PYTHON = parsing.COMMAND[:-2]
ENDLESS = ("a" + "\u0301\u0316" * 1_000_000).encode()  # putting accents in order takes time that grows with the square
DOCUMENTS = {
    "a.md": b"---\nauthor: me\n---\n# Guide\n\n" + b"Text. " * 300 + b"\n\n## Part\n\n" + b"More. " * 300,
    "a.txt": "\u05e9\u05dc\u05d5\u05dd e\u0301 \U0001f600 ".encode() * 500,
    "a.html": b"<html><h1>Guide</h1><p>Text.",
    "a.pdf": pdf("One. " * 50, "Two. " * 50, Title="Paper"),
    "a.docx": docx(paragraph("Text.")),
    "a.pptx": pptx(("One", "text"), ("Two", "text")),
    "a.xlsx": xlsx({"A": [["a", "b"], [1, 2]]}),
    "a.ods": ods([["a", "b"], ["1", "2"]]),
    "a.xls": xls([["a", "b"], ["1", "2"]]),
    "a.csv": b"a,b\n1,2",
    "a.json": b'{"a": 1}',
    "a.jsonl": b'{"a": 1}\n{"a": 2}',
    "a.eml": eml("Text.", From="a", To="b"),
}


def limits(**others: Any) -> Settings:
    """Little time, so that a test of what takes too long does not."""
    return Settings(parse_seconds=20, chunk_characters=300, **others)


@pytest.fixture
async def parser() -> AsyncIterator[Parser]:
    """A parser with time enough for a slow machine."""
    made = Parser(limits())
    yield made
    await made.aclose()


@pytest.fixture
async def hasty() -> AsyncIterator[Parser]:
    """A parser that gives a document half a second."""
    made = Parser(Settings(parse_seconds=0.5))
    yield made
    await made.aclose()


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsers that are made after this have one child."""
    monkeypatch.setattr(parsing, "MOST_CHILDREN", 1)


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_document_comes_back_as_it_was_read(name: str, parser: Parser) -> None:
    """Text, pages, metadata and chunks are those that the same code gives in this process."""
    data = DOCUMENTS[name]
    parsed = await parser.parse(data, source=name, origin="upload", metadata={"team": "search"})
    here = load_bytes(data, source=name, max_bytes=10**6, origin="upload", metadata={"team": "search"})
    assert parsed.document == here
    assert list(parsed.chunks) == split(here, max_characters=300)
    assert parsed.document.metadata["team"] == "search"


async def test_a_refusal_comes_back_with_its_kind_and_reason(parser: Parser) -> None:
    """As if the document had been read in this process."""
    with pytest.raises(UnsupportedDocument, match=r"a\.png is a picture"):
        await parser.parse(b"\x89PNG\r\n", source="a.png")
    with pytest.raises(DocumentTooLarge, match="MAX_DOCUMENT_PAGES"):
        await parser.parse(pdf(*["page"] * 2_001), source="long.pdf")
    with pytest.raises(DocumentTooLarge, match="MAX_DOCUMENT_BYTES"):
        await parser.parse(bytes(20_000_001), source="a.txt")
    with pytest.raises(InvalidInput, match="control characters"):
        await parser.parse(b"text", source="a\0b")


def test_a_document_of_too_many_chunks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With chunks that hardly differ, a megabyte could become gigabytes."""
    monkeypatch.setattr(child, "MOST_CHUNKS", 9)
    recipe = {"source": "a.txt", "max_bytes": 9_999, "max_pages": 9, "max_characters": 100, "overlap": 0}
    assert len(child.answer(dict(recipe), b"word " * 9 * 20)[0]["chunks"]) == 9
    refusal, _ = child.answer(dict(recipe), b"word " * 10 * 20)
    assert (refusal["error"], refusal["message"][:23]) == ("DocumentTooLarge", "a.txt makes 10 chunks; ")


async def test_many_documents_share_a_few_children(parser: Parser) -> None:
    """At most one for each processor, and four; each answer goes to the one who asked."""
    size = min(4, os.cpu_count() or 1)
    texts = [f"Text number {n}." for n in range(50)]
    parsed = await asyncio.gather(*(parser.parse(text.encode(), source=f"{text}.txt") for text in texts))
    assert [one.document.text for one in parsed] == texts
    assert [one.document.source for one in parsed] == [f"{text}.txt" for text in texts]
    assert 1 <= len(parser._idle) <= size


async def test_a_child_knows_no_secrets(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in this process's environment is not in its."""
    monkeypatch.setenv("CHAT_API_KEY", "sk-canary")
    await parser.parse(b"text", source="a.txt")
    [running] = parser._idle
    environment = psutil.Process(running.process.pid).environ()
    assert set(environment) <= {"PYTHONUTF8", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
    assert psutil.Process(running.process.pid).open_files() == []


async def test_a_child_starts_in_little_time(parser: Parser) -> None:
    """It imports what every document needs, and a format's library when it first meets the format."""
    await parser.parse(b"text", source="a.txt")
    used = psutil.Process(parser._idle[0].process.pid).cpu_times()
    assert used.user + used.system < 1


async def test_a_document_that_takes_too_long_is_given_up(hasty: Parser) -> None:
    """Its child is killed, and the next document gets another."""
    await hasty.parse(b"text", source="a.txt")
    [before] = hasty._idle
    with pytest.raises(UnsupportedDocument, match=r"slow\.txt: reading it took more than PARSE_SECONDS=0\.5; raise it"):
        await hasty.parse(ENDLESS, source="slow.txt")
    assert (await hasty.parse(b"text", source="a.txt")).document.text == "text"
    assert before not in hasty._idle
    assert before.process.wait(10) == -signal.SIGKILL


@pytest.mark.usefixtures("single")
async def test_a_document_that_needs_too_much_memory_is_given_up() -> None:
    """The message names the setting."""
    parser = Parser(Settings(parse_seconds=20, parse_memory_bytes=300_000_000))
    try:
        with pytest.raises(UnsupportedDocument, match=r"big\.html: it broke its reader.*PARSE_MEMORY_BYTES=300000000"):
            await parser.parse(b"<html><a " + b"x=1 " * 3_000_000, source="big.html")
        assert (await parser.parse(b"text", source="a.txt")).chunks
    finally:
        await parser.aclose()


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("ticks", range(8))
async def test_a_cancelled_document_leaves_no_answer_behind(parser: Parser, ticks: int) -> None:
    """Whenever it is cancelled: the next document gets its own answer, not that of the one before."""
    await parser.parse(b"warm", source="warm.txt")
    task = asyncio.create_task(parser.parse(b"first", source="first.txt"))
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        assert (await task).document.text == "first"
    for text in ("second", "third"):
        assert (await parser.parse(text.encode(), source="b.txt")).document.text == text


async def test_a_child_that_died_while_it_waited_is_replaced(parser: Parser) -> None:
    """Nobody's document is refused for it."""
    await parser.parse(b"text", source="a.txt")
    [dead] = parser._idle
    dead.process.kill()
    dead.process.wait()
    assert (await parser.parse(b"text", source="a.txt")).document.text == "text"
    assert dead not in parser._idle


TAKEN_OVER = """
import sys
from app.rag.child import READY, read_frame, write_frame
write_frame(sys.stdout.buffer, READY)
read_frame(sys.stdin.buffer, max_bytes=10**6)
{does}
"""
WRITE = "write_frame(sys.stdout.buffer, {head}, {body})"
FACTS = {"title": "", "media_type": "", "content_hash": "", "metadata": {}, "page_starts": [], "headings": ["h"]}


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("", "broke its reader"),
        ("sys.stdout.buffer.write(b'12')", "broke its reader"),
        ("sys.stdout.buffer.write(bytes(7) + bytes([9]) + b'cut')", "broke its reader"),
        ("sys.stdout.buffer.write(b'\\xff' * 8)", "broke its reader"),
        ("sys.stdout.buffer.write(bytes([0, 0, 39, 16, 0, 0, 0, 0]) + b'[' * 10_000)", "broke its reader"),
        (WRITE.format(head={}, body=b""), "makes no sense"),
        (WRITE.format(head=FACTS | {"chunks": [[0, 9, 0, None]]}, body=b"text"), "makes no sense"),
        (WRITE.format(head=FACTS | {"chunks": [[0, 4, 7, None]]}, body=b"text"), "makes no sense"),
        (WRITE.format(head=FACTS | {"chunks": []}, body=b"\xff"), "makes no sense"),
        (WRITE.format(head=FACTS | {"chunks": [], "metadata": [1]}, body=b""), "makes no sense"),
        (WRITE.format(head=[], body=b""), "broke its reader"),
    ],
)
async def test_a_child_that_a_file_has_taken_over_is_not_believed(
    does: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence, too much, half of it, or anything that is no document of its length."""
    monkeypatch.setattr(parsing, "COMMAND", (*PYTHON, "-c", TAKEN_OVER.format(does=does)))
    parser = Parser(limits())
    try:
        with pytest.raises(UnsupportedDocument, match=f"evil.txt: .*{reason}"):
            await parser.parse(b"text", source="evil.txt")
    finally:
        await parser.aclose()


async def test_a_child_that_does_not_listen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended before it took the whole document."""
    deaf = "import sys\nfrom app.rag.child import READY, write_frame\nwrite_frame(sys.stdout.buffer, READY)"
    monkeypatch.setattr(parsing, "COMMAND", (*PYTHON, "-c", deaf))
    parser = Parser(limits())
    with pytest.raises(UnsupportedDocument, match="broke its reader"):
        await parser.parse(bytes(10**6), source="a.txt")
    await parser.aclose()


@pytest.mark.parametrize("does", ["", "import time; time.sleep(60)"])
async def test_children_that_do_not_start_are_an_error_of_ours(does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the document."""
    monkeypatch.setattr(parsing, "COMMAND", (*PYTHON, "-c", does))
    monkeypatch.setattr(parsing, "START_SECONDS", 0.5)
    parser = Parser(limits())
    with pytest.raises(AppError, match="does not start") as caught:
        await parser.parse(b"text", source="a.txt")
    assert caught.value.status == 500
    await parser.aclose()


PARENT = """
import asyncio, os
from app.rag.parsing import Parser
from app.settings import Settings

async def main():
    parser = Parser(Settings(_env_file=None, parse_seconds=20))
    await parser.parse(b"text", source="a.txt")
    print(parser._idle[0].process.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_children_end_when_their_parent_is_killed() -> None:
    """Nothing has to tidy up after a crash."""
    done = subprocess.run([sys.executable, "-c", PARENT], cwd=PROJECT, capture_output=True, text=True, check=False)
    try:
        orphan = psutil.Process(int(done.stdout))
    except psutil.NoSuchProcess:
        return
    assert psutil.wait_procs([orphan], timeout=20)[1] == [] or orphan.status() == psutil.STATUS_ZOMBIE


async def test_closing_ends_the_children(parser: Parser) -> None:
    """All of them, at once."""
    await asyncio.gather(*(parser.parse(b"text", source=f"{n}.txt") for n in range(8)))
    children = [one.process for one in parser._idle]
    await parser.aclose()
    assert {process.returncode for process in children} == {-signal.SIGKILL}


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code that limits its own process."""
    script = f"import os, time\nfrom app.rag.child import *\n{code}"
    return subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("work", ["while True: pass", "time.sleep(60)"])
def test_a_child_that_nobody_waits_for_ends_itself(work: str) -> None:
    """Whether it works or sleeps."""
    began = time.monotonic()
    assert run(f"limit_time(0.2 - GRACE)\n{work}").returncode in {-signal.SIGALRM, -signal.SIGXCPU}
    assert time.monotonic() - began < 30


def test_a_child_that_works_too_long_is_ended_by_its_processor_time_too() -> None:
    """Even where it took the alarm away."""
    code = "limit_time(0.2 - GRACE)\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass"
    assert run(code).returncode == -signal.SIGXCPU


def test_a_child_cannot_take_memory_files_or_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each attempt fails; what it needs for itself still works."""
    file = tmp_path_factory.mktemp("written") / "file"
    attempts = [
        "bytes(400_000_000)",
        f"open({str(file)!r}, 'wb').write(bytes(10_000_000))",
        "[os.open('/', os.O_RDONLY) for _ in range(100)]",
    ]
    tries = "".join(
        f"try:\n  {attempt}\nexcept (MemoryError, OSError) as e: print(type(e).__name__)\n" for attempt in attempts
    )
    done = run(f"limit_resources(300_000_000)\n{tries}print(resource.getrlimit(resource.RLIMIT_NPROC))")
    assert done.stdout.splitlines() == ["MemoryError", "OSError", "OSError", "(0, 0)"]


def test_requests_are_answered_in_turn_until_they_end() -> None:
    """The child's side of the conversation."""
    recipe = {"source": "a.txt", "max_bytes": 99, "max_pages": 9, "max_characters": 100, "overlap": 0}
    requests, replies = io.BytesIO(), io.BytesIO()
    for data in (b"text", b"\xff"):
        child.write_frame(requests, recipe, data)
    requests.seek(0)
    before = resource.getrlimit(resource.RLIMIT_CPU)
    child.serve(requests, replies, 1e6)
    resource.setrlimit(resource.RLIMIT_CPU, before)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0), "a child that waits is in no hurry"
    replies.seek(0)
    ready, document, refusal, end = (child.read_frame(replies, max_bytes=10**6) for _ in range(4))
    assert ready == (child.READY, b"")
    assert document is not None
    assert (document[0]["chunks"], document[1]) == ([[0, 4, 0, None]], b"text")
    assert refusal is not None
    assert refusal[0]["error"] == "UnsupportedDocument"
    assert end is None


def test_a_frame_is_taken_whole_and_up_to_the_limit() -> None:
    """A child that is not trusted cannot make this process wait for, or hold, more than that."""
    stream = io.BytesIO()
    child.write_frame(stream, {"a": 1}, b"body")
    frame = stream.getvalue()
    longest = len('{"a": 1}')
    assert child.read_frame(io.BytesIO(frame), max_bytes=longest) == ({"a": 1}, b"body")
    with pytest.raises(ValueError, match="length that is expected"):
        child.read_frame(io.BytesIO(frame), max_bytes=longest - 1)
    with pytest.raises(ValueError, match="is cut"):
        child.read_frame(io.BytesIO(frame[:-1]), max_bytes=longest)
