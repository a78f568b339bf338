"""The OpenAPI document: what FastAPI finds in the routes, completed with what is the same for all of them.

A route says what is its own: its words, its models, and as `responses={409: {}}` an error that only it can give. Here
the errors get their shape, each object its example, and each operation what middleware adds. Knows no route.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app import errors
from app.api.errors import body, public
from app.api.examples import EXAMPLES

Document = dict[str, Any]
SCHEMAS = "#/components/schemas/"
EVENTS = "text/event-stream"
EVENT: Document = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "contentMediaType": "application/json"}},
}
TAGS = {
    "ask": "Answers from the documents, with citations that were checked.",
    "answers": "What an answer cites, with the text around it.",
    "conversations": "Questions that build on each other; each belongs to the API key's name.",
    "feedback": "What people thought of the answers.",
    "documents": "What can be asked about, and uploads of more.",
    "openai": "The interface of OpenAI, for its clients.",
    "health": "For whoever runs the server; these need no API key.",
}
DESCRIPTION = """Send `Authorization: Bearer KEY`. Every error has one shape, `{"error": {...}}`, whose `code` is for
programs. Lists come in pages: go on with `after` set to `last_id` while `has_more`. Every response has the id of its
request in `X-Request-ID`; send your own to find it in the log. Where a limit is set, `X-RateLimit-Remaining-Requests`
and its like, for tokens too and with `Limit` and `Reset`, say how much of it is left."""
HEADERS = {
    "RequestId": "the id of this request, in the log too; what the request had in X-Request-ID, or a new one",
    "RetryAfter": "the seconds after which to come back",
}
IDEMPOTENCY_KEY: Document = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*[!-~][ -~]*$"},
    "example": "8c5f3e0a-order-17",
    "description": "Sent again with the same body, the first response is given again and nothing is done twice.",
}
COME_BACK = {429, 503}
# What a client reads of one error of each status; the descriptions are the sentences of these.
SAMPLES: Mapping[int, errors.AppError] = {
    400: errors.InvalidInput("the question is empty"),
    401: errors.InvalidApiKey(),
    403: errors.Forbidden(),
    404: errors.NotFound(),
    409: errors.Conflict(),
    413: errors.DocumentTooLarge(),
    415: errors.UnsupportedDocument(),
    429: errors.RateLimited(),
    502: errors.ProviderRejected(),
    503: errors.Overloaded(),
    504: errors.DeadlineExceeded(),
}
UNREADABLE = "The request does not have the form that is described here."


class Error(BaseModel):
    """What went wrong. `code` is for programs, `message` for people; `param` is what is to be changed."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error of this API."""

    error: Error


def operation_id(route: APIRoute) -> str:
    """The name of the route's function, which clients make their methods of."""
    return route.name


def describe(app: FastAPI) -> None:
    """Have `app.openapi` give the whole document, once every route is there."""
    found = app.openapi

    @cache
    def openapi() -> Document:
        return _complete(found())

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change the document


def _complete(document: Document) -> Document:
    document["info"]["description"] = DESCRIPTION
    document["servers"] = [{"url": "/", "description": "where this document is"}]
    operations = list(_operations(document))
    used = {tag for _, _, operation in operations for tag in operation.get("tags", ())}
    document["tags"] = [{"name": name, "description": says} for name, says in TAGS.items() if name in used]
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _add_shared(document["components"], schemas)
    _require_what_is_always_there(operations, schemas)
    for path, method, operation in operations:
        _complete_operation(path, method, operation)
        for kind, content in _contents(operation):
            if kind == EVENTS:
                content.setdefault("itemSchema", EVENT)
            _add_example(content, schemas)
    return document


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Each with its path and its method, in lower case."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _add_shared(components: Document, schemas: Document) -> None:
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for model in (Error, ErrorResponse):
        schemas[model.__name__] = model.model_json_schema(ref_template=SCHEMAS + "{model}")
        schemas[model.__name__].pop("$defs", None)
    for name, example in EXAMPLES.items():
        if name in schemas:
            schemas[name].setdefault("examples", [example])
    for schema in schemas.values():
        if example := _page_example(schema, schemas):
            schema.setdefault("examples", [example])
    components["headers"] = {
        name: {"description": says, "schema": {"type": "string"}} for name, says in HEADERS.items()
    }
    components["parameters"] = {"IdempotencyKey": IDEMPOTENCY_KEY}


