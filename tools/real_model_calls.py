"""Calls of the generated project's gateway against the model that its environment names; prints what came as JSON.

Run by test_real_model.py with the project's own Python. Knows nothing of which model answers.
"""

import asyncio
import json

from app.db.engine import open_database
from app.gateway.gateway import open_gateway
from app.settings import load_settings

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
    "additionalProperties": False,
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}


async def main() -> None:
    """A completion, a stream and a reply to a schema."""
    settings = load_settings()
    asked = [{"role": "user", "content": "Name the capital of France and its country as JSON."}]
    async with open_database(settings) as database, open_gateway(settings, database) as gateway:
        whole = await gateway.complete(asked, parameters={"max_tokens": 40})
        *pieces, last = [event async for event in gateway.stream(asked, parameters={"max_tokens": 40})]
        formed = await gateway.complete(asked, parameters={"max_tokens": 80, "response_format": SCHEMA})
    print(
        json.dumps(
            {
                "completion": [whole.text, whole.finish_reason, whole.usage.output_tokens, whole.usage.estimated],
                "pieces": [piece.text for piece in pieces],
                "stream": [last.text, last.finish_reason, last.usage.output_tokens, last.usage.estimated],
                "city": json.loads(formed.text),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
