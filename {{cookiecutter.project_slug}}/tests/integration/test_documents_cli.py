"""`app ingest`, `documents`, `verify` and `reembed`, as the shell calls them: what is printed, and the exit status."""

import asyncio
import re
from pathlib import Path

import pytest
from sqlalchemy import text

from app.commands import documents as commands
from app.db.engine import connect
from app.errors import InvalidInput
from tests.integration.conftest import TEA, Command
from tests.provider import Provider

NOTHING = "0 documents read (0 new, 0 changed; 0 chunks, 0 embedded)"
COFFEE = "# Coffee\n\nCoffee is brewed at ninety degrees.\n"


def damage(url: str, statement: str) -> None:
    """Change the database behind the application's back, as its owner."""

    async def run() -> None:
        async with connect(url) as database, database.engine.begin() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))  # without foreign keys
            await connection.execute(text(statement))

    asyncio.run(run())


def test_ingest_sums_up_what_it_did(app: Command) -> None:
    """New documents are read, what has not changed is left alone, and what has is read again."""
    first, second = app("ingest", "docs"), app("ingest", "docs")
    assert first.status == second.status == 0
    assert re.fullmatch(
        r"1 documents read \(1 new, 0 changed; 1 chunks, 1 embedded\), 0 unchanged, 0 removed, 0 skipped; \d+\.\d s",
        first.out,
    )
    assert second.out.startswith(f"{NOTHING}, 1 unchanged, 0 removed, 0 skipped; ")
    Path("docs/tea.md").write_text(COFFEE)
    assert app("ingest", "docs").out.startswith("1 documents read (0 new, 1 changed; 1 chunks, 1 embedded)")


def test_ingest_ends_with_1_where_a_file_was_skipped(app: Command) -> None:
    """The other files are read, and the skipped one is named with the reason."""
    Path("docs/empty.md").touch()
    ended = app("ingest", "docs")
    assert ended.status == 1
    assert ended.out.startswith("1 documents read")
    assert ended.out.endswith("\n  skipped docs/empty.md: docs/empty.md is empty")


