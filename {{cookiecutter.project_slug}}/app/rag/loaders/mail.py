"""An e-mail: its head, its body, and the names of what is attached."""

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

from bs4 import BeautifulSoup

from app.rag.loaders import Loaded
from app.rag.loaders.web import to_markdown

HEAD = ("From", "To", "Cc", "Date")


def load(data: bytes) -> Loaded:
    """The subject is the title; sender, receivers and date are metadata, and the first lines of the text."""
    message = message_from_bytes(data, policy=default)
    head = {name: " ".join(str(message[name]).split()) for name in HEAD if message[name]}
    attached = [name for part in message.walk() if (name := part.get_filename())]
    lines = [f"{name}: {value}" for name, value in head.items()]
    if attached:
        lines.append(f"Attached, not read: {', '.join(attached)}")
    metadata = {name.lower(): value for name, value in head.items()}
    if sent := getattr(message["Date"], "datetime", None):
        metadata["date"] = sent.date().isoformat()
    return Loaded(["\n".join(lines) + "\n\n" + _body(message)], str(message["Subject"] or ""), metadata)


def _body(message: EmailMessage) -> str:
    """The plain text, or else the HTML as Markdown."""
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    raw = part.get_payload(decode=True)
    text = _decoded(raw if isinstance(raw, bytes) else b"", part.get_content_charset("utf-8"))
    return to_markdown(BeautifulSoup(text, "html.parser")) if part.get_content_subtype() == "html" else text


def _decoded(raw: bytes, charset: str) -> str:
    """A letter that names a character set nobody knows is read as far as it goes."""
    try:
        return raw.decode(charset, errors="replace")
    except LookupError:
        return raw.decode(errors="replace")
