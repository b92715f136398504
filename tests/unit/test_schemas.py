"""A schema costs what was counted before, whoever wrote it: what would cost more is refused, at once."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace._schema import DECIMAL, TIME
from services.events import domain, inputs
from services.gateway.workflows import WorkflowLookup
from shared import schemas
from shared.errors import Invalid
from shared.questions.workflows import WorkflowEntry
from shared.schemas import Checker, checker_of

MANY_NAMES = [f"k{number}" for number in range(3000)]


def checker(schema: Any) -> Checker:
    return checker_of(msgspec.json.encode(schema))


def layers(count: int, one: Any) -> dict[str, Any]:
    """`count` definitions, each of which refers to the next one as `one` says."""
    definitions = {f"d{number}": one({"$ref": f"#/$defs/d{number + 1}"}) for number in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{count}": {"type": "string"}}}


def unions(count: int) -> dict[str, Any]:
    """A tree whose inner nodes are of so many kinds, which look alike."""
    either = [{"$ref": f"#/$defs/kind{number}"} for number in range(count)]
    kind = {"type": "object", "properties": {"left": {"$ref": "#/$defs/any"}, "right": {"$ref": "#/$defs/any"}}}
    kinds = {f"kind{number}": kind for number in range(count)}
    return {"$ref": "#/$defs/any", "$defs": {"any": {"anyOf": [*either, {"type": "integer"}]}, **kinds}}


def nested(value: Any, levels: int, name: str = "left") -> Any:
    for _ in range(levels):
        value = {name: value}
    return value


BRANCHES: list[Any] = [
    lambda ref: {"allOf": [ref, ref]},
    lambda ref: {"anyOf": [ref, {"not": ref}]},
    lambda ref: {"oneOf": [ref, ref, ref]},
    lambda ref: {"if": ref, "then": ref, "else": ref},
    lambda ref: {"dependentSchemas": {"a": ref, "b": ref}},
    lambda ref: {"dependencies": {"a": ref, "b": ref}},
    lambda ref: {"allOf": [ref], "unevaluatedProperties": False},
    lambda ref: {**ref, "allOf": [ref]},
]


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("count", [16, 27, 400])
def test_levels_that_double_are_refused_at_once(branch: Any, count: int) -> None:
    with pytest.raises(Invalid):
        checker(layers(count, branch))


@pytest.mark.parametrize("branch", BRANCHES)
def test_some_levels_are_no_harm(branch: Any) -> None:
    checker(layers(4, branch)).problems("text", "it")


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"$ref": "#"}, "schema.$ref"),
        ({"allOf": [{"$ref": "#"}]}, "schema.allOf.0.$ref"),
        ({"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}}, "schema.properties.a.anyOf.0.$ref"),
        ({"$ref": "https://127.0.0.1:9/x"}, "schema.$ref"),
        ({"$ref": "file:///etc/passwd"}, "schema.$ref"),
        ({"$ref": 5}, "schema.$ref"),
        ({"$ref": "#/$defs/none"}, "schema.$ref"),
        ({"$ref": "#/a/99999999999"}, "schema.$ref"),
        ({"items": {"$id": "https://127.0.0.1:9/x"}}, "schema.items.$id"),
        ({"$dynamicRef": "#a"}, "schema.$dynamicRef"),
        ({"$recursiveRef": "#"}, "schema.$recursiveRef"),
        ({"items": 5}, "schema.items"),
        ({"allOf": ["x"]}, "schema.allOf.0"),
        ({"type": "text"}, "schema.type"),
        ({"pattern": "(?=a)b"}, "schema.pattern"),
        ({"pattern": r"(a)\1"}, "schema.pattern"),
        ({"pattern": "(a{1000}){1000}"}, "schema.pattern"),
        ({"pattern": "((a{1,30}){1,30}){1,30}b"}, "schema.pattern"),
        ({"items": {"pattern": "(?x)(a{ 1 , 30 } #)\n){1,30}"}}, "schema.items.pattern"),
        ({"anyOf": [{"pattern": "[[](a{1,30}){3}{10}"}]}, "schema.anyOf.0.pattern"),
        ({"patternProperties": {"(?!a)": {}}}, "schema.patternProperties.(?!a)"),
        ({"patternProperties": {"(.{9}){90}$": {}}}, "schema.patternProperties.(.{9}){90}$"),
        ({"propertyNames": {"pattern": "(.{9}){90}$"}}, "schema.propertyNames.pattern"),
        (nested({}, 100, "items"), "schema"),
        ({"enum": ["x" * 200_000]}, "schema"),
        ({"$schema": "https://127.0.0.1:9/x"}, "schema"),
        (unions(200), "schema.$ref.anyOf.176.$ref.properties.left.$ref"),
        (5, "schema"),
    ],
)
def test_what_is_no_bounded_schema_is_refused_with_its_place(schema: Any, place: str) -> None:
    with pytest.raises(Invalid) as refused:
        checker(schema)
    (problem,) = refused.value.errors
    assert problem.path == place


@pytest.mark.parametrize(
    "pattern",
    [
        "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        "^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\\.[a-zA-Z]{2,}$",
        "^(https?|ftp)://[^\\s/$.?#].[^\\s]*$",
        r"^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+)?$",
        "^.{1,200}$",
        TIME,
        DECIMAL,
    ],
)
def test_a_usual_pattern_is_taken_beside_a_long_text(pattern: str) -> None:
    made = checker({"properties": {"one": {"anyOf": [{"pattern": pattern}, {"const": "x"}]}}})
    assert made.problems({"one": "x", "body": "a" * 400_000}, "it") == []


@pytest.mark.parametrize("pattern", [TIME, DECIMAL])
def test_the_patterns_of_the_sdk_are_taken_beside_the_largest_input(pattern: str) -> None:
    made = checker({"properties": {"one": {"anyOf": [{"pattern": pattern}, {"const": "x"}]}}})
    assert made.problems({"one": "x", "body": "a" * (inputs.LARGEST_INPUT // 2)}, "it") == []


@pytest.mark.parametrize("schema", [True, False, {}, {"$id": "https://example.com/a", "$ref": "#/$defs/a", "$defs": {"a": {}}}])
def test_what_is_one_is_taken(schema: Any) -> None:
    assert bool(checker(schema).problems(1, "it")) is (schema is False)


def test_types_that_hold_themselves_are_checked_to_any_depth() -> None:
    node = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "additionalProperties": False,
    }
    made = checker(node)
    assert made.problems(nested({}, 100), "it") == []
    assert [problem.path for problem in made.problems(nested({"up": 1}, 60), "it")] == [".".join(["it", *["left"] * 60, "up"])]


@pytest.mark.parametrize("kinds", [2, 3, 10])
def test_types_that_hold_each_other_in_alternatives_have_a_deepest_value(kinds: int) -> None:
    made = checker(unions(kinds))
    deepest = schemas.costs(unions(kinds)).deepest
    assert deepest is not None
    assert deepest >= schemas.LEAST_VALUE
    assert made.problems(nested(1, deepest), "it") == []
    for value in (nested(1, deepest + 1), nested("bad", 40)):
        (problem,) = made.problems(value, "it")
        assert (problem.path, "deeper" in problem.message) == ("it", True)


@pytest.mark.parametrize(
    ("schema", "value", "place"),
    [
        # The library makes a complaint of each, with all the values around it: a minute and a gigabyte for one body.
        ({"type": "array", "items": {"type": "integer"}}, ["a"] * 300_000, "it.0"),
        ({"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}, ["a"] * 300_000, "it"),
        ({"type": "array", "items": {"type": "integer"}}, [1] * 300_000 + ["a"], "it"),
        ({"items": {"anyOf": [{"type": "integer"}] * 100}}, ["a"] * 100_000, "it.0"),
        (unions(2), nested("bad", 10), "it"),
        ({"pattern": "^(a+)+$"}, "a" * 1_000_000 + "b", "it"),
        ({"items": {"allOf": [{"allOf": [{}] * 100}] * 100}}, [1] * 100_000, "it"),
        ({"pattern": "(a|b)*a(a|b){99}c"}, "ab" * 1_000_000, "it"),
        ({"additionalProperties": {"required": MANY_NAMES}}, {str(number): {} for number in range(600)}, "it"),
        ({"anyOf": [{"additionalProperties": {"required": MANY_NAMES}}] * 2}, {str(number): {} for number in range(600)}, "it"),
        ({"additionalProperties": {"dependentRequired": {"a": MANY_NAMES}}}, {str(one): {"a": 1} for one in range(600)}, "it"),
        ({"patternProperties": {"(a|b)*a(a|b){99}c": {}}}, {"ab" * 1_000_000: 1}, "it"),
        ({"items": {"enum": list(range(20_000))}}, [1] * 100_000, "it"),
    ],
)
def test_a_large_value_that_does_not_fit_is_told_in_short(schema: Any, value: Any, place: str) -> None:
    problems = checker(schema).problems(value, "it")
    assert 0 < len(problems) <= schemas.COMPLAINTS
    assert problems[0].path == place
    assert all(len(problem.message) <= 300 for problem in problems)


def test_each_unknown_name_has_its_own_path() -> None:
    closed = checker({"properties": {"a": {"properties": {"b": {}}, "additionalProperties": False}}})
    told = closed.problems({"a": {"b": 1, "c": 2, "d": 3}}, "it")
    assert [(one.path, one.message) for one in told] == [("it.a.c", "'c' is unknown"), ("it.a.d", "'d' is unknown")]
    many = closed.problems({"a": {"\n" * 300 + str(number): 1 for number in range(600)}}, "it")
    assert len(many) == schemas.COMPLAINTS
    assert all(len(one.message) <= 300 for one in many)


PLACES = st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/items", "#/allOf/0"])


def held(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(one, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from("ab"), one, max_size=2)
    kinds = st.sampled_from(["object", "array", "integer"])
    keywords = {
        "allOf": several,
        "anyOf": several,
        "items": one,
        "properties": named,
        "$ref": PLACES,
        "$defs": named,
        "type": kinds,
    }
    return st.fixed_dictionaries({}, optional=keywords)


@given(st.recursive(st.just({}), held, max_leaves=8), st.integers(0, 60))
def test_whatever_is_taken_is_checked_in_no_time(schema: Any, depth: int) -> None:
    try:
        made = checker(schema)
    except Invalid:
        return
    for name in ("a", "b"):
        made.problems(nested("bad", depth, name), "it")
    value: Any = "bad"
    for _ in range(depth):
        value = [value, value] if depth < 10 else [value]
    made.problems(value, "it")


def test_a_schema_that_an_older_version_took_is_not_begun_with() -> None:
    hostile = layers(27, lambda ref: {"allOf": [ref, ref]})
    with pytest.raises(Invalid):  # which makes the event unroutable, with this reason
        domain.misfit(hostile, {"a": 1})
    entry = WorkflowEntry(
        org="o", name="w", version="v", module="m", function="f", path="p", line=1, doc="", input_schema=hostile, timeout=1.0,
        retries=0, concurrency=None, updated_at="",
    )  # fmt: skip
    with pytest.raises(Invalid, match="cannot be used"):
        WorkflowLookup(cast("Any", None), cast("Any", None)).check(entry, {"a": 1})


def test_items_that_many_contains_are_asked_for_again_cost_more_than_others() -> None:
    each = {"allOf": [{"contains": {"enum": [number, "any"]}} for number in range(500)]}
    some, many = ["any"], ["any", *range(10_000)]
    rest = checker({**each, "unevaluatedItems": False})
    assert rest.problems(some, "it") == []
    assert [one.message for one in rest.problems(many, "it")] == ["is too large to be checked"]
    assert checker(each).problems(many, "it") == []
