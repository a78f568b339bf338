"""Contextual retrieval: the chat model places each chunk in its document, in a sentence or two that are searched too.

After Anthropic, "Introducing Contextual Retrieval" (2024-09-19). What was written is kept by the hash of all that the
model was asked, so nothing is paid for twice. Knows nothing of how chunks are made, embedded or stored.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from app.db.contexts import read_contexts, write_context
from app.db.engine import Database
from app.errors import AppError, ConfigurationError, ProviderGarbled
from app.gateway.context import CallContext
from app.gateway.gateway import Gateway
from app.gateway.prices import BYTES_PER_TOKEN
from app.prompts.fence import neutral
from app.prompts.loader import load_prompt
from app.settings import Settings
from app.types import Chunk, Document, Message

DOCUMENT_TOKENS = 4_000
"""The model sees no more of the document, about: the whole of it, or what stands around the chunk."""
MOST_CHARACTERS = 300  # of a context
CALLS_AT_A_TIME = 8


async def add_contexts(
    document: Document,
    chunks: Sequence[Chunk],
    *,
    database: Database,
    gateway: Gateway,
    settings: Settings,
    api_key_id: str = "",
) -> list[Chunk]:
    """The chunks with their `context`; as they came where CONTEXTUAL_CHUNKS is off. The key's account pays.

    Raises:
        ConfigurationError: the chat model is offline, and does not write.
        ProviderError: the model failed; what it wrote before is kept for the next time.
        BudgetExceeded: nothing is left for today, as above.

    """
    if not settings.contextual_chunks:
        return list(chunks)
    model = gateway.deployments()[0].model
    if gateway.deployments()[0].is_offline:
        raise ConfigurationError(
            f"CONTEXTUAL_CHUNKS=true needs a model that writes, and {model} quotes: set CHAT_MODEL"
        )
    keys = [_key(model, _messages(document, chunk)) for chunk in chunks]
    async with database.transaction() as connection:
        known = await read_contexts(connection, database.tenant, keys)
    missing = {key: chunk for key, chunk in zip(keys, chunks, strict=True) if key not in known}
    known |= await _write(document, missing, database, gateway, api_key_id)
    return [replace(chunk, context=known[key]) for key, chunk in zip(keys, chunks, strict=True)]


async def _write(
    document: Document, missing: dict[str, Chunk], database: Database, gateway: Gateway, api_key_id: str
) -> dict[str, str]:
    """Ask for those contexts, each stored as it comes. After a failure no further call begins."""
    left, written = list(reversed(missing.items())), dict[str, str]()

    async def work() -> None:
        while left:
            key, chunk = left.pop()
            try:
                context = gateway.context(tenant=database.tenant, api_key_id=api_key_id)
                written[key] = await _ask(_messages(document, chunk), context, gateway)
                async with database.transaction() as connection:
                    await write_context(connection, database.tenant, document.source, key, written[key])
            except AppError:
                left.clear()
                raise

    # Calls under way when another one fails are waited for, since they have to be paid for.
    workers = [work() for _ in range(CALLS_AT_A_TIME)]
    for failure in filter(None, await asyncio.gather(*workers, return_exceptions=True)):
        raise failure
    return written


async def _ask(messages: list[Message], context: CallContext, gateway: Gateway) -> str:
    """One context; nothing where the model refuses, which it would do the next time too."""
    completion = await gateway.complete(messages, context=context, parameters={"temperature": 0})
    storable = completion.text.replace("\0", " ").encode(errors="ignore").decode()  # without halves of characters
    text = " ".join(storable.split())[:MOST_CHARACTERS].strip()
    if not text and not completion.refusal:
        raise ProviderGarbled(f"{completion.model} wrote no context for a chunk; is MAX_OUTPUT_TOKENS too small?")
    return text


def _messages(document: Document, chunk: Chunk) -> list[Message]:
    return load_prompt("context").messages(
        title=neutral(document.title), document=neutral(_around(document.text, chunk)), chunk=neutral(chunk.text)
    )


def _around(text: str, chunk: Chunk) -> str:
    """The whole text, or of a long one what stands within DOCUMENT_TOKENS / 2 before and after the chunk.

    A change farther away leaves the prompt as it was, and so the context.
    """
    most = DOCUMENT_TOKENS * BYTES_PER_TOKEN
    if len(text) <= most and len(text.encode()) <= most:
        return text
    half = most // 2
    before = text[max(0, chunk.start - half) : chunk.start].encode()[-half:].decode(errors="ignore")
    after = text[chunk.end : chunk.end + half].encode()[:half].decode(errors="ignore")
    return before + text[chunk.start : chunk.end] + after


def _key(model: str, messages: list[Message]) -> str:
    """The hash of all that the model is asked: prompt, title, document or its part, and chunk."""
    return hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()
