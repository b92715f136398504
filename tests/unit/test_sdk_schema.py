"""Signatures become schemas, and inputs that fit them become arguments."""

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import InputError, data_provider, workflow
from millrace._binding import bind
from millrace._declare import REGISTRY
from millrace._hints import Unsupported
from millrace._schema import input_schema


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Node:
    name: str
    children: list["Node"] = field(default_factory=list)


class Ticket(TypedDict):
    id: int
    title: NotRequired[str]


@dataclass
class Positive:
    amount: int

    def __post_init__(self) -> None:
        if self.amount < 0:
            msg = "amount is below 0"
            raise ValueError(msg)


def properties(function: Callable[..., Any]) -> Any:
    schema = input_schema(function)
    jsonschema_rs.Draft202012Validator(schema)
    return schema["properties"]


def bound(function: Callable[..., Any], **given_input: Any) -> dict[str, Any]:
    schema = input_schema(function)
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(given_input)
    args, kwargs = bind(function, given_input)
    function(*args, **kwargs)
    return kwargs


def test_parameters_without_a_default_are_required() -> None:
    def main(event: dict[str, Any], limit: int = 50, *, note: str | None = None) -> None: ...

    assert input_schema(main) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "event": {"type": "object"},
            "limit": {"type": "integer", "default": 50},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["event"],
        "additionalProperties": False,
    }


def test_keyword_arguments_open_the_object() -> None:
    def loose(**more: Any) -> None: ...
    def typed(**more: int) -> None: ...

    assert input_schema(loose)["additionalProperties"] is True
    assert input_schema(typed)["additionalProperties"] == {"type": "integer"}
    assert bound(typed, a=1) == {"a": 1}
    with pytest.raises(InputError, match=r"input\.a: should be an integer"):
        bind(typed, {"a": "x"})


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (Any, {}),
        (bool, {"type": "boolean"}),
        (float, {"type": "number"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict[str, Any], {"type": "object"}),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (Literal["a", 1, None], {"enum": ["a", 1, None]}),
        (Colour, {"enum": ["red", "blue"]}),
        (datetime, {"type": "string", "format": "date-time"}),
        (date, {"type": "string", "format": "date"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
        ("list[Colour]", {"type": "array", "items": {"enum": ["red", "blue"]}}),
    ],
)
def test_types_have_schemas(hint: Any, schema: Any) -> None:
    def main(a) -> None: ...  # type: ignore[no-untyped-def]

    main.__annotations__["a"] = hint
    assert properties(main)["a"] == schema


def test_a_type_may_hold_itself() -> None:
    def main(node: Node) -> None: ...

    schema = input_schema(main)
    assert schema["$defs"]["Node"]["required"] == ["name"]
    assert schema["$defs"]["Node"]["properties"]["children"] == {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    assert bound(main, node={"name": "a", "children": [{"name": "b"}]}) == {"node": Node("a", [Node("b")])}
    with pytest.raises(InputError) as caught:
        bind(main, {"node": {"name": "a", "children": [{"nam": "b"}]}})
    assert sorted(caught.value.faults) == [
        ("input.node.children.0.nam", "is not a known name"),
        ("input.node.children.0.name", "is required"),
    ]


def test_a_typed_dict_lets_more_names_through() -> None:
    def main(ticket: Ticket) -> None: ...

    assert bound(main, ticket={"id": 1, "more": [2]}) == {"ticket": {"id": 1, "more": [2]}}
    with pytest.raises(InputError, match=r"input\.ticket\.id: is required"):
        bind(main, {"ticket": {"title": "x"}})


def test_texts_become_what_the_hints_say() -> None:
    def main(at: datetime, day: date, key: UUID, colour: Colour, sum_: Decimal, pair: tuple[int, str]) -> None: ...

    assert bound(
        main,
        at="2026-01-31T09:30:00Z",
        day="2026-01-31",
        key="12345678-1234-5678-1234-567812345678",
        colour="red",
        sum_="1.50",
        pair=[1, "a"],
    ) == {
        "at": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
        "day": date(2026, 1, 31),
        "key": UUID("12345678-1234-5678-1234-567812345678"),
        "colour": Colour.RED,
        "sum_": Decimal("1.50"),
        "pair": (1, "a"),
    }


@pytest.mark.parametrize("text", ["2026-01-31T09:30:00", "2026-01-31", "soon", 5])
def test_a_time_without_an_offset_is_refused(text: object) -> None:
    def main(at: datetime) -> None: ...

    with pytest.raises(InputError, match="with an offset"):
        bind(main, {"at": text})


@pytest.mark.parametrize(
    ("hint", "value", "result"),
    [
        (int | str, "1", "1"),
        (float | int, 3, 3),
        (str | None, None, None),
        (int, 1.0, 1),
        (float, 1, 1.0),
        (Node | None, {"name": "a"}, Node("a")),
        (Node | Ticket, {"id": 4}, {"id": 4}),
        (frozenset[int], [1, 1], frozenset({1})),
        (Literal[1, "x"], 1, 1),
    ],
)
def test_values_keep_the_type_that_was_meant(hint: Any, value: Any, result: Any) -> None:
    def main(a) -> None: ...  # type: ignore[no-untyped-def]

    main.__annotations__["a"] = hint
    _, kwargs = bind(main, {"a": value})
    assert kwargs["a"] == result
    assert type(kwargs["a"]) is type(result)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, True, "input.a: should be an integer, not True"),
        (str, 1, "input.a: should be a string, not 1"),
        (Literal[1], True, "input.a: should be one of 1, not True"),
        (Colour, "green", "input.a: should be one of 'red', 'blue', not 'green'"),
        (int | None, "x", "input.a: should be int or None, not 'x'"),
        (Node | None, {"name": 1}, "input.a.name: should be a string, not 1"),
        (Positive, {"amount": -1}, "input.a: amount is below 0"),
        (dict[str, list[int]], {"k": [1, "2"]}, "input.a.k.1: should be an integer, not '2'"),
        (tuple[int, int], [1], "input.a: should be an array of 2, not [1]"),
    ],
)
def test_a_misfit_is_told_by_path(hint: Any, value: Any, message: str) -> None:
    def main(a) -> None: ...  # type: ignore[no-untyped-def]

    main.__annotations__["a"] = hint
    with pytest.raises(InputError) as caught:
        bind(main, {"a": value})
    assert str(caught.value) == message


