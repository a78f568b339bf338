"""The offline models in the shape in which litellm takes a provider, so that every deployment takes the same path.

A provider that litellm does not know is written like this one. Knows nothing of how the models work.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from app.gateway import offline
from app.types import Message


def handler(litellm: Any) -> Any:  # noqa: ANN401  # litellm ships no types, and its base class exists once it is loaded
    """The provider `offline`, as `custom_provider_map` takes it."""

    class OfflineModels(litellm.CustomLLM):  # type: ignore[misc]  # an untyped base
        async def acompletion(self, **call: Any) -> Any:  # noqa: ANN401  # litellm's reply, filled in
            text = await asyncio.to_thread(_extract, call)
            reply = call["model_response"]
            reply.choices[0].message.content = text
            reply.choices[0].finish_reason = "stop"
            reply.usage = litellm.Usage(**_counts(call["messages"], text))
            return reply

        async def astreaming(self, **call: Any) -> AsyncIterator[dict[str, Any]]:  # noqa: ANN401  # what litellm passes
            text = await asyncio.to_thread(_extract, call)
            words = text.split(" ")
            for n, word in enumerate(words, 1):
                last = n == len(words)
                yield {
                    "text": word if last else word + " ",
                    "is_finished": last,
                    "finish_reason": "stop" if last else "",
                    "usage": _counts(call["messages"], text) if last else None,
                    "index": 0,
                    "tool_use": None,
                }

        async def aembedding(self, **call: Any) -> Any:  # noqa: ANN401  # litellm's reply, filled in
            vectors = await asyncio.to_thread(offline.embed, f"offline/{call['model']}", call["input"])
            reply = call["model_response"]
            reply.model = call["model"]  # without it litellm writes all the numbers into an error that nobody reads
            reply.data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
            reply.usage = litellm.Usage(prompt_tokens=sum(len(text.split()) for text in call["input"]))
            reply._hidden_params["response_cost"] = 0.0  # noqa: SLF001  # or litellm works it out, longer than we embed
            return reply

    return OfflineModels()


def _extract(call: dict[str, Any]) -> str:
    parameters = call["optional_params"]
    messages = [message | {"content": _text(message)} for message in call["messages"]]
    return offline.extract(messages, abstain_below=parameters["abstain_below"])


def _text(message: Message) -> str:
    """What stands in it as text: parts are joined, and a message that only calls tools says nothing."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _counts(messages: list[Message], text: str) -> dict[str, int]:
    """The offline model's tokens are words."""
    asked = sum(len(_text(message).split()) for message in messages)
    said = len(text.split())
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
