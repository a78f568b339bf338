"""The passages as the store has them: what is quoted is read from there, and read again before the answer is given.

Between the two a document may be replaced or removed. Knows nothing of models.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from app.db.answers import Stored, read_stored
from app.db.engine import Database
from app.rag.chunking import PLAIN, headings_of
from app.types import Citation, Passage


@dataclass(frozen=True)
class Evidence:
    """Passages with the text that stood in the store when this was read; "" where the document was gone."""

    passages: tuple[Passage, ...]
    stored: tuple[Stored, ...]
    _headings: dict[str, list[tuple[int, str]]] = field(default_factory=dict, compare=False, repr=False)

    def standing(self) -> "Evidence":
        """Without the passages that are gone."""
        kept = [n for n, passage in enumerate(self.passages) if passage.text]
        return Evidence(tuple(self.passages[n] for n in kept), tuple(self.stored[n] for n in kept))

    def settle(self, citation: Citation) -> Citation:
        """The same citation with the chunk, heading and page of its first word: a passage may hold several.

        In a document that is too large to be looked through again, the heading is the one that the chunk begins under.
        """
        stored = next(
            stored
            for passage, stored in zip(self.passages, self.stored, strict=True)
            if passage.source == citation.source and passage.start <= citation.start < passage.end
        )
        page = bisect_right(stored.page_starts, citation.start) or None
        holding = [chunk for chunk in stored.chunks if chunk[0] <= citation.start < chunk[1]]
        named = [chunk for chunk in holding if chunk[2] == citation.chunk_id]
        if not holding:
            return replace(citation, page=page)
        _, _, chunk_id, heading = (named or holding)[-1]
        above = self._heading_above(citation.start, citation.source, stored.document)
        return replace(citation, chunk_id=chunk_id, heading=above or heading, page=page)

    def _heading_above(self, start: int, source: str, document: str) -> str:
        """The path of titles at this place; each document is looked through once, when it is first cited."""
        if document and source not in self._headings:
            self._headings[source] = headings_of(document)
        headings = self._headings.get(source, ()) if document else ()
        above = bisect_right(headings, start, key=lambda heading: heading[0])
        return headings[above - 1][1] if above else ""


async def read_evidence(database: Database, passages: Sequence[Passage]) -> Evidence:
    """Look up every passage, in order."""
    async with database.transaction() as connection:
        stored = await read_stored(connection, database.tenant, passages, plain=PLAIN)
    texts = zip(passages, stored, strict=True)
    return Evidence(tuple(replace(passage, text=now.text) for passage, now in texts), tuple(stored))
