"""/v1/answers: where the citations of an answer stand, to read them in their document."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import BaseModel

from app.api.deps import FromWork
from app.api.security import needs
from app.db.answers import read_answer, read_span
from app.errors import NotFound
from app.types import Answer, Citation

router = APIRouter(prefix="/v1/answers", tags=["answers"], dependencies=[needs("chat")])
AROUND = 1_500  # characters on each side of a quote


class CitedPlace(BaseModel):
    """A citation with the text around it.

    `changed` says that the quote does not stand there any more; then this is what the model read.
    """

    marker: int
    source: str
    title: str
    heading: str
    page: int | None
    before: str
    quote: str
    after: str
    changed: bool


@router.get("/{answer_id}/citations/{marker}")
async def read_citation(
    answer_id: UUID, marker: Annotated[int, Path(description="the number in the text")], work: FromWork
) -> CitedPlace:
    """Show where a citation of one of your answers stands: the quote, and about 1,500 characters on each side."""
    tenant, owner = work.caller.tenant, work.caller.owner
    async with work.database.transaction() as connection:
        answer = await read_answer(connection, tenant, owner, str(answer_id))
        citation = next((one for one in answer.citations if one.marker == marker), None)
        if citation is None:
            raise NotFound(f"the answer has no citation {marker}")
        begins = max(0, citation.start - AROUND)
        now = await read_span(connection, tenant, citation.source, begins, citation.end + AROUND) or ""
    before, quote, after = _parted(now, citation, begins)
    changed = quote != citation.quote
    if changed:
        before, after = _as_read(answer, citation)
    return CitedPlace(
        marker=marker,
        source=citation.source,
        title=citation.title,
        heading=citation.heading,
        page=citation.page,
        before=before,
        quote=citation.quote,
        after=after,
        changed=changed,
    )


def _as_read(answer: Answer, citation: Citation) -> tuple[str, str]:
    """What the model read before and after the quote."""
    for passage in answer.passages:
        before, quote, after = _parted(passage.text, citation, passage.start)
        if passage.source == citation.source and quote == citation.quote:
            return before, after
    return "", ""


def _parted(text: str, citation: Citation, begins: int) -> tuple[str, str, str]:
    """`text`, which begins at that character of the document, before the quote, where it stood, and after it."""
    start, end = max(0, citation.start - begins), max(0, citation.end - begins)
    return text[:start], text[start:end], text[end:]
