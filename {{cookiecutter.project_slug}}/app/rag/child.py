"""The process that reads documents: `python -m app.rag.child MEMORY_BYTES SECONDS`, started by parsing.py.

It takes requests from standard input and answers on standard output, until its input ends. What it reads is not
trusted, so it limits itself before it reads, holds no secrets, and writes no files worth the name. A request or a
reply is one frame: the lengths of its two parts, a head in JSON, and bytes. Knows nothing of models or the database.
"""

import json
import math
import os
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import Any, BinaryIO

from app.errors import DocumentTooLarge, InvalidInput
from app.rag.chunking import split
from app.rag.loading import load_bytes

LENGTHS = struct.Struct(">II")
READY = {"ready": True}
GRACE = 2  # seconds beyond the limit after which a child ends itself, should nobody be left to end it
OPEN_FILES = 64
MOST_CHUNKS = 100_000
WRITTEN_BYTES = 4_000_000  # for what Python keeps of a library that it imports; documents need none

Frame = tuple[dict[str, Any], bytes]


def write_frame(stream: BinaryIO, head: dict[str, Any], body: bytes = b"") -> None:
    """Send one request or reply."""
    packed = json.dumps(head, ensure_ascii=False).encode(errors="surrogatepass")
    stream.write(LENGTHS.pack(len(packed), len(body)))
    stream.write(packed)
    stream.write(body)
    stream.flush()


def read_frame(stream: BinaryIO, *, max_bytes: int) -> Frame | None:
    """Take one request or reply; None at the end of the stream.

    Raises:
        ValueError: a part is cut, is longer than `max_bytes`, or is no JSON object.

    """
    start = stream.read(LENGTHS.size)
    if not start:
        return None
    if len(start) < LENGTHS.size or max(lengths := LENGTHS.unpack(start)) > max_bytes:
        raise ValueError("no frame of the length that is expected")
    head, body = map(stream.read, lengths)
    if (len(head), len(body)) != lengths:
        raise ValueError("the frame is cut")
    if not isinstance(values := json.loads(head), dict):
        raise ValueError("the head is no object")  # noqa: TRY004  # like everything else that is wrong with a frame
    return values, body


def answer(head: dict[str, Any], data: bytes) -> Frame:
    """Read and cut one document; what it was refused for is an answer as well."""
    cut = {name: head.pop(name) for name in ("max_characters", "overlap")}
    try:
        document = load_bytes(data, **head)
        chunks = split(document, **cut)
        if len(chunks) > MOST_CHUNKS:
            raise DocumentTooLarge(
                f"{document.source} makes {len(chunks):,} chunks; at most {MOST_CHUNKS:,} are allowed; split the file"
            )
    except InvalidInput as error:
        return {"error": type(error).__name__, "message": error.message}, b""
    facts = {name: getattr(document, name) for name in ("title", "media_type", "content_hash", "metadata")}
    # A heading that goes on for many chunks is sent once.
    headings = list(dict.fromkeys(chunk.heading for chunk in chunks))
    number = {heading: place for place, heading in enumerate(headings)}
    places = [[chunk.start, chunk.end, number[chunk.heading], chunk.page] for chunk in chunks]
    shape = {"page_starts": document.page_starts, "headings": headings, "chunks": places}
    return facts | shape, document.text.encode()


def serve(requests: BinaryIO, replies: BinaryIO, seconds: float) -> None:
    """Answer requests in turn."""
    write_frame(replies, READY)
    while request := read_frame(requests, max_bytes=sys.maxsize):
        limit_time(seconds)
        write_frame(replies, *answer(*request))
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_time(seconds: float) -> None:
    """End this process when it works, or waits, for longer than `seconds` from now: both default to death."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    used = math.ceil(time.process_time() + seconds + GRACE)
    resource.setrlimit(resource.RLIMIT_CPU, (used if most == resource.RLIM_INFINITY else min(used, most), most))
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)


def limit_resources(memory_bytes: int) -> None:  # pragma: no cover  # tested in a process that may be limited
    """Take away what reading a document does not need: more memory, new processes, large files, core dumps."""
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: WRITTEN_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_NPROC: 0,
    }
    for name, limit in limits.items():
        with suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(name, (limit, limit))


def main() -> None:  # pragma: no cover  # as above
    """Limit this process, and serve; whatever a library prints goes to standard error, not between the replies."""
    memory_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit_resources(memory_bytes)
    serve(sys.stdin.buffer, replies, seconds)


if __name__ == "__main__":  # pragma: no cover  # as above
    main()
