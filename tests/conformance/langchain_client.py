"""LangChain's ChatOpenAI, unmodified, in an environment of its own: what it must be able to do with a served app."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import openai
from checks import Check, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

BASE_URL, KEY, SPENT_KEY = (os.environ[name] for name in ("BASE_URL", "API_KEY", "SPENT_KEY"))
HELLO = "Hello from the test model."
QUESTION = "What does k1 do in BM25?"
Model = Callable[..., ChatOpenAI]


class Person(BaseModel):  # type: ignore[misc]  # not in the environment that checks types
    """What is asked for by its schema."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Look it up."""
    return f"7 degrees in {city}"


def get_time(zone: str) -> str:
    """Look it up."""
    return f"noon in {zone}"


def open_model(name: str = "chat", *, key: str = KEY, responses: bool = False) -> ChatOpenAI:
    """The model, by one of the two interfaces."""
    settings: dict[str, Any] = {"use_responses_api": True} if responses else {}
    return ChatOpenAI(
        model=name, base_url=BASE_URL, api_key=key, max_retries=0, timeout=20, stream_usage=True, **settings
    )


def embeddings() -> None:
    """Text, since LangChain's own count of tokens needs a download."""
    embedder = OpenAIEmbeddings(model="embedding", base_url=BASE_URL, api_key=KEY, check_embedding_ctx_length=False)
    vectors = embedder.embed_documents(["one", "two"])
    assert len(vectors) == 2
    assert len(vectors[0]) == len(embedder.embed_query("one")) > 100


def plain(model: Model) -> None:
    """A whole reply with its usage."""
    message = model().invoke("hello")
    assert (message.text, message.usage_metadata["total_tokens"]) == (HELLO, 18)


def stream(model: Model) -> None:
    """Several pieces that add up, usage included."""
    chunks = list(model().stream("hello"))
    assert sum(bool(chunk.text) for chunk in chunks) == 5
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert (whole.text.strip(), whole.usage_metadata["total_tokens"]) == (HELLO, 18)


def tools(model: Model) -> None:
    """Two calls in pieces; then what they gave, sent back with the calls."""
    bound = model().bind_tools([get_weather, get_time])
    chunks = list(bound.stream("weather"))
    assert sum(bool(chunk.tool_call_chunks) for chunk in chunks) > 3
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    calls = [(call["name"], call["args"]) for call in whole.tool_calls]
    assert calls == [("get_weather", {"city": "Oslo"}), ("get_time", {"zone": "CET"})]
    outputs = [ToolMessage("7 degrees", tool_call_id=call["id"]) for call in whole.tool_calls]
    assert bound.invoke([HumanMessage("weather"), whole, *outputs]).text == "It is 7 degrees."


def schema(model: Model) -> None:
    """What the schema demands, parsed."""
    assert model().with_structured_output(Person).invoke("person") == Person(name="Ada", age=36)


def refusal(model: Model) -> None:
    """A refusal is kept apart from the text."""
    message = model().invoke("refuse")
    told = [block.get("refusal") for block in message.content if isinstance(block, dict)]
    assert "I will not." in (message.additional_kwargs.get("refusal"), *told)


def documents(model: Model) -> None:
    """Citations in the text; LangChain drops fields that it does not know."""
    assert "[1]" in model("documents").invoke(QUESTION).text


def raises(kind: type[Exception], call: Callable[[], object]) -> None:
    """The error of the client below."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


def cut(model: Model) -> None:
    """A stream that breaks off raises."""
    raises(openai.APIError, lambda: list(model().stream("cut")))


def cancel(model: Model) -> None:
    """Leave after the first words; the runner looks at the other end."""
    chunks = model().stream("stall")
    assert next(chunk.text for chunk in chunks if chunk.text)
    chunks.close()


def spent(model: Model) -> None:
    """The second request is one too many."""
    spender = model(key=SPENT_KEY)
    raises(openai.RateLimitError, lambda: [spender.invoke("expensive") for _ in range(2)])


def column(*, responses: bool) -> dict[str, Check]:
    """All checks by one of the two interfaces."""
    model = partial(open_model, responses=responses)
    checks = {
        "reply": plain,
        "stream with usage": stream,
        "tools in fragments": tools,
        "JSON schema": schema,
        "refusal": refusal,
        "citations": documents,
        "429": spent,
        "error in mid-stream": cut,
        "cancel stops the upstream": cancel,
    }
    stranger = model(key="aiapp_0000000000000000.wrong")
    return {
        "embeddings": embeddings,
        **{name: partial(check, model) for name, check in checks.items()},
        "401": lambda: raises(openai.AuthenticationError, lambda: stranger.invoke("hello")),
        "404": lambda: raises(openai.NotFoundError, lambda: model("gpt-4o").invoke("hello")),
        "5xx": lambda: raises(openai.InternalServerError, lambda: model().invoke("unavailable")),
    }


run("langchain-openai", {"chat": column(responses=False), "responses": column(responses=True)})