def test_every_fault_is_told_at_once() -> None:
    def main(a: int, b: str) -> None: ...

    with pytest.raises(InputError) as caught:
        bind(main, {"a": "x", "c": 1})
    assert [path for path, _ in caught.value.faults] == ["input.a", "input.c", "input.b"]
    with pytest.raises(InputError, match="input: should be an object"):
        bind(main, [])


def test_positional_only_parameters_are_found_by_name() -> None:
    def main(a: int, b: int = 2, /, c: int = 3) -> None: ...

    assert bind(main, {"a": 1, "c": 4}) == ([1, 2], {"c": 4})


@pytest.mark.parametrize("hint", [complex, bytes, dict[int, str], "Missing", Callable[[], None]])
def test_what_no_json_value_becomes_is_unsupported(hint: Any) -> None:
    def main(a) -> None: ...  # type: ignore[no-untyped-def]

    main.__annotations__["a"] = hint
    with pytest.raises(Unsupported):
        input_schema(main)


SAMPLES = {
    "flag": st.booleans(),
    "many": st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=3),
    "node": st.fixed_dictionaries({"name": st.text(max_size=3) | st.integers()}),
    "colour": st.sampled_from(["red", "green", 1, None]),
    "size": st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=2),
    "extra": st.integers(),
}


@given(st.fixed_dictionaries({}, optional=SAMPLES))
def test_the_binding_takes_exactly_what_the_schema_takes(given_input: dict[str, Any]) -> None:
    def main(
        flag: bool, many: list[int | None] | None = None, node: Node | None = None, *, colour: Colour = Colour.RED,
        size: float = 0,
    ) -> None: ...  # fmt: skip

    fits = jsonschema_rs.Draft202012Validator(input_schema(main)).is_valid(given_input)
    try:
        bind(main, given_input)
    except InputError:
        assert not fits
    else:
        assert fits


def test_a_decorated_function_is_the_function() -> None:
    def main() -> int:
        return 1

    before = len(REGISTRY)
    assert workflow(main) is main
    assert workflow(name="other", timeout=5, retries=2, concurrency="org")(main) is main
    assert data_provider(main) is main
    added = REGISTRY[before:]
    assert [(one.name, one.timeout, one.retries, one.is_data_provider) for one in added] == [
        ("main", None, 0, False),
        ("other", 5, 2, False),
        ("main", None, 0, True),
    ]
    assert dataclasses.is_dataclass(added[0])
    del REGISTRY[before:]


def test_only_functions_that_return_are_workflows() -> None:
    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        workflow(stream)
    with pytest.raises(TypeError, match="only a function"):
        workflow(print)
