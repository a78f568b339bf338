"""`app explain`: where each passage came from, and why there is or is no answer. Shows; decides nothing."""

import asyncio
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from app.db.search import Search, Word
from app.gateway import offline
from app.prompts.fence import fence, neutral, read_fences
from app.prompts.loader import load_prompt
from app.rag.asking import checked_filter, checked_question
from app.rag.reading import fitting
from app.rag.retrieval import Candidate, Retrieval, Retriever
from app.session import key_value, opened, out
from app.settings import Settings
from app.types import Filter, Passage

cli = typer.Typer()

MOST_BELOW = 5
MOST_SENTENCES = 5
EXCERPT = 200  # characters
HIGH, LOW = 0.66, 0.33
HTML_WIDTH = 150  # characters
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>TITLE</title>
<body style="background: {background}; color: {foreground}; margin: 2rem">
<pre style="font: 14px/1.4 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto">{code}</pre>
</body>
</html>
"""


@dataclass(frozen=True)
class Explained:
    """Everything that is shown: what was found, what the model reads of it, and the sentences, if it quotes them."""

    retrieval: Retrieval
    stop_words: Sequence[str]
    read: Sequence[Passage]
    sentences: Sequence[offline.Candidate]
    settings: Settings


@cli.command(rich_help_panel="Documents")
def explain(
    question: Annotated[str, typer.Argument(help="In quotes; - reads it from standard input.")],
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only documents with this metadata; may be repeated.")
    ] = None,
    below: Annotated[str, typer.Option(metavar="PATH", help="Only documents whose source begins so.")] = "",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page instead.")] = None,
) -> None:
    """Show how a question finds its passages: every score, and what became of every candidate."""
    filters = Filter(dict(key_value(given, "--where") for given in where or []), below)
    shown = Group(*_sections(asyncio.run(_explain(sys.stdin.read() if question == "-" else question, filters))))
    if html is None:
        out.print(shown)
    else:
        html.write_text(_page(shown, question), encoding="utf-8")
        out.print(Text(f"written to {html}"))


async def _explain(question: str, filters: Filter) -> Explained:
    async with opened() as (database, gateway, settings):
        question, limits = checked_question(question, settings), checked_filter(filters)
        retrieval = await Retriever(database, gateway, settings).search(question, filters=limits)
        async with database.transaction() as connection:
            stop_words = await Search(connection, database.tenant).stop_words(question)
        prompt, asked = load_prompt(settings.answer_prompt), neutral(question)
        empty = prompt.messages(passages="", question=asked)
        read = await fitting(retrieval.passages, empty, gateway=gateway, settings=settings)
        full = prompt.messages(passages=fence(read), question=asked)
        quotes = settings.chat.model == offline.EXTRACTIVE
        return Explained(retrieval, stop_words, read, offline.rank(*read_fences(full)) if quotes else (), settings)


def _page(shown: RenderableType, question: str) -> str:
    """One HTML file with everything in it; rich escapes what it shows."""
    page = Console(record=True, width=HTML_WIDTH, file=io.StringIO())
    page.print(shown)
    title = escape(question).replace("{", "&#123;").replace("}", "&#125;")
    return page.export_html(inline_styles=True, code_format=PAGE.replace("TITLE", title))


def _sections(explained: Explained) -> Iterator[RenderableType]:
    """In the order of the flow."""
    found, settings = explained.retrieval, explained.settings
    yield Text(found.question, style="bold")
    yield from (Text(f"also searched for: {query}") for query in found.queries[1:])
    yield from (Text(f"note: {note}", style="yellow") for note in found.notes)
    yield _title("1", "The words of the question")
    yield _indented(*_words(found, explained.stop_words))
    yield _title("2", f"The candidates: the best of {found.found}")
    yield _indented(_candidates(explained), _legend(settings))
    yield _title("3", f"What the model reads: {len(explained.read)} passages")
    yield _indented(_excerpts(explained.read))
    yield _title("4", "The answer")
    yield _indented(*(_verdict(explained) if settings.chat.model == offline.EXTRACTIVE else _left_to(settings)))


def _title(number: str, title: str) -> RenderableType:
    return Padding(Rule(Text(f"{number}. {title}", style="bold"), align="left", style="dim"), (1, 0, 0, 0))


def _indented(*parts: RenderableType) -> RenderableType:
    return Padding(Group(*parts), (0, 0, 0, 2))


def _table(*columns: str) -> Table:
    """A column whose name begins with > holds numbers; the one called passage or sentence gives way to the others."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name, gives_way = column.removeprefix(">"), column in {"passage", "sentence"}
        table.add_column(name, justify="right" if name != column else "left", no_wrap=not gives_way)
    return table


