"""Puts uploads into the queue. Knows nothing of how they are read."""

import hashlib

from app.jobs.queue import Queue

TASK = "ingest_upload"


async def put_upload(queue: Queue, tenant: str, upload_id: str, source: str, *, before: int) -> None:
    """Have an upload read, when `before` others of its tenant are. Every tenant's first comes before anybody's second.

    Uploads of one name are read one by one, so that the last one wins.

    Raises:
        DatabaseUnavailable: the queue cannot be reached.

    """
    lock = hashlib.sha256(f"{tenant}\0{source}".encode()).hexdigest()  # a name is text, too
    await queue.put(TASK, lock=lock, once=upload_id, priority=-before, tenant=tenant, upload_id=upload_id)
