"""Puts uploads into the queue. Knows nothing of how they are read."""

import hashlib

from app.jobs.queue import Queue

TASK = "ingest_upload"


async def put_upload(queue: Queue, tenant: str, upload_id: str, source: str) -> None:
    """Have an upload read. Uploads of one name are read one by one, so that the last one wins.

    Raises:
        DatabaseUnavailable: the queue cannot be reached.

    """
    lock = hashlib.sha256(f"{tenant}\0{source}".encode()).hexdigest()  # a name is text, too
    await queue.put(TASK, lock=lock, once=upload_id, tenant=tenant, upload_id=upload_id)
