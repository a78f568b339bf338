"""/v1/documents: list, upload, delete."""

from pathlib import PurePosixPath

from fastapi import APIRouter, UploadFile
from pydantic import BaseModel

from app.api.deps import FromWork
from app.db import store
from app.db.store import StoredDocument
from app.errors import InvalidInput, NotFound
from app.rag.ingest import Ingester

router = APIRouter(prefix="/v1/documents", tags=["documents"])
BIGGEST_ID = 2**63 - 1


class DocumentList(BaseModel):
    """All documents, by source."""

    object: str = "list"
    data: list[StoredDocument]


class Ingested(BaseModel):
    """What became of an upload: added, changed, or `unchanged` when the same content was stored already."""

    source: str
    status: str
    chunks: int


@router.get("")
async def list_documents(work: FromWork) -> DocumentList:
    """List what can be asked about."""
    async with work.database.transaction() as connection:
        stored = await store.list_documents(connection, work.database.tenant)
    return DocumentList(data=stored)


@router.post("", status_code=201)
async def upload_document(file: UploadFile, work: FromWork) -> Ingested:
    """Add a document of a format that can be read; the same name again replaces it."""
    name = PurePosixPath((file.filename or "").replace("\\", "/")).name.replace("\0", "")
    if not name:
        raise InvalidInput("the upload has no file name")
    limit = work.settings.max_document_bytes
    data = await file.read(limit + 1)
    source = f"upload/{name}"
    async with Ingester(work.database, work.gateway, work.settings) as ingester:
        report = await ingester.ingest(data, source=source)
    status = "added" if report.added else "changed" if report.changed else "unchanged"
    return Ingested(source=source, status=status, chunks=report.chunks)


@router.delete("/{document_id}", status_code=204)
async def delete_document(document_id: int, work: FromWork) -> None:
    """Remove a document with everything made from it."""
    async with work.database.transaction() as connection:
        known = abs(document_id) <= BIGGEST_ID
        if not known or not await store.delete_document(connection, work.database.tenant, document_id):
            raise NotFound(f"there is no document {document_id}")
