"""A pydantic model in, an instance out: ask for JSON, validate it, and show the model its mistakes a few times.

Each question goes through `Gateway.complete`, inside one context: one deadline and one budget for all of them.
Knows nothing of providers, and nothing of what the fields mean.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from app.errors import ContentFiltered, InvalidOutput
from app.gateway import litellm_adapter
from app.gateway.context import CallContext
from app.gateway.deployments import Role
from app.gateway.gateway import Gateway
from app.types import Completion, Message

Model = TypeVar("Model", bound=BaseModel)

SHOWN_OF_THE_ERRORS = 1_000  # characters
# A list counts only where the text or a code fence begins with it: prose is full of [1].
OPENING = re.compile(r"(?:\A|```\w*)\s*\[|\{")
MOST_OPENINGS = 20
MOST_OF_A_NAME = 64  # characters
INSTRUCTION = "Reply with JSON only, without any text around it. It must fit this JSON schema:\n"
REPAIR = "This is not what was asked for. Reply again, with the corrected JSON only. What is wrong:\n"
CUT = "The reply was cut at the largest number of tokens: write less."
# What OpenAI's strict mode takes; with any other keyword it refuses the whole request.
STRICT_KEYWORDS = frozenset(
    """
    type title description properties required additionalProperties items anyOf enum const $ref
    pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems
    """.split()  # noqa: SIM905  # a list of strings would take a page
)


@dataclass(frozen=True, slots=True)
class Parsed(Generic[Model]):
    """What the model wrote, as `value`; `completion` is its last reply, and `repairs` how often it was asked again."""

    value: Model
    completion: Completion
    repairs: int


async def parse(
    gateway: Gateway,
    messages: list[Message],
    schema: type[Model],
    *,
    role: Role = "chat",
    context: CallContext | None = None,
    parameters: dict[str, Any] | None = None,
    max_repairs: int | None = None,
) -> Parsed[Model]:
    """Ask until the reply is a `schema`, at most 1 + `max_repairs` times (MAX_REPAIRS where it is None).

    Raises:
        InvalidOutput: the last reply was still wrong, or the model refused; its `raw` is the text.
        ContentFiltered: the provider's filter cut the reply.
        ProviderError: as `Gateway.complete`.

    """
    context = context or gateway.context()
    limit = gateway.settings.max_repairs if max_repairs is None else max_repairs
    form = await _native_form(gateway, role, schema)
    first = messages if form else _instructed(messages, schema)
    options = (parameters or {}) | ({"response_format": form} if form else {})
    asked = first
    for repairs in range(limit + 1):
        completion = await gateway.complete(
            asked, role=role, context=context, parameters=options, accept=lambda reply: _is_valid(schema, reply.text)
        )
        _stop_at_refusal(completion)
        try:
            return Parsed(_read(schema, completion.text), completion, repairs)
        except ValidationError as error:
            wrong = error
        asked = [*first, *_correction(completion, wrong)]
    raise InvalidOutput(_summary(schema, completion, wrong, limit), raw=completion.text)


async def _native_form(gateway: Gateway, role: Role, schema: type[BaseModel]) -> dict[str, Any] | None:
    """Make the `response_format`, where every deployment that may answer takes one; else None."""
    for deployment in gateway.deployments(role):
        if not (await litellm_adapter.facts(deployment)).json_schema:
            return None
    try:
        body, strict = schema.model_json_schema(schema_generator=_StrictSchema), True
    except _NotStrict:
        body, strict = schema.model_json_schema(), False
    if body.get("type") != "object":  # a list, or a model that holds itself: providers want an object on top
        return None
    name = re.sub(r"\W", "_", schema.__name__, flags=re.ASCII)[:MOST_OF_A_NAME]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": body, "strict": strict}}


class _NotStrict(Exception):
    """A finding: the schema needs what strict mode does not have."""


class _StrictSchema(GenerateJsonSchema):
    """A schema as strict mode wants it: objects closed, every field required, no defaults, references alone."""

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: ANN401, ARG002, FBT001  # pydantic's signature
        return True

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def generate_inner(self, schema: Any) -> JsonSchemaValue:  # noqa: ANN401  # one of pydantic's many schemas
        made = super().generate_inner(schema)
        if made.get("type") == "object":
            made.setdefault("additionalProperties", False)
        if "$ref" in made:  # not even a description may stand beside it
            made = {"$ref": made["$ref"]}
        says_what = made.keys() & {"type", "anyOf", "enum", "const", "$ref"}  # Any says nothing
        if not says_what or not made.keys() <= STRICT_KEYWORDS or made.get("additionalProperties"):
            raise _NotStrict
        return made


def _instructed(messages: list[Message], schema: type[BaseModel]) -> list[Message]:
    """Put the schema into the system message: many local models take only one, and only in front."""
    text = INSTRUCTION + json.dumps(schema.model_json_schema())
    if messages and messages[0].get("role") == "system" and isinstance(messages[0].get("content"), str):
        return [messages[0] | {"content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _read(schema: type[Model], text: str) -> Model:
    return schema.model_validate_json(_json_in(text))


def _is_valid(schema: type[BaseModel], text: str) -> bool:
    try:
        _read(schema, text)
    except ValidationError:
        return False
    return True


def _json_in(text: str) -> str:
    """Find the JSON in a text: inside a code fence, after an introduction, before a farewell."""
    starts = [found.end() - 1 for found in OPENING.finditer(text)][:MOST_OPENINGS]
    for start in starts:
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        return text[start:end]
    return text[starts[0] :] if starts else text


def _stop_at_refusal(completion: Completion) -> None:
    """A model that does not want to, or must not, is not asked again."""
    if completion.refusal:
        raise InvalidOutput(f"{completion.model} refused", raw=completion.refusal)
    if completion.finish_reason == "content_filter":
        raise ContentFiltered(f"{completion.model}'s content filter cut the reply")


def _correction(completion: Completion, error: ValidationError) -> list[Message]:
    """Show the model its own text and what is wrong with it."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in found]
    if completion.finish_reason == "length":
        lines.insert(0, CUT)
    said = completion.text.encode(errors="replace").decode()  # half a character could not be sent back
    return [
        {"role": "assistant", "content": said or "(nothing)"},
        {"role": "user", "content": REPAIR + "\n".join(lines)[:SHOWN_OF_THE_ERRORS]},
    ]


def _summary(schema: type[BaseModel], completion: Completion, error: ValidationError, repairs: int) -> str:
    """For the log: kinds of mistakes only, since places and values may hold a user's data."""
    kinds = ", ".join(sorted({found["type"] for found in error.errors(include_url=False)}))
    cut = "; the last reply was cut at max_tokens" if completion.finish_reason == "length" else ""
    return f"{completion.model} wrote no valid {schema.__name__}, with {repairs} repairs: {kinds}{cut}"
