"""Plain text, as it is."""

from app.rag.loaders import Loaded


def load(data: bytes) -> Loaded:
    """UTF-8, without a byte order mark."""
    return Loaded([data.decode("utf-8-sig")])