def _page_example(schema: Document, schemas: Document) -> Document | None:
    """A page with the example of its items in it."""
    properties = schema.get("properties", {})
    if "has_more" not in properties:
        return None
    item, *_ = schemas[properties["data"]["items"]["$ref"].removeprefix(SCHEMAS)].get("examples", [None])
    if item is None:
        return None
    return {
        "object": "list",
        "data": [item],
        "first_id": str(item["id"]),
        "last_id": str(item["id"]),
        "has_more": False,
    }


def _require_what_is_always_there(operations: Iterable[tuple[str, str, Document]], schemas: Document) -> None:
    """A default is for who asks: in a response there is every property, but for some that would be null."""
    asked: set[str] = set()
    for _, _, operation in operations:
        _note_references(operation.get("requestBody"), schemas, asked)
    for name in schemas.keys() - asked:
        properties, required = schemas[name].get("properties", {}), schemas[name].get("required", ())
        schemas[name]["required"] = [one for one in properties if one in required or not _may_be_null(properties[one])]


def _note_references(part: object, schemas: Document, noted: set[str]) -> None:
    """The names of the schemas that this part leads to."""
    if isinstance(part, list):
        for one in part:
            _note_references(one, schemas, noted)
    elif isinstance(part, dict):
        name = str(part.get("$ref", "")).removeprefix(SCHEMAS)
        if name in schemas and name not in noted:
            noted.add(name)
            _note_references(schemas[name], schemas, noted)
        _note_references(list(part.values()), schemas, noted)


def _may_be_null(property_: Document) -> bool:
    return any(one.get("type") == "null" for one in property_.get("anyOf", ()))


def _complete_operation(path: str, method: str, operation: Document) -> None:
    """The first sentence of the description is its summary; an error that FastAPI made up goes, and ours come."""
    summary, _, rest = operation.get("description", "").partition(". ")
    operation["summary"] = summary.removesuffix(".").replace("\n", " ")
    operation["description"] = rest.replace("\n", " ")
    responses = operation["responses"]
    responses.pop("422", None)
    if method == "post" and "security" in operation:
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/IdempotencyKey"})
    for status in _errors(path, method, operation):
        responses.setdefault(str(status), {})
    for status, response in responses.items():
        if int(status) in SAMPLES or status == "422":
            _describe_error(int(status), response)
        response.setdefault("headers", {})["X-Request-ID"] = {"$ref": "#/components/headers/RequestId"}
    operation["responses"] = dict(sorted(responses.items()))


def _errors(path: str, method: str, operation: Document) -> set[int]:
    """What may happen besides what the route itself says."""
    statuses = set()
    if "security" in operation:
        statuses |= {401, 403, 429, 503, 504}
        if method == "post":  # for the same Idempotency-Key
            statuses |= {400, 409}
    if "requestBody" in operation:
        statuses |= {400, 413}
    if operation.get("parameters") or "requestBody" in operation:
        statuses.add(422)
    if "{" in path or any(parameter.get("name") == "after" for parameter in operation.get("parameters", ())):
        statuses.add(404)
    return statuses


def _describe_error(status: int, response: Document) -> None:
    if "content" in response:
        return
    if status in SAMPLES:
        says, example = type(SAMPLES[status]).sentence(), public(SAMPLES[status])
    else:
        says, example = UNREADABLE, body(status, "question: Field required", "invalid_request", "question")
    response["description"] = says
    response["content"] = {
        "application/json": {"schema": {"$ref": SCHEMAS + ErrorResponse.__name__}, "example": example}
    }
    if status in COME_BACK:
        response["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}


def _contents(operation: Document) -> Iterator[tuple[str, Document]]:
    """What a body may be, with its media type: of the request, and of each response."""
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        yield from part.get("content", {}).items()


def _add_example(content: Document, schemas: Document) -> None:
    """Beside the schema it is seen by tools that do not look into it."""
    name = content.get("schema", {}).get("$ref", "").removeprefix(SCHEMAS)
    if examples := schemas.get(name, {}).get("examples"):
        content.setdefault("example", examples[0])
