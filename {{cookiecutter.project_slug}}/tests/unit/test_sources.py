"""Files are found where they are said to be, read within the limit, and known by a name that can be stored."""

import io
import os
from pathlib import Path

import pytest

from app.errors import DocumentTooLarge, InvalidInput
from app.rag.sources import check_name, find_files, hash_content, read_file, read_stdin


def make(folder: Path, *names: str, text: str = "x") -> None:
    """Files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def below(folder: Path, *paths: Path) -> list[str]:
    """What is found, relative to the folder."""
    return [file.relative_to(folder).as_posix() for file in find_files(paths or (folder,))]


def test_files_are_found_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    """A folder gives everything below it, a file gives itself, hidden or not."""
    make(tmp_path, "b.md", "a.md", "sub/c.md", ".hidden.md", ".git/config")
    assert below(tmp_path) == ["a.md", "b.md", "sub/c.md"]
    assert below(tmp_path, tmp_path / ".hidden.md") == [".hidden.md"]


def test_a_pattern_gives_the_files_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For systems and quotes that leave the pattern to us; a folder that fits gives what is below it."""
    make(tmp_path, "a.md", "docs/b.md", "docs/sub/c.md", "docs/d.txt", "docs/.e.md", "odd[1].md")
    assert below(tmp_path, tmp_path / "docs/**/*.md") == ["docs/b.md", "docs/sub/c.md"]
    monkeypatch.chdir(tmp_path)
    assert list(map(str, find_files([Path("*.md")]))) == ["a.md", "odd[1].md"]
    assert list(map(str, find_files([Path("odd[1].md")]))) == ["odd[1].md"]
    with pytest.raises(InvalidInput, match=r"no file fits the pattern docs/\*\.pdf"):
        list(find_files([Path("docs/*.pdf")]))


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A typing error is found before anything is read, and a pipe is never waited for."""
    with pytest.raises(InvalidInput, match=r"missing\.md does not exist"):
        list(find_files([tmp_path / "missing.md"]))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="pipe is neither a file nor a folder"):
        list(find_files([tmp_path / "pipe"]))
    assert below(tmp_path) == []


def test_an_ignore_file_is_written_as_for_git(tmp_path: Path) -> None:
    """Each folder may have one; the nearest rule counts; `!` takes one back, but not inside a folder left out."""
    make(tmp_path, "a.md", "a.log", "keep.log", "drafts/b.md", "sub/drafts/c.md", "sub/d.log", "sub/e.md", "sub/f.md")
    (tmp_path / ".ragignore").write_text("# logs\n*.log\n!keep.log\n/drafts/\n!/drafts/b.md\n")
    (tmp_path / "sub" / ".ragignore").write_text("!d.log\ne.md\n")
    assert below(tmp_path) == ["a.md", "keep.log", "sub/d.log", "sub/drafts/c.md", "sub/f.md"]
    assert below(tmp_path, tmp_path / "a.log") == ["a.log"]


def test_links_do_not_lead_out_of_a_folder_or_in_circles(tmp_path: Path) -> None:
    """A link to a file of the same folder is followed; that is how some systems mount their files."""
    make(tmp_path, "inside/..data/a.md", "inside/b.md", "outside/secret.md")
    inside = tmp_path / "inside"
    (inside / "a.md").symlink_to(Path("..data") / "a.md")
    (inside / "secret.md").symlink_to(tmp_path / "outside" / "secret.md")
    (inside / "folder").symlink_to(tmp_path / "outside")
    (inside / "circle").symlink_to(inside)
    (inside / "broken").symlink_to(inside / "nothing")
    assert below(inside) == ["a.md", "b.md"]
    (tmp_path / "link").symlink_to(inside)
    assert below(tmp_path / "link") == ["a.md", "b.md"]


def test_the_source_is_relative_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source stays the same when the project moves; a file elsewhere keeps its whole path."""
    make(tmp_path, "project/a.md", "b.md")
    monkeypatch.chdir(tmp_path / "project")
    inside, outside = tmp_path / "project" / "a.md", tmp_path / "b.md"
    assert read_file(Path("a.md"), max_bytes=1) == ("a.md", b"x")
    assert read_file(inside, max_bytes=1)[0] == "a.md"
    assert read_file(outside, max_bytes=1)[0] == outside.resolve().as_posix()


def test_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    """The size is looked at first; what has none, or grows, is read up to the limit."""
    make(tmp_path, "a.md", text="x" * 101)
    with pytest.raises(DocumentTooLarge, match=r"a\.md has 0\.0 MB; MAX_DOCUMENT_BYTES"):
        read_file(tmp_path / "a.md", max_bytes=100)
    assert len(read_file(tmp_path / "a.md", max_bytes=101)[1]) == 101
    endless = Path("/proc/self/status")  # says that it has no bytes, and has some
    if endless.exists():
        with pytest.raises(DocumentTooLarge, match="status has more than"):
            read_file(endless, max_bytes=10)


def test_a_hundred_megabytes_of_text_are_not_even_opened(tmp_path: Path) -> None:
    """A file of such a size costs nothing; nobody may read this one."""
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(100_000_000)
    (tmp_path / "big.txt").chmod(0)
    with pytest.raises(DocumentTooLarge, match=r"big\.txt has 100\.0 MB"):
        read_file(tmp_path / "big.txt", max_bytes=20_000_000)


def test_standard_input_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no further than the limit."""
    assert read_stdin(io.BytesIO(b"text"), max_bytes=4) == ("stdin", b"text")
    with pytest.raises(DocumentTooLarge, match="standard input has more than"):
        read_stdin(io.BytesIO(b"text"), max_bytes=3)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
    assert read_stdin(max_bytes=9) == ("stdin", b"typed")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad\udcff.md", "is not valid Unicode"),
        *((f"a{character}b", "holds control characters") for character in "\0\r\t\n\x1b\x7f\x9b\u202e\u2066"),
        ("", "the name is empty"),
        (" \n", "the name is empty"),
    ],
)
def test_a_name_that_cannot_be_stored_or_shown_is_refused(name: str, reason: str) -> None:
    """File systems allow what no database takes and what a terminal obeys; the message shows it in a printable form."""
    with pytest.raises(InvalidInput, match=reason) as caught:
        check_name(name)
    assert caught.value.message.isprintable()


def test_a_name_in_any_script_is_taken() -> None:
    """Also with the marks that right-to-left text and families of emoji need."""
    check_name("\u05d0\u200f b\u00a0\U0001f469\u200d\U0001f467.md")


def test_the_name_of_a_file_is_checked_before_it_is_said(tmp_path: Path) -> None:
    """A file that is too large as well is refused with a message that a terminal shows."""
    make(tmp_path, "a\x1b[2Jb.md", text="too long")
    with pytest.raises(InvalidInput, match="control characters") as caught:
        read_file(tmp_path / "a\x1b[2Jb.md", max_bytes=1)
    assert caught.value.message.isprintable()


def test_a_name_that_no_index_holds_is_refused() -> None:
    """The limit is in bytes, as the database counts."""
    check_name("\u00e9" * 1_000)
    with pytest.raises(InvalidInput, match="more than 2,000 bytes"):
        check_name("\u00e9" * 1_001)


def test_a_hash_tells_contents_apart() -> None:
    """SHA-256, so that nobody can make two that are equal."""
    assert hash_content(b"a") == hash_content(b"a") != hash_content(b"b")
    assert len(hash_content(b"")) == 64
