"""The OpenAPI document: whole for every route, so that a client made from it needs nothing else."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import TypeAdapter
from typer.testing import CliRunner

from app.api.errors import body
from app.api.main import create_app
from app.api.openapi import EVENTS, SCHEMAS, ErrorResponse
from app.cli import cli
from app.settings import Settings

Document = dict[str, Any]
APP = create_app(Settings())
DOCUMENT = APP.openapi()
OPERATIONS = {
    f"{method} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
FOR_ANYBODY = {"get /livez", "get /readyz"}
NO_BODY = {"204"}
ALWAYS = {"401", "403", "429", "503", "504"}


def contents(operation: Document) -> Iterator[tuple[str, Document]]:
    """What the body of the request, and that of each response that is not an error, may be."""
    responses = {status: one for status, one in operation["responses"].items() if status < "400"}
    for part in (operation.get("requestBody", {}), *responses.values()):
        yield from part.get("content", {}).items()


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_route_says_what_it_is(name: str) -> None:
    """In a sentence of its own, under one tag, by a name that a client can call."""
    operation = OPERATIONS[name]
    assert 10 < len(operation["summary"]) < 120
    assert operation["operationId"].isidentifier()
    [tag] = operation["tags"]
    assert tag in {known["name"] for known in DOCUMENT["tags"]}


def test_names_of_operations_and_schemas_are_readable_and_alone() -> None:
    """No two alike, and none made from a path."""
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)
    assert not any("v1" in name for name in [*names, *DOCUMENT["components"]["schemas"]])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_body_has_a_schema_and_an_example(name: str) -> None:
    """Of the request, and of what comes back."""
    operation = OPERATIONS[name]
    assert all(content.keys() & {"schema", "itemSchema"} for _, content in contents(operation))
    assert all("example" in content or "examples" in content for kind, content in contents(operation) if kind != EVENTS)
    assert all(response.get("content") for status, response in operation["responses"].items() if status not in NO_BODY)


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - FOR_ANYBODY))
def test_every_route_needs_a_key_with_a_scope_and_tells_its_errors(name: str) -> None:
    """Those that anything may end with, those of what is sent, and each in the one shape, with an example."""
    operation = OPERATIONS[name]
    [needed] = operation["security"]
    assert needed["ApiKey"], "a scope"
    errors = {status: one for status, one in operation["responses"].items() if status >= "400"}
    assert errors.keys() >= ALWAYS
    assert errors.keys() >= ({"400", "413", "422"} if "requestBody" in operation else set())
    assert errors.keys() >= ({"404", "422"} if "{" in name else set())
    assert ("IdempotencyKey" in json.dumps(operation.get("parameters", []))) == name.startswith("post")
    for status, error in errors.items():
        [content] = error["content"].values()
        assert content["schema"] == {"$ref": f"{SCHEMAS}ErrorResponse"}
        told = ErrorResponse.model_validate(content["example"]).error
        assert told.message
        assert told.type == body(int(status), "", "")["error"]["type"]
        assert ("Retry-After" in error["headers"]) == (status in {"429", "503"})


def test_probes_need_no_key() -> None:
    """Nor does anything else that is described."""
    assert {name for name, operation in OPERATIONS.items() if "security" not in operation} == FOR_ANYBODY


def test_every_reference_leads_somewhere_and_nothing_of_frameworks_is_left() -> None:
    """What FastAPI would say of errors is not what is sent."""
    written = json.dumps(DOCUMENT)
    assert "HTTPValidationError" not in written
    for reference in set(references(DOCUMENT)):
        part: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]


def references(part: object) -> Iterator[str]:
    """Every `$ref`, wherever it is."""
    if isinstance(part, dict):
        yield from (str(value) for key, value in part.items() if key == "$ref")
        for one in part.values():
            yield from references(one)
    elif isinstance(part, list):
        for one in part:
            yield from references(one)


def models() -> Iterator[tuple[str, Any, Any]]:
    """The names of operations, what their routes read or send as JSON, and the example that the document has."""
    for context in iter_route_contexts(APP.routes):
        route = context.route
        if isinstance(route, APIRoute) and route.include_in_schema:
            operation = next(one for one in OPERATIONS.values() if one["operationId"] == route.name)
            asked = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if asked is not None and route.body_field is not None:
                yield f"{route.name} asked", route.body_field.field_info.annotation, asked["example"]
            for status, response in operation["responses"].items():
                told = response.get("content", {}).get("application/json", {}).get("example")
                if status.startswith("2") and told is not None and route.response_model is not None:
                    yield f"{route.name} told", route.response_model, told


MODELS = {name: (model, example) for name, model, example in models()}


@pytest.mark.parametrize("name", MODELS)
def test_an_example_is_what_it_is_an_example_of(name: str) -> None:
    """It can be read as such, and has every property that is always there."""
    model, example = MODELS[name]
    TypeAdapter(model).validate_json(json.dumps(example))


def test_what_is_always_there_is_promised() -> None:
    """A client need not ask whether an answer has a list of citations; in a request the default may be left out."""
    schemas = DOCUMENT["components"]["schemas"]
    assert {"citations", "passages", "reason"} <= set(schemas["Answer"]["required"])
    assert "conversation_id" not in schemas["Answer"]["required"]
    assert schemas["Question"]["required"] == ["question"]


def test_the_command_prints_the_document() -> None:
    """Without a server or a database."""
    printed = CliRunner().invoke(cli, ["openapi"])
    assert json.loads(printed.stdout)["paths"].keys() == DOCUMENT["paths"].keys()
