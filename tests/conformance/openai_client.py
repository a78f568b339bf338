"""OpenAI's Python client, unmodified, in an environment of its own: what it must be able to do with a served app."""

import os
from collections.abc import Callable
from typing import Any

import openai
from checks import Check, run
from pydantic import BaseModel

BASE_URL, KEY, SPENT_KEY = (os.environ[name] for name in ("BASE_URL", "API_KEY", "SPENT_KEY"))
HELLO = "Hello from the test model."
ARGUMENTS = ['{"city": "Oslo"}', '{"zone": "CET"}']
FUNCTIONS = [
    {"name": name, "description": "Look it up.", "parameters": {"type": "object", "properties": {}}}
    for name in ("get_weather", "get_time")
]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]
FLAT_TOOLS = [{"type": "function", **function} for function in FUNCTIONS]
client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=20)


class Person(BaseModel):  # type: ignore[misc]  # not in the environment that checks types
    """What is asked for by its schema."""

    name: str
    age: int


def says(text: str) -> list[Any]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def models() -> None:
    """The list, and one of it."""
    assert {model.id for model in client.models.list()} == {"chat", "documents", "embedding"}
    assert client.models.retrieve("chat").id == "chat"


def embeddings() -> None:
    """In base64, which this client asks for by itself, and as numbers."""
    packed = client.embeddings.create(model="embedding", input=["one", "two"])
    plain = client.embeddings.create(model="embedding", input="one", encoding_format="float")
    assert len(packed.data) == 2
    pairs = zip(packed.data[0].embedding, plain.data[0].embedding, strict=True)
    assert all(abs(one - other) < 1e-6 for one, other in pairs)
    assert plain.usage.total_tokens > 0


def raises(kind: type[openai.APIError], call: Callable[[], object], status: int | None = None) -> None:
    """The client's own error for what went wrong, with the message of the server."""
    error = error_of(call)
    assert error is not None, f"no {kind.__name__}"
    assert type(error) is kind, repr(error)
    assert getattr(error, "status_code", None) == status
    assert error.message
    assert error.code


def error_of(call: Callable[[], object]) -> openai.APIError | None:
    """What the client raises."""
    try:
        call()
    except openai.APIError as error:
        return error
    return None


def typed_errors(call: Callable[[openai.OpenAI, str, str], object]) -> dict[str, Check]:
    """A wrong key, a wrong model, a budget that is spent, a provider that is down; `call` takes client, model, text."""
    stranger = client.with_options(api_key="aiapp_0000000000000000.wrong")
    spender = client.with_options(api_key=SPENT_KEY)

    def spent() -> None:
        raises(openai.RateLimitError, lambda: [call(spender, "chat", "expensive") for _ in range(2)], 429)

    return {
        "401": lambda: raises(openai.AuthenticationError, lambda: call(stranger, "chat", "hello"), 401),
        "404": lambda: raises(openai.NotFoundError, lambda: call(client, "gpt-4o", "hello"), 404),
        "429": spent,
        "5xx": lambda: raises(openai.InternalServerError, lambda: call(client, "chat", "unavailable"), 503),
    }


def chat_plain() -> None:
    """A whole reply with its usage."""
    reply = client.chat.completions.create(model="chat", messages=says("hello"), user="me", metadata={"a": "b"})
    assert reply.choices[0].message.content == HELLO
    assert (reply.choices[0].finish_reason, reply.usage.total_tokens) == ("stop", 18)


def chat_stream() -> None:
    """Several pieces, and the usage with the last one."""
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="chat", messages=says("hello"), stream=True, stream_options=options)
    )
    pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert ("".join(pieces).strip(), len(pieces)) == (HELLO, 5)
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 18)


def chat_tools() -> None:
    """Two calls, their arguments in pieces that come by turns; then what they gave, sent back."""
    pieces: dict[int, list[str]] = {}
    with client.chat.completions.stream(model="chat", messages=says("weather"), tools=TOOLS) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                pieces.setdefault(event.index, []).append(event.arguments_delta)
        final = stream.get_final_completion()
    assert ["".join(pieces[n]) for n in (0, 1)] == ARGUMENTS
    assert min(map(len, pieces.values())) > 1
    message = final.choices[0].message
    assert final.choices[0].finish_reason == "tool_calls"
    outputs = [{"role": "tool", "tool_call_id": call.id, "content": "7 degrees"} for call in message.tool_calls]
    said = message.model_dump(exclude_none=True)
    reply = client.chat.completions.create(model="chat", messages=[*says("weather"), said, *outputs], tools=TOOLS)
    assert reply.choices[0].message.content == "It is 7 degrees."


def chat_schema() -> None:
    """What the schema demands, parsed, whole and from a stream."""
    reply = client.chat.completions.parse(model="chat", messages=says("person"), response_format=Person)
    assert reply.choices[0].message.parsed == Person(name="Ada", age=36)
    with client.chat.completions.stream(model="chat", messages=says("person"), response_format=Person) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Person(name="Ada", age=36)


