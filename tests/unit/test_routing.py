"""Pure decisions of the events service: what filters and inputs see, what may be emitted, which schemas may stand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.events import domain, inputs, schemas
from services.events.adapters import DESCRIPTIONS, PARSERS, VERIFICATIONS
from shared.errors import Invalid, MillraceError, NotFound, Problem, TooLarge
from shared.expressions.pool import Trouble
from shared.messages import EventAccepted
from shared.questions.events import EmitEvent, MappingView
from shared.resources.source import Source, SourceEntry

NOW = "2026-01-02T03:04:05.000000Z"
EVENT = EventAccepted(
    source="s", source_name="repo", event="e", delivery="d", type="push", headers={}, received_at=NOW, data={"ref": "main"}
)
INTEGRATION = domain.integration_document(
    MappingView(
        id="m",
        org="acme",
        integration="halopsa",
        config={"sites": ["a", "b"], "limits": {"pages": 3}},
        entity_id="42",
        connection="main",
        provider=None,
        problems=[],
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )
)


def mapped(mapping: Any, event: dict[str, Any], integration: Any = None, **values: Any) -> dict[str, Any]:
    """Map an input; expressions have these values, and no others have any."""

    async def evaluate(source: str) -> Any:
        if source not in values:
            raise Trouble(f"no value of {source}")
        return values[source]

    return asyncio.run(inputs.mapped(mapping, event, integration, evaluate))


WITH = domain.event_document(EVENT, EVENT.data, INTEGRATION)
WITHOUT = domain.event_document(EVENT, EVENT.data)


def test_an_event_tells_of_its_integration_who_it_is_and_nothing_of_its_config() -> None:
    assert WITH == WITHOUT | {"integration": {"name": "halopsa", "entity_id": "42"}}
    assert "integration" not in WITHOUT
    assert mapped(None, WITH, INTEGRATION) == {"event": WITH}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("integration.config.sites", ["a", "b"]),
        ("integration.config.sites.1", "b"),
        ("integration.config.limits.pages", 3),
        ("integration.entity_id", "42"),
        ("integration.connection", "main"),
        ("integration.name", "halopsa"),
        ("event.integration.entity_id", "42"),
        ("integration", "integration"),
        ("integrations.config", "integrations.config"),
        (7, 7),
    ],
)
def test_an_input_comes_from_its_path_or_is_the_literal_that_it_is(path: Any, value: Any) -> None:
    assert mapped({"a": path}, WITH, INTEGRATION) == {"a": value}


@pytest.mark.parametrize(
    ("path", "integration", "said"),
    [
        ("integration.config.none", INTEGRATION, "input a: this integration has no integration.config.none"),
        ("integration.entity_id.x", INTEGRATION, "input a: this integration has no integration.entity_id.x"),
        ("integration.config.x", None, "input a: the source of this event names no integration"),
        ("event.data.none", INTEGRATION, "input a: this event has no event.data.none"),
    ],
)
def test_a_path_that_leads_nowhere_names_its_parameter(path: str, integration: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        mapped({"a": path}, WITH, integration)
    assert refused.value.errors == (Problem("input.a", path),)


@pytest.mark.parametrize(
    ("mapping", "path"),
    [
        ({f"p{n}": 1 for n in range(101)}, "input"),
        ({"a": "x" * 70_000}, "input"),
        ({"a": 1, "b": "event." + "x" * 1000}, "input.b"),
        ({"b": "event..x"}, "input.b"),
        ({"b": "event."}, "input.b"),
    ],
)
def test_an_input_mapping_has_bounds(mapping: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        inputs.parameters_of(mapping)
    assert refused.value.errors[0].path == path
    inputs.parameters_of({"a": "event.data.x", "b": "events", "c": [1] * 100})


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"$path": "event.data.ref"}, "main"),
        ({"$path": "event.data.none", "$default": 7}, 7),
        ({"$path": "event.data.none", "$default": None}, None),
        ({"$path": "event.data.ref", "$default": 7}, "main"),
        ({"$cel": "size"}, 4),
        ({"$cel": "none", "$default": {"a": 1}}, {"a": 1}),
        ({"$value": "event.data.ref"}, "event.data.ref"),
        ({"$value": {"$path": "event"}}, {"$path": "event"}),
        ({"$env": "HOME"}, {"$env": "HOME"}),
    ],
)
def test_an_input_is_a_path_an_expression_or_a_literal_with_a_default(given: dict[str, Any], value: Any) -> None:
    assert mapped({"a": given, "b": 1}, WITH, INTEGRATION, size=4) == {"a": value, "b": 1}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"$path": "event.data.ref", "$cel": "1"}, "input.a"),
        ({"$path": "event.data.ref", "default": 1}, "input.a"),
        ({"$default": 1}, "input.a"),
        ({"$value": 1, "$default": 2}, "input.a"),
        ({"$path": "data.ref"}, "input.a.$path"),
        ({"$path": 5}, "input.a.$path"),
        ({"$path": "event..ref"}, "input.a.$path"),
        ({"$cel": None}, "input.a.$cel"),
    ],
)
def test_an_input_of_no_form_names_its_place(given: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        inputs.parameters_of({"a": given})
    assert refused.value.errors[0].path == path


def test_an_expression_without_a_value_names_its_parameter() -> None:
    with pytest.raises(Invalid, match="input a: the expression has no value: no value of x") as refused:
        mapped({"a": {"$cel": "x"}}, WITH)
    assert refused.value.errors[0].path == "input.a"
    with pytest.raises(Invalid, match="more than 20 expressions"):
        inputs.parameters_of({f"p{n}": {"$cel": "1"} for n in range(21)})


@pytest.mark.parametrize(
    ("path", "entity"),
    [("event.data.ref", "main"), ("event.type", "push"), ("event.data", None), ("event.data.none", None), (None, None)],
)
def test_an_entity_is_a_text_in_the_event(path: str | None, entity: str | None) -> None:
    assert domain.entity_in(WITHOUT, path) == entity


def test_a_number_in_a_path_may_be_of_any_length() -> None:
    with pytest.raises(Invalid):
        mapped({"a": "event.data.l." + "9" * 5000}, {"data": {"l": [1]}})


def test_an_event_over_and_over_is_no_input() -> None:
    event = {"data": "x" * (1 << 20)}
    inputs.within_bounds(mapped({f"p{n}": "event" for n in range(50)}, event))
    with pytest.raises(Invalid, match="larger than 64 MiB"):
        inputs.within_bounds(mapped({f"p{n}": "event" for n in range(70)}, event))


# -- topics -----------------------------------------------------------------------------------------------------------


def emit(topic: dict[str, Any] | None = None, *, again: bool = False, **fields: Any) -> EventAccepted:
    spec = Source(**{"adapter": "topic"} | (topic or {}))
    there = SourceEntry(id="s", org="acme", key="k", name="orders", spec=spec, created_at="", updated_at="", version=1)
    given = {"source": "orders", "type": "order.paid"} | fields
    return domain.emitted(EmitEvent(id="c", org="acme", actor="me", **given), there, "d", NOW, again=again)


def test_hops_count_the_runs_and_end() -> None:
    assert (emit(hops=9).hops, emit().emitted_by) == (0, "me")
    assert (emit(run="r").hops, emit(run="r").emitted_by) == (1, "run:r")
    assert emit(run="r", hops=31).hops == domain.MAX_HOPS
    with pytest.raises(Invalid, match="32 runs"):
        emit(run="r", hops=32)


@pytest.mark.parametrize(
    ("topic", "fields", "error", "said"),
    [
        ({"adapter": "github"}, {}, Invalid, "'orders' has the adapter 'github'"),
        ({"enabled": False}, {}, NotFound, "switched off"),
        ({}, {"type": "a b"}, Invalid, "cannot be a type"),
        ({}, {"type": "x" * 101}, Invalid, "cannot be a type"),
        ({}, {"data": "x" * 300_000}, TooLarge, "262144 bytes"),
    ],
)
def test_what_cannot_be_emitted_is_named(
    topic: dict[str, Any], fields: dict[str, Any], error: type[MillraceError], said: str
) -> None:
    with pytest.raises(error, match=said):
        emit(topic, **fields)


def test_what_was_emitted_before_the_source_was_switched_off_is_known_again() -> None:
    assert emit({"enabled": False}, again=True) == emit()


def test_every_adapter_has_a_sender_that_is_verified_and_read_or_is_a_topic() -> None:
    sent = {name for name, declare in VERIFICATIONS.items() if declare({}).methods}
    assert DESCRIPTIONS.keys() - {domain.TOPIC, domain.ALERTS} == PARSERS.keys() == sent
    assert VERIFICATIONS.keys() == DESCRIPTIONS.keys()


# -- schemas ----------------------------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        made = {"type": "object", "properties": {"a": made}}
    return made


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "object", "properties": {"a": {"type": "array", "format": "password"}}}, "config_schema.properties.a"),
        (
            {"type": "object", "properties": {"a": {"properties": {"b": {"writeOnly": True}}}}},
            "config_schema.properties.a.properties.b",
        ),
        ({"type": "object", "allOf": [{}, {"items": {"writeOnly": True}}]}, "config_schema.allOf.1.items"),
        ({"type": "object", "$defs": {"format": {"writeOnly": True}}}, "config_schema.$defs.format"),
        ({"type": "object", "additionalProperties": {"format": "password"}}, "config_schema.additionalProperties"),
        ({"type": ["object", "null"]}, "config_schema.type"),
        ({"type": "object", "minProperties": "1"}, "config_schema.minProperties"),
        ({"type": "object", "$ref": "https://127.0.0.1:9/x"}, "config_schema.$ref"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, "config_schema.properties.a.$ref"),
        (nested(3000), "config_schema"),
        (nested(900), "config_schema"),
    ],
)
def test_a_schema_that_cannot_stand_is_refused_with_the_place(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        schemas.checked_config_schema(schema)
    assert [problem.path for problem in refused.value.errors] == [path]


def test_names_and_values_are_not_taken_for_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {"format": {"const": {"format": "password"}}, "writeOnly": True},
        "examples": [{"writeOnly": True, "format": "password"}],
        "default": {"format": "password"},
    }
    assert schemas.checked_config_schema(schema) == schema


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"type": "object", "properties": {"child": {"$ref": "#"}, "n": {"type": "integer"}}}
    schemas.checked_config_schema(schema)
    assert schemas.misfits(schema, {"child": {"child": {"n": "x"}}}, at="config") == [
        Problem("config.child.child.n", '"x" is not of type "integer"')
    ]
    # As an older version may have taken them.
    for loop in ({"type": "object", "$ref": "#"}, {"type": "object", "allOf": [{"$ref": "#"}]}):
        assert [problem.path for problem in schemas.misfits(loop, {"a": 1}, at="config")] == ["config"]
