"""How much of what was found the model reads: the best passages, as many as fit whole.

Knows nothing of what they say.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from app.gateway import litellm_adapter, prices
from app.gateway.gateway import Gateway
from app.prompts.fence import fence
from app.settings import Settings
from app.types import Message, Passage

# UTF-8 bytes a token: four characters of English.
BYTES_PER_TOKEN = 4
# With less the model could not answer anything; where even that is too much, the provider says so.
FEWEST_BYTES = 400
ENDS_WELL = re.compile(r"[.!?][\"')\]\u201d]*\s|[\u3002\uff01\uff1f]|\n")


async def fitting(
    passages: Sequence[Passage], messages: list[Message], *, gateway: Gateway, settings: Settings
) -> list[Passage]:
    """The first passages, up to PASSAGE_TOKENS and to what every model of the role can read beside `messages`.

    The first one is cut at the end of a sentence or a line where it alone is too long.
    """
    left = await _room(messages, gateway, settings)
    chosen: list[Passage] = []
    for passage in passages:
        size = _size(passage)
        if size > left:
            break
        chosen.append(passage)
        left -= size
    return chosen or [_cut(passage, left) for passage in passages[:1]]


async def _room(messages: list[Message], gateway: Gateway, settings: Settings) -> int:
    """In bytes."""
    used = prices.largest_usage(messages, {"max_tokens": settings.max_output_tokens})
    rooms = [settings.passage_tokens * BYTES_PER_TOKEN]
    for deployment in gateway.deployments():
        reads = (await litellm_adapter.facts(deployment)).context_tokens
        if reads:
            rooms.append((reads - used.input_tokens - used.output_tokens) * prices.BYTES_PER_TOKEN)
    return max(FEWEST_BYTES, min(rooms))


def _size(passage: Passage) -> int:
    return len(fence([passage]).encode())


def _cut(passage: Passage, size: int) -> Passage:
    around = _size(replace(passage, text=""))
    text = passage.text.encode()[: max(FEWEST_BYTES // 2, size - around)].decode(errors="ignore")
    ends = [end.end() for end in ENDS_WELL.finditer(text)]
    text = text[: ends[-1] if ends else len(text)].rstrip()
    return replace(passage, text=text, end=passage.start + len(text))