def chat_refusal() -> None:
    """A refusal stands in its own field."""
    reply = client.chat.completions.create(model="chat", messages=says("refuse"))
    assert (reply.choices[0].message.content, reply.choices[0].message.refusal) == (None, "I will not.")
    chunks = client.chat.completions.create(model="chat", messages=says("refuse"), stream=True)
    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks).strip() == "I will not."


def chat_cut() -> None:
    """A stream that breaks off raises."""
    raises(
        openai.APIError, lambda: list(client.chat.completions.create(model="chat", messages=says("cut"), stream=True))
    )


def chat_cancel() -> None:
    """Leave after the first words; the runner looks at the other end."""
    with client.chat.completions.create(model="chat", messages=says("stall"), stream=True) as stream:
        assert next(chunk for chunk in stream if chunk.choices[0].delta.content)


def chat_documents() -> None:
    """Citations in the text, and in the extension field."""
    reply = client.chat.completions.create(model="documents", messages=says("What does k1 do in BM25?"))
    message = reply.choices[0].message
    assert "[1]" in message.content
    assert "Lucene defaults to k1" in message.citations[0]["quote"]
    chunks = list(client.chat.completions.create(model="documents", messages=says("What is k1 in BM25?"), stream=True))
    assert "[1]" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].delta.citations[0]["source"].endswith("bm25.md")


def response_plain() -> None:
    """A whole response with its usage; nothing is stored."""
    response = client.responses.create(model="chat", input="hello", instructions="Be brief.", metadata={"a": "b"})
    assert (response.output_text, response.status, response.store) == (HELLO, "completed", False)
    assert response.usage.total_tokens == 18


def response_stream() -> None:
    """Events in their order, numbered; the response at the end."""
    events = list(client.responses.create(model="chat", input="hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[4:-4] == ["output_text.delta"] * 5
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert (events[-1].response.output_text.strip(), events[-1].response.usage.total_tokens) == (HELLO, 18)


def response_tools() -> None:
    """Two calls, the arguments of the first in pieces; then what they gave, sent back with the calls."""
    pieces = []
    with client.responses.stream(model="chat", input="weather", tools=FLAT_TOOLS) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    calls = [item for item in final.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ARGUMENTS
    assert len(pieces) > 2
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "7 degrees"} for call in calls]
    back = [*says("weather"), *(item.model_dump(exclude_none=True) for item in final.output), *outputs]
    assert client.responses.create(model="chat", input=back, tools=FLAT_TOOLS).output_text == "It is 7 degrees."


def response_schema() -> None:
    """What the schema demands, parsed, whole and from a stream."""
    parsed = client.responses.parse(model="chat", input="person", text_format=Person).output_parsed
    assert parsed == Person(name="Ada", age=36)
    with client.responses.stream(model="chat", input="person", text_format=Person) as stream:
        assert stream.get_final_response().output_parsed == Person(name="Ada", age=36)


def response_refusal() -> None:
    """A refusal is a part of its own."""
    [item] = client.responses.create(model="chat", input="refuse").output
    assert [(part.type, part.refusal) for part in item.content] == [("refusal", "I will not.")]
    with client.responses.stream(model="chat", input="refuse") as stream:
        assert stream.get_final_response().output[0].content[0].refusal.strip() == "I will not."


def response_cut() -> None:
    """A stream that breaks off raises."""
    raises(openai.APIError, lambda: list(client.responses.create(model="chat", input="cut", stream=True)))


def response_cancel() -> None:
    """Leave after the first words; the runner looks at the other end."""
    with client.responses.create(model="chat", input="stall", stream=True) as stream:
        assert next(event for event in stream if event.type == "response.output_text.delta")


def response_documents() -> None:
    """Citations in the text, and in the extension field."""
    response = client.responses.create(model="documents", input="What does k1 do in BM25?")
    assert "[1]" in response.output_text
    assert "Lucene defaults to k1" in response.output[0].citations[0]["quote"]


def chat_call(who: openai.OpenAI, model: str, text: str) -> object:
    """One whole reply."""
    return who.chat.completions.create(model=model, messages=says(text))


def response_call(who: openai.OpenAI, model: str, text: str) -> object:
    """One whole response."""
    return who.responses.create(model=model, input=text)


shared = {"models": models, "embeddings": embeddings}
chat = {
    "reply": chat_plain,
    "stream with usage": chat_stream,
    "tools in fragments": chat_tools,
    "JSON schema": chat_schema,
    "refusal": chat_refusal,
    "citations": chat_documents,
    **typed_errors(chat_call),
    "error in mid-stream": chat_cut,
    "cancel stops the upstream": chat_cancel,
}
responses = {
    "reply": response_plain,
    "stream with usage": response_stream,
    "tools in fragments": response_tools,
    "JSON schema": response_schema,
    "refusal": response_refusal,
    "citations": response_documents,
    **typed_errors(response_call),
    "error in mid-stream": response_cut,
    "cancel stops the upstream": response_cancel,
}
run("openai", {"chat": shared | chat, "responses": shared | responses})
