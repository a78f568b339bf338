"""/v1/documents: what can be asked about, and uploads of more."""

from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Query, Response, UploadFile
from pydantic import Field, TypeAdapter, ValidationError

from app.api.deps import FromWork, Limit, Page, page_of
from app.api.routes.uploads import Upload, accepted
from app.api.security import needs
from app.db import store
from app.db.store import StoredDocument
from app.db.uploads import SentFile, add_upload
from app.errors import InvalidInput, NotFound
from app.rag.asking import LONGEST_FILTER, MOST_FILTERS
from app.rag.sources import check_name, check_size

router = APIRouter(prefix="/v1/documents", tags=["documents"])
NUMBER = r"^[0-9]{1,18}$"
DocumentId = Annotated[str, Path(pattern=NUMBER)]
AfterNumber = Annotated[str | None, Query(pattern=NUMBER, description="the id after which to go on")]
WithoutNul = Annotated[str, Field(max_length=LONGEST_FILTER, pattern=r"^[^\x00]*$")]
Metadata = TypeAdapter(Annotated[dict[WithoutNul, WithoutNul], Field(max_length=MOST_FILTERS)])
Filed = Annotated[
    str,
    Form(
        description=f"a JSON object of up to {MOST_FILTERS} strings, which questions can be limited to",
        examples=['{"department": "sales"}'],
    ),
]
NEWEST = {"document_id": "$response.body#/first_id"}
UPLOAD = {"upload_id": "$response.body#/id"}
LISTED: dict[int | str, dict[str, Any]] = {
    200: {
        "links": {
            "document": {"operationId": "read_document", "parameters": NEWEST},
            "deletion": {"operationId": "delete_document", "parameters": NEWEST},
        }
    }
}
SENT: dict[int | str, dict[str, Any]] = {
    202: {
        "links": {
            "upload": {"operationId": "read_upload", "parameters": UPLOAD},
            "retry": {"operationId": "retry_upload", "parameters": UPLOAD},
            "deletion": {"operationId": "delete_upload", "parameters": UPLOAD},
        }
    }
}
reads, writes = needs("documents:read"), needs("documents:write")


@router.get("", dependencies=[reads], responses=LISTED)
async def list_documents(work: FromWork, limit: Limit = 20, after: AfterNumber = None) -> Page[StoredDocument]:
    """List what can be asked about, the newest first."""
    last = None if after is None else int(after)
    async with work.database.transaction() as connection:
        found = await store.page_of_documents(connection, work.caller.tenant, limit=limit + 1, before=last)
    return page_of(found, [str(one.id) for one in found], limit)


@router.post("", status_code=202, dependencies=[writes], responses=SENT)
async def upload_document(file: UploadFile, work: FromWork, response: Response, metadata: Filed = "{}") -> Upload:
    """Send a file. It is stored, and read in the background; the same name again replaces the document."""
    name = PurePosixPath((file.filename or "").replace("\\", "/")).name.replace("\0", "")
    if name in {"", ".", ".."}:
        raise InvalidInput("the upload has no file name")
    source, limit = f"upload/{name}", work.settings.max_document_bytes
    check_name(source)
    data = await file.read(limit + 1)
    check_size(name, len(data), limit)
    caller = work.caller
    sent = SentFile(caller.owner, caller.key_id, source, _metadata(metadata), data)
    async with work.database.transaction() as connection:
        stored = await add_upload(connection, caller.tenant, sent, most_bytes=work.settings.max_queued_bytes)
    return await accepted(work, stored, response)


@router.get("/{document_id}", dependencies=[reads])
async def read_document(document_id: DocumentId, work: FromWork) -> StoredDocument:
    """Say what is known of a document."""
    async with work.database.transaction() as connection:
        found = await store.read_document(connection, work.caller.tenant, int(document_id))
    if found is None:
        raise NotFound("there is no such document")
    return found


@router.delete("/{document_id}", status_code=204, dependencies=[writes])
async def delete_document(document_id: DocumentId, work: FromWork) -> None:
    """Remove a document with everything made from it. What is known of its upload stays."""
    async with work.database.transaction() as connection:
        if not await store.delete_document(connection, work.caller.tenant, int(document_id)):
            raise NotFound("there is no such document")


def _metadata(given: str) -> dict[str, str]:
    try:
        return Metadata.validate_json(given)
    except ValidationError:
        limits = f"up to {MOST_FILTERS} strings, each of up to {LONGEST_FILTER:,} characters and without NUL"
        raise InvalidInput(f"metadata must be a JSON object of {limits}") from None
