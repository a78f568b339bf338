"""What POST /v1/responses takes: a subset, without all that would have to be stored. Knows nothing of who answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.api.openai.answering import Asked, asked_for
from app.api.openai.requests import (
    MOST_MESSAGES,
    MOST_PARTS,
    MOST_TOOLS,
    Function,
    Generation,
    Named,
    No,
    PlainFormat,
    Schema,
    Strict,
)
from app.errors import InvalidParameter
from app.types import Message

NOT_STORED = "nothing is stored here: send what was said before as items of input, each of them whole"

ITEMS = "an item is a message with its role, a function_call or a function_call_output"


def _refused(value: object) -> None:
    if value is not None:
        raise PydanticCustomError("not_stored", NOT_STORED)


Stored = Annotated[None, BeforeValidator(_refused), Field(description=f"not supported; {NOT_STORED}")]
Parts = Annotated[list[dict[str, Any]], Field(max_length=MOST_PARTS)]


class FlatTool(Function):
    """A function that the model may call, as responses write it."""

    type: Literal["function"]


class FlatChoice(Named):
    """The one function that the model has to call."""

    type: Literal["function"]


class FlatSchema(Schema):
    """JSON by a schema, as responses write it."""

    type: Literal["json_schema"]


class Text(Strict):
    """How the text has to look."""

    format: Annotated[PlainFormat | FlatSchema, Field(discriminator="type")] | None = None


class Reasoning(Strict):
    """How much the model is to think."""

    effort: str | None = Field(None, description="as the provider names it")
    summary: str | None = Field(None, description="without effect: there is none")


class InputItem(BaseModel):
    """A message, a function call, or the output of one. Other fields of an item that is sent back are left aside."""

    model_config = ConfigDict(strict=True)

    type: str = Field("message", description="message, function_call or function_call_output")
    role: Literal["system", "developer", "user", "assistant"] | None = Field(None, description="of a message")
    content: str | Parts | None = Field(
        None, description="of a message: text, or parts input_text, input_image (a data: URL), output_text, refusal"
    )
    call_id: str | None = Field(None, description="of a function call and of its output")
    name: str | None = Field(None, description="of a function call")
    arguments: str | None = Field(None, description="of a function call: the text of a JSON object")
    output: str | Parts | None = Field(None, description="of a function call's output: text, or parts input_text")


class ResponseRequest(Generation):
    """Something to answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "chat", "input": "Say hello."},
                {"model": "documents", "input": "What does a circuit breaker do?", "stream": True},
            ]
        }
    )

    input: str | Annotated[list[InputItem], Field(max_length=MOST_MESSAGES)] = Field(
        min_length=1, description="a text, or a conversation, oldest first"
    )
    instructions: str | None = Field(None, description="what stands before the input; not for `documents`")
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31, description="MAX_OUTPUT_TOKENS by default")
    tools: list[FlatTool] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | FlatChoice | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = Field(None, description="without effect: there is nothing to include")
    truncation: Literal["disabled"] | None = Field(None, description="nothing is cut: leave it out")
    background: No | None = Field(None, description="there is no store to fetch it from: leave it out")
    previous_response_id: Stored = None
    conversation: Stored = None
    prompt: Stored = None


def from_response(request: ResponseRequest) -> Asked:
    """The request as both models take it.

    Raises:
        ModelNotFound: no model that writes has this name.
        InvalidParameter: an item of the input is none.

    """
    given = request.model_dump(exclude_none=True, by_alias=True)
    parameters = given | {
        "max_tokens": request.max_output_tokens,
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "tools": [_nested(tool) for tool in given.get("tools", ())] or None,
        "response_format": _format(given.get("text", {}).get("format", {})),
    }
    if isinstance(request.tool_choice, FlatChoice):
        parameters["tool_choice"] = _nested(given["tool_choice"])
    return asked_for(request.model, _messages(request), parameters)


def _nested(flat: dict[str, Any], key: str = "function") -> dict[str, Any]:
    """As chat completions write it: what the type names stands in an object of that name."""
    return {"type": key, key: {name: value for name, value in flat.items() if name != "type"}}


def _format(flat: dict[str, Any]) -> dict[str, Any] | None:
    if flat.get("type") == "json_schema":
        return _nested(flat, "json_schema")
    return flat if flat.get("type") == "json_object" else None


def _messages(request: ResponseRequest) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": request.instructions}] if request.instructions else []
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}]
    for number, item in enumerate(request.input, 1):
        if item.type == "function_call":
            if not (messages and messages[-1]["role"] == "assistant"):
                messages.append({"role": "assistant", "content": None})
            function = {"name": item.name, "arguments": item.arguments}
            messages[-1].setdefault("tool_calls", []).append(
                {"id": item.call_id, "type": "function", "function": function}
            )
        elif item.type == "function_call_output":
            content = _content(item.output)
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
        elif item.type == "message" and item.role:
            messages.append({"role": item.role, "content": _content(item.content)})
        else:
            told = NOT_STORED if item.type == "item_reference" else ITEMS
            raise InvalidParameter("input", f"input {number}: {told}")
    return messages


def _content(content: str | Parts | None) -> str | Parts | None:
    """Parts as messages have them; the gateway checks what is in them."""
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "input_text" | "output_text":
            return {"type": "text", "text": part.get("text")}
        case "refusal":
            return {"type": "text", "text": part.get("refusal")}
        case "input_image":
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part.get("image_url"), **detail}}
        case _:
            raise InvalidParameter("input", "a part of a message is input_text, input_image, output_text or refusal")
