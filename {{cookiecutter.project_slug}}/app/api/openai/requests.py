"""What POST /v1/chat/completions takes, and the shapes that it shares with the other routes.

Fields that only work when they are stored, or that the gateway cannot do, are here with the one value that is taken.
Knows nothing of who answers.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.types import Message

# What is looked at stops every other request meanwhile, so it has to be little.
MOST_MESSAGES, MOST_PARTS, MOST_TOOLS = 1_000, 100, 128
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="letters, digits, `_` and `-`")]
Parameters = Annotated[dict[str, Any], Field(description="a JSON schema")]
Metadata = Annotated[dict[str, str], Field(max_length=16)]
Part = Annotated[
    dict[str, Any],
    Field(description="`text`; of a user also `image_url` with a data: URL, or `input_audio` with data in base64"),
]


def _not_zero(given: object) -> object:
    """A number equals False for Python, and for JSON it does not."""
    return given if isinstance(given, bool) else str(given)


No = Annotated[Literal[False], BeforeValidator(_not_zero)]


class Strict(BaseModel):
    """A part of a request: what is not known here is refused, so that a misspelt name is not simply without effect."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Harmless(Strict):
    """What clients send along, and what has no effect here."""

    user: str | None = Field(None, description="your own name for who asks; passed on to a provider that takes it")
    metadata: Metadata | None = Field(None, description="without effect: it is not kept")
    store: No | None = Field(None, description="nothing is stored: leave it out, or false")
    service_tier: str | None = Field(None, description="without effect")
    safety_identifier: str | None = Field(None, description="without effect")
    prompt_cache_key: str | None = Field(None, description="without effect")
    prompt_cache_retention: str | None = Field(None, description="without effect")


class Function(Strict):
    """A function that the model may call."""

    name: Name
    description: str | None = Field(None, description="what it does, for the model")
    parameters: Parameters | None = None
    strict: bool | None = Field(None, description="hold the model to the schema, where the provider can")


class Tool(Strict):
    """A function, as chat completions wrap it."""

    type: Literal["function"]
    function: Function


class Named(Strict):
    """The name of a function."""

    name: Name


class ChosenTool(Strict):
    """The one function that the model has to call."""

    type: Literal["function"]
    function: Named


class Schema(Strict):
    """The JSON schema that a reply has to follow."""

    name: Name
    description: str | None = Field(None, description="what it is for, for the model")
    json_schema: Parameters | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="hold the model to the schema, where the provider can")


class PlainFormat(Strict):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Strict):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: Schema


class StreamOptions(Strict):
    """What a stream holds beside the pieces."""

    include_usage: bool | None = Field(None, description="send the tokens used, before the end")
    include_obfuscation: bool | None = Field(None, description="without effect: there is none")


class ChatMessage(BaseModel):
    """A message of the conversation. Other fields of a reply that is sent back are left aside."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(description="who says it")
    content: str | Annotated[list[Part], Field(max_length=MOST_PARTS)] | None = Field(
        None, description="text or parts; may be missing where tools are called"
    )
    name: str | None = Field(None, description="tells apart people of the same role")
    tool_calls: list[dict[str, Any]] | None = Field(
        None, max_length=MOST_TOOLS, description="what the assistant called, as it was given"
    )
    tool_call_id: str | None = Field(None, description="of a tool's message: the call that it answers")

    def for_gateway(self) -> Message:
        """As the gateway takes it."""
        kept = self.model_dump(exclude_none=True)
        return kept if self.tool_calls else {"content": self.content} | kept


class Generation(Harmless):
    """What every request for text has."""

    model: str = Field(description="`chat`, or `documents` for answers over your documents")
    stream: bool | None = Field(None, description="send pieces as server-sent events")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="0 where it is not given")
    top_p: float | None = Field(None, ge=0, le=1, description="choose from the likeliest tokens of this share")
    parallel_tool_calls: bool | None = Field(None, description="let the model call several functions at once")


class ChatRequest(Generation):
    """A conversation to go on with."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "chat", "messages": [{"role": "user", "content": "Say hello."}]},
                {
                    "model": "documents",
                    "messages": [{"role": "user", "content": "What does a circuit breaker do?"}],
                    "stream": True,
                },
            ]
        }
    )

    messages: list[ChatMessage] = Field(
        min_length=1, max_length=MOST_MESSAGES, description="oldest first; `documents` takes no instructions"
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="for replies that repeat, where a provider can")
    stop: str | Annotated[list[str], Field(max_length=4)] | None = Field(
        None, description="up to four texts at which the reply ends"
    )
    max_tokens: int | None = Field(None, ge=1, lt=2**31, description="of the reply; MAX_OUTPUT_TOKENS by default")
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31, description="the same, with its newer name")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="above 0: less of what was said")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="above 0: less of what was said often")
    logit_bias: dict[str, float] | None = Field(None, description="from a token's number to -100 to 100")
    reasoning_effort: str | None = Field(None, description="as the provider names it")
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: list[Tool] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = Field(None, description="one reply: leave it out, or 1")
    logprobs: No | None = Field(None, description="there are none")
    modalities: list[Literal["text"]] | None = Field(None, max_length=1, description="replies are text")
