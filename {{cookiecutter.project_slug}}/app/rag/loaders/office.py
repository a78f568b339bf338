"""The properties that DOCX, PPTX and XLSX keep in the same place: title, author, date."""

import io
import zipfile
from xml.etree import ElementTree as ET

PROPERTIES = "docProps/core.xml"
NAMES = {"title": "title", "creator": "author", "created": "date", "subject": "subject", "keywords": "keywords"}
DAY = len("2026-01-31")


def read_properties(data: bytes) -> tuple[str, dict[str, str]]:
    """Give the title, and the rest as metadata; the archive has been checked, so its XML has no entities."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if PROPERTIES not in archive.namelist():
            return "", {}
        root = ET.fromstring(archive.read(PROPERTIES))  # noqa: S314  # see above
    found = {NAMES.get(item.tag.rpartition("}")[2], ""): (item.text or "").strip() for item in root}
    if "date" in found:
        found["date"] = found["date"][:DAY]
    title = found.pop("title", "")
    return title, {name: value for name, value in found.items() if name and value}