def test_rebuild_reads_and_embeds_everything_again(app: Command) -> None:
    """Nothing counts as unchanged, each document is replaced in its turn, and none is forgotten."""
    app("ingest", "docs")
    Path("other.md").write_text(COFFEE)
    app("ingest", "other.md")
    again = app("ingest", "--rebuild", "docs")
    assert again.out.startswith("1 documents read (0 new, 1 changed; 1 chunks, 1 embedded)")
    assert "other.md" in app("documents").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere",), "nowhere does not exist"),
        (("empty",), "there are no files in empty"),
        (("docs/*.txt",), "no file fits the pattern docs/*.txt"),
        (("docs", "--metadata", "team"), "--metadata takes KEY=VALUE, and this is 'team'"),
        (("docs/tea.md", "--sync"), "--sync removes what is no longer in a folder: name one"),
        (("docs", "empty", "--sync"), "there are no files in empty: --sync would remove everything"),
    ],
)
def test_a_mistake_is_one_line(app: Command, arguments: tuple[str, ...], told: str) -> None:
    """A typing error ends with 2, says what is wrong, and nothing is read."""
    Path("empty").mkdir()
    ended = app("ingest", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {told}")
    assert "tea.md" not in app("documents").out


def test_files_patterns_and_standard_input_are_read(app: Command) -> None:
    """Each under its own name; metadata is given to all of them, and shown."""
    Path("docs/coffee.md").write_text(COFFEE)
    ended = app("ingest", "docs/t*.md", "docs/coffee.md", "-", "--name", "water", "--metadata", "a=b", stdin="Water.")
    assert (ended.status, ended.out.partition(" (")[0]) == (0, "3 documents read")
    listed = app("documents").out
    for source, origin in (("docs/tea.md", "file"), ("docs/coffee.md", "file"), ("water", "stdin")):
        assert re.search(rf"{source} .*{origin} +│ a=b ", listed)
    assert app("ingest", "-", "--name", "water", stdin="Water.").out.startswith(f"{NOTHING}, 1 unchanged")


def test_what_cannot_be_read_from_elsewhere_is_skipped(app: Command) -> None:
    """An address is refused while ALLOW_URLS is off, and empty standard input is no document."""
    ended = app("ingest", "https://example.org/tea.md", "-", "docs")
    assert ended.status == 1
    assert ended.out.startswith("1 documents read")
    assert "skipped https://example.org/tea.md: " in ended.out
    assert "ALLOW_URLS" in ended.out
    assert "skipped stdin: stdin is empty" in ended.out


def test_an_address_is_read(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gives is a document under its address."""
    from app.rag import fetch  # noqa: PLC0415  # loaded where it is used

    async def give(url: str, _: object) -> fetch.Fetched:
        if url.endswith("gone.md"):
            raise InvalidInput("there is nothing")
        return fetch.Fetched(url, TEA.encode())

    monkeypatch.setattr(fetch, "fetch", give)
    ended = app("ingest", "https://example.org/tea.md", "https://example.org/gone.md")
    assert (ended.status, ended.out.partition(" (")[0]) == (1, "1 documents read")
    assert re.search(r"https://example\.org/tea\.md .* url ", app("documents").out)


def test_sync_removes_what_has_left_the_folder(app: Command) -> None:
    """Files that are gone go, those that cannot be read any more stay, and so does what came from elsewhere."""
    for name in ("gone", "broken"):
        Path(f"docs/{name}.md").write_text(COFFEE)
    Path("other.md").write_text(COFFEE)
    app("ingest", ".")
    Path("docs/gone.md").unlink()
    Path("other.md").unlink()
    Path("docs/broken.md").write_text("")
    assert "0 removed" in app("ingest", "docs").out
    ended = app("ingest", "--sync", "docs")
    assert ended.status == 1
    assert "1 unchanged, 1 removed, 1 skipped" in ended.out
    listed = app("documents").out
    assert "docs/gone.md" not in listed
    assert all(name in listed for name in ("docs/tea.md", "docs/broken.md", "other.md"))
    assert "1 removed" in app("ingest", "--sync", ".").out


def test_a_name_cannot_command_the_terminal(app: Command) -> None:
    """A file whose name holds an escape sequence is skipped, and told without it."""
    Path("docs/red\x1b[31m\n.md").write_text(COFFEE)
    ended = app("ingest", "docs")
    assert ended.status == 1
    assert "skipped docs/red?[31m?.md: " in ended.out.replace(str(Path.cwd()) + "/", "")
    assert "\x1b" not in ended.out


def test_sync_distrusts_an_empty_working_directory(app: Command, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What another folder holds does not show that this one's documents are really gone."""
    app("ingest", ".")
    other = tmp_path_factory.mktemp("other")
    (other / "coffee.md").write_text(COFFEE)
    Path("docs/tea.md").unlink()
    ended = app("ingest", "--sync", ".", str(other))
    assert ended.status == 2
    assert "there are no files in .: --sync would remove everything that came from it" in ended.err
    assert "docs/tea.md" in app("documents").out


def test_a_dry_run_says_what_would_be_done(app: Command) -> None:
    """Line by line, and nothing is done."""
    Path("docs/gone.md").write_text(COFFEE)
    Path("docs/same.md").write_text(COFFEE)
    app("ingest", "docs")
    before = app("documents").out
    Path("docs/gone.md").unlink()
    Path("docs/tea.md").write_text(COFFEE)
    Path("docs/new.md").write_text(COFFEE)
    Path("docs/empty.md").touch()
    ended = app("ingest", "--dry-run", "--sync", "docs")
    assert ended.status == 1
    assert ended.out.splitlines() == [
        "would add 1, change 1, remove 1, leave 1, skip 1",
        "  add docs/new.md",
        "  change docs/tea.md",
        "  remove docs/gone.md",
        "  skipped docs/empty.md: docs/empty.md is empty",
    ]
    assert app("documents").out == before


def test_verify_finds_nothing_wrong_with_what_was_ingested(app: Command) -> None:
    """Status 0, and a line for each check."""
    app("ingest", "docs")
    ended = app("verify")
    assert (ended.status, ended.out.splitlines()[-1]) == (0, "the index holds together")
    assert [line.split("│")[2].strip() for line in ended.out.splitlines() if line.startswith("│")] == ["0"] * 12


@pytest.mark.parametrize(
    ("statement", "check", "repair"),
    [
        ("UPDATE documents SET chunk_count = 7", "as many chunks as they say", "--rebuild"),
        ("UPDATE documents SET term_count = 7", "as many terms as they say", "--rebuild"),
        ("DELETE FROM postings WHERE term = 'tea'", "as many terms as they say", "--rebuild"),
        ("UPDATE postings SET length = length + 1 WHERE term = 'tea'", "know their length", "--rebuild"),
        ("UPDATE chunks SET ordinal = 3", "numbered without a gap", "--rebuild"),
        ("UPDATE chunks SET start_char = start_char + 1", "word for word", "--rebuild"),
        ("UPDATE chunks SET heading = 'other'", "the hash of what they say", "--rebuild"),
        ("DELETE FROM documents", "chunks of a document", "--rebuild"),
        ("DELETE FROM chunks", "postings of a chunk", "--rebuild"),
        ("DELETE FROM chunks", "vectors of a chunk and a model", "app reembed"),
        ("DELETE FROM embeddings", "a vector of each model", "app reembed"),
        ("UPDATE embeddings SET dimensions = 3", "model's dimensions", "app reembed --drop MODEL`, then"),
        ("UPDATE embeddings SET embedding = '[1]'", "model's dimensions", "app reembed --drop MODEL`, then"),
        ("UPDATE index_stamps SET ready = false", "models that are ready", "app reembed"),
    ],
)
def test_verify_finds_what_is_wrong(app: Command, database_url: str, statement: str, check: str, repair: str) -> None:
    """The check that fails counts its faults, the status is 1, and the last lines say what repairs it."""
    app("ingest", "docs")
    damage(database_url, statement)
    ended = app("verify")
    assert ended.status == 1
    assert re.search(rf"{check} +│ [1-9]", ended.out)
    assert repair in ended.out.partition("└")[2]


@pytest.mark.parametrize("changed", ["dimensions = 3", "embedding = '[1]'"])
def test_what_verify_names_for_wrong_vectors_repairs_them(app: Command, database_url: str, changed: str) -> None:
    """Also where they are of the only model."""
    app("ingest", "docs")
    damage(database_url, f"UPDATE embeddings SET {changed}")
    assert app("verify").status == 1
    assert app("reembed", "--drop", "offline/static").status == 0
    assert app("reembed").out.startswith("1 of 1 chunks were embedded")
    assert app("verify").status == 0


def test_reembed_adds_a_second_model_and_drop_removes_the_first(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another model refuses names the command; after it both work, and the old one can go."""
    app("ingest", "docs")
    with Provider() as provider:
        monkeypatch.setenv("EMBEDDING_MODEL", "openai/new")
        monkeypatch.setenv("EMBEDDING_API_BASE", provider.url)
        refused = app("ingest", "docs")
        assert refused.status == 2
        assert "`EMBEDDING_MODEL=openai/new app reembed`" in refused.err
        ended = app("reembed")
        assert (ended.status, ended.out.partition(":")[0]) == (
            0,
            "1 of 1 chunks were embedded with openai/new, and all have its vector now",
        )
        assert app("ingest", "docs").out.startswith(f"{NOTHING}, 1 unchanged")
        assert app("reembed", "--drop", "offline/static").out == "the vectors of offline/static are removed"
        assert app("reembed", "--drop", "offline/static").err == "error: the index holds no vectors of offline/static"


def test_what_ask_needs_is_one_call(app: Command) -> None:
    """The index is brought up to date with files and folders, and the summary is a line."""
    app("ingest", "docs")

    async def run() -> str:
        from app.session import opened  # noqa: PLC0415  # with the settings that the fixture made

        Path("docs/coffee.md").write_text(COFFEE)
        async with opened() as parts:
            return commands.summary(await commands.bring_up_to_date(parts, [Path("docs")]))

    assert asyncio.run(run()).startswith("1 documents read (1 new, 0 changed; 1 chunks, 1 embedded), 1 unchanged")
