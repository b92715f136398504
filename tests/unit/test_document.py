import re
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import document, methods_of, path_of
from services.gateway.api.document_page import page


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(ENDPOINTS)))
    return decoded


def operations(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for path in made["paths"].values() for one in path.values()]


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [one for inner in value for one in references(inner)]
    if not isinstance(value, dict):
        return []
    return ([value["$ref"]] if "$ref" in value else []) + references(list(value.values()))


def test_every_endpoint_is_an_operation_and_nothing_else_is(made: dict[str, Any]) -> None:
    shown = {(path, method) for path, of_path in made["paths"].items() for method in of_path}
    assert shown == {(path_of(endpoint), method) for endpoint in ENDPOINTS for method in methods_of(endpoint)}
    ids = [one["operationId"] for one in operations(made)]
    assert len(set(ids)) == len(ids)


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    for reference in references(made):
        place: Any = made
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_every_schema_is_one(made: dict[str, Any]) -> None:
    schemas = [*made["components"]["schemas"].values()]
    schemas += [parameter["schema"] for one in operations(made) for parameter in one["parameters"]]
    for schema in schemas:
        jsonschema_rs.meta.validate(schema)
        for pattern in re.findall(r'"pattern":"([^"]*)"', msgspec.json.encode(schema).decode()):
            # Anchors of Python's, which no other language knows.
            assert not re.search(r"\\\\[AZz]", pattern)


def test_who_needs_no_key_is_said(made: dict[str, Any]) -> None:
    for endpoint in ENDPOINTS:
        for method in methods_of(endpoint):
            operation = made["paths"][path_of(endpoint)][method]
            assert ("security" in operation) == ("x-role" in operation) == (endpoint.role is not None)
            assert operation.get("x-role") == endpoint.role


def test_every_declared_error_has_a_problem_document(made: dict[str, Any]) -> None:
    for endpoint in ENDPOINTS:
        for method in methods_of(endpoint):
            responses = made["paths"][path_of(endpoint)][method]["responses"]
            assert set(responses) == {str(status) for status in endpoint.answers} | {str(one.status) for one in endpoint.refusals()}
    for name, response in made["components"]["responses"].items():
        assert [*response["content"]] == ["application/problem+json"], name


def test_every_operation_has_a_summary_that_is_a_sentence(made: dict[str, Any]) -> None:
    assert [one["operationId"] for one in operations(made) if not re.fullmatch(r"[A-Z].*\.", one["summary"])] == []


def test_what_authors_of_declarations_write_cannot_be_markup() -> None:
    hostile = {"openapi": "3.1.0", "info": {"title": "<u>", "version": "<u>", "description": "`<u>`"}, "tags": [{"name": "t"}]}
    operation = {
        "operationId": "o",
        "tags": ["t"],
        "summary": "<u>",
        "parameters": [],
        "responses": {"200": {"description": "<u>"}},
    }
    hostile |= {"paths": {"/<u>": {"get": operation}}, "components": {"schemas": {"<u>": {"description": "<u>"}}}}
    assert "<u>" not in page(hostile)