def _line(*parts: str | tuple[str, str]) -> Text:
    """Text in pieces with their styles, on one line, cut where there is no room."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _words(found: Retrieval, stop_words: Sequence[str]) -> Iterator[RenderableType]:
    """What each word of the question is worth, the rarest first."""
    if found.words.words:
        table = _table("word", ">asked", ">in chunks", ">idf", "")
        for word in found.words.words:
            table.add_row(Text(word.lexeme), f"{word.asked}x", f"{word.held:,}", f"{word.idf:.2f}", _remark(word))
        yield table
        yield Text(
            f"Words are cut to their stems and looked up in {found.words.chunks:,} chunks. The fewer hold a word, the "
            "more it tells: that is its idf, the inverse document frequency.",
            style="dim",
        )
    else:
        yield Text("No word is left to search for: only the meaning is compared.")
    yield Text(f"Left out, as words that every text has: {', '.join(stop_words) or 'none'}.", style="dim")


def _remark(word: Word) -> str:
    if not word.held:
        return "stands in no chunk"
    return "" if word.proposes else "too common to propose candidates; it counts in their scores"


def _candidates(explained: Explained) -> RenderableType:
    """A line each: all that were read or dropped for a reason, and the best of those below the cut."""
    found, reranks = explained.retrieval, explained.settings.rerank != "off"
    columns = ("#", "passage", ">words", ">0-1", ">meaning", ">0-1", ">fused", *[">reranked"] * reranks, "outcome")
    table, below = _table(*columns), 0
    markers = {passage.chunk_id: n for n, passage in enumerate(explained.read, 1)}
    for place, candidate in enumerate(found.candidates, 1):
        below += candidate.fate == "below"
        if candidate.fate == "below" and below > MOST_BELOW:
            continue
        passage, score = candidate.passage, candidate.score
        table.add_row(
            str(place),
            _where(passage),
            _number(passage.keyword, ".2f"),
            _share(score.keyword_share),
            _number(passage.dense, ".3f"),
            _share(score.dense_share),
            Text(f"{score.fused:.3f}", style="bold"),
            *[_number(passage.rerank, ".2f")] * reranks,
            _outcome(candidate, markers),
        )
    more = found.found - len(found.candidates) + max(0, below - MOST_BELOW)
    return Group(table, Text(f"and {more} more below the cut\n" if more else "", style="dim"))


def _where(passage: Passage) -> Text:
    page = f" (page {passage.page})" if passage.page else ""
    return _line(passage.source, (f"{page} > {passage.heading.removeprefix(f'{passage.title} > ')}", "dim"))


def _number(value: float | None, form: str) -> Text:
    return Text("none", style="dim") if value is None else Text(format(value, form))


def _share(share: float) -> Text:
    return Text(f"{share:.2f}", style="green" if share >= HIGH else "dim" if share < LOW else "")


def _outcome(candidate: Candidate, markers: Mapping[int, int]) -> Text:
    """What became of it, with the number of the passage in the prompt."""
    marker = markers.get(candidate.passage.chunk_id)
    other = markers.get(candidate.of or 0)
    of = f"[{other}]" if other else "another"
    match candidate.fate:
        case "duplicate":
            return Text(f"says the same as {of}", style="yellow")
        case "merged":
            return Text(f"neighbour, part of {of}", style="green")
        case "read":
            return Text(f"read as [{marker}]", style="green") if marker else Text("no room", style="yellow")
        case "below":
            return Text("below the cut", style="dim")


def _legend(settings: Settings) -> RenderableType:
    """Each column in a sentence."""
    weight = settings.dense_weight
    fused = {
        "weighted": f"{1 - weight:.2g} x words + {weight:.2g} x meaning, each from 0 to 1 (DENSE_WEIGHT={weight:g}).",
        "rrf": "1 / (60 + place) for the place on each of the two lists, added (FUSION=rrf).",
    }
    lines = {
        "words": "The BM25 score: how many of the question's words stand there, the rare ones counting more.",
        "meaning": "The cosine of the angle between the two vectors: 1 is the same direction, 0 is unrelated.",
        "0-1": "Where that score lies between the lowest and the highest candidate, so that the two can be added.",
        "fused": fused[settings.fusion],
        "reranked": f"What RERANK={settings.rerank} gave after reading both texts together; it decides the order.",
        "outcome": f"The model reads the best {settings.passages} (PASSAGES) as [1], [2] and so on.",
    }
    table = Table.grid(padding=(0, 2))
    for column, sentence in lines.items():
        if column != "reranked" or settings.rerank != "off":
            table.add_row(Text(column, style="bold"), Text(sentence, style="dim"))
    return table


def _excerpts(passages: Sequence[Passage]) -> RenderableType:
    """Where each stands, and how it begins."""
    table = Table.grid(padding=(0, 1))
    for number, passage in enumerate(passages, 1):
        short = shorten(passage.text, EXCERPT, placeholder=" ...")
        table.add_row(Text(f"[{number}]", style="bold"), Group(_where(passage), Text(short, style="dim")))
    return table


def _verdict(explained: Explained) -> Iterator[RenderableType]:
    """The best sentences of the model that quotes, and what their scores add up."""
    if not explained.sentences:
        yield Text("It abstains: no sentence can be compared with the question.", style="yellow")
        return
    best, limit = explained.sentences[0], explained.settings.abstain_below
    parts = [name for name in best.parts if any(s.parts[name] for s in explained.sentences[:MOST_SENTENCES])]
    table = _table(">score", *(">" + name.replace(" ", "\n", 1) for name in parts), "sentence")
    for sentence in explained.sentences[:MOST_SENTENCES]:
        added = (_share_of_score(sentence.parts[name]) for name in parts)
        quoted = _line((f"[{sentence.marker}] ", "bold"), sentence.text)
        table.add_row(Text(f"{sentence.score:.3f}", style="bold"), *added, quoted)
    yield table
    if best.score >= limit:
        yield Text(f"It answers: the best sentence scores {best.score:.3f}, and ABSTAIN_BELOW is {limit:g}.", "green")
    else:
        yield Text(f"It abstains: the best sentence scores {best.score:.3f}, below ABSTAIN_BELOW={limit:g}.", "yellow")
        yield from (Text(f"- {why}") for why in _why(best, explained.retrieval.question))


def _share_of_score(value: float) -> Text:
    return Text(f"{value + 0.0:+.2f}", style="red" if value < 0 else "")  # and not -0.00


def _why(best: offline.Candidate, question: str) -> Iterator[str]:
    """What keeps the best sentence from a better score."""
    if missing := sorted(offline.terms(question) - best.terms):
        yield f"it does not hold these words of the question: {', '.join(missing)}"
    if best.parts["unknown name"]:
        yield "the question names something that no passage mentions"
    if best.parts["no figure"]:
        yield "the question asks for a figure, and the sentence has none"


def _left_to(settings: Settings) -> Iterator[RenderableType]:
    yield Text(f"{settings.chat.model} reads these passages and decides. It answers only with quotes from them that")
    yield Text("hold: where none does, there is no answer. Ask with `app ask` to see it.")
