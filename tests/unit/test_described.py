"""What a child says that a bundle holds is taken where it is what the SDK says, and told with its place where it is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pytest

from millrace import _bounds, _declare, _schema
from millrace._runtime import encode
from millrace._schema import input_schema
from services.executor.runs import run_state
from services.executor.sandbox import described, frames, grammar
from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.interface import BundleProblem
from shared import schemas
from shared.messages.catalog import Policy
from tests.unit.test_frames import payload
from tests.unit.test_schemas import layers

SCHEMA: dict[str, Any] = {"$schema": grammar.DIALECT, "type": "object", "properties": {}, "additionalProperties": False}
GOOD: dict[str, Any] = {
    "name": "good",
    "module": "lib.flows",
    "path": "lib/flows.py",
    "line": 7,
    "function": "good",
    "doc": None,
    "input_schema": SCHEMA,
    "timeout": 300,
    "retries": 3,
    "concurrency": "org",
    "is_data_provider": False,
    "policy": msgspec.to_builtins(Policy()),
}
YEAR = _bounds.YEAR


def told(**fields: Any) -> BundleProblem:
    """Say two workflows, of which one is as given; return what is wrong with it once the other one serves."""
    frame = frames.decode(payload(kind="described", workflows=[GOOD | {"name": "other"}, GOOD | fields], problems=[]))
    assert isinstance(frame, frames.Described)
    found = described.description(frame.workflows, frame.problems)
    assert [one.name for one in found.workflows] == ["other"]
    (problem,) = found.problems
    return problem


def test_what_the_sdk_says_is_taken_as_it_is() -> None:
    found = described.description([GOOD], [])
    assert found.problems == []
    assert msgspec.to_builtins(found.workflows) == [GOOD | {"timeout": 300.0}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", value) for value in (-5, 0, 1e300, YEAR + 1, sys.maxsize, "5", True)),
        *(("retries", value) for value in (-1, 10**6, sys.maxsize, 1.5, "1", None)),
        *(("name", value) for value in ("", "a b", "x" * 65, "ä", "-a", "a\n", 5, None)),
        *(("line", value) for value in (0, -1, 2**31, 2**63, "7", None)),
        *(("module", value) for value in ("", "x" * 1025, 5)),
        *(("function", value) for value in ("", "x" * 1025, 5)),
        *(("doc", value) for value in ("x" * 20_001, 5)),
        *(("concurrency", value) for value in ("", "x" * 4097, 5)),
        ("is_data_provider", "yes"),
        ("surprise", 1),
        ("policy", None),
        ("policy", {"surprise": 1}),
        *(("policy", {"queue_timeout": value}) for value in (-1, 0, 1e300, YEAR + 1, sys.maxsize)),
        *(("policy", {"retry_delay": value}) for value in (-1, 1e15, YEAR + 1)),
        *(("policy", {"retry_max_delay": value}) for value in (-1, 1e15)),
        *(("policy", {"concurrency_limit": value}) for value in (0, -1, 1001, 10**30 % 2**63)),
        ("policy", {"concurrency_policy": "all"}),
        ("policy", {"isolation": "none"}),
        ("input_schema", None),
        ("input_schema", []),
    ],
)
def test_a_field_that_is_out_of_bounds_is_a_problem_of_its_file_and_the_others_serve(name: str, value: Any) -> None:
    problem = told(**{name: value})
    assert problem.path == "lib/flows.py"
    assert problem.line == (1 if name == "line" else 7)
    assert (next(iter(value)) if isinstance(value, dict) else name) in problem.message


def test_two_workflows_of_one_name_are_told() -> None:
    found = described.description([GOOD, GOOD], [])
    assert len(found.workflows) == 1
    assert "already in lib/flows.py line 7" in found.problems[0].message


@pytest.mark.parametrize("path", ["", "x" * 1025, None, 5])
def test_a_workflow_without_a_place_is_a_problem_of_the_bundle(path: Any) -> None:
    assert told(path=path).path == "."


@pytest.mark.parametrize(
    "frame",
    [
        {"workflows": [], "problems": [{"path": "x" * 2000, "line": 1, "message": "m"}]},
        {"workflows": [], "problems": [{"path": "p", "line": 2**40, "message": "m"}]},
        {"workflows": [], "problems": [{"path": "p", "line": 1, "message": "m" * 3000}]},
        {"workflows": [{}] * 2001, "problems": []},
        {"workflows": [GOOD | {"doc": "a\0"}], "problems": []},
        {"workflows": [GOOD | {"input_schema": SCHEMA | {"default": 2**70}}], "problems": []},
        {"workflows": [5], "problems": []},
        {"workflows": {}, "problems": []},
    ],
)
def test_what_is_no_description_ends_the_child(frame: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        frames.decode(payload(kind="described", **frame))


def schema(**fields: Any) -> dict[str, Any]:
    return SCHEMA | fields


def of(**fields: Any) -> dict[str, Any]:
    """The schema of one parameter, which is as given."""
    return SCHEMA | {"properties": {"a": fields}}


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"type": "object"},
        schema(**{"$schema": "http://json-schema.org/draft-07/schema#"}),
        schema(allOf=[{}]),
        schema(**{"$defs": []}),
        schema(**{"$defs": {"a/b": {}}}),
        schema(**{"$defs": {"a": 5}}),
        schema(required="a"),
        schema(properties={"a": 5}),
        layers(27, lambda ref: {"allOf": [ref, ref]}) | SCHEMA,
        layers(27, lambda ref: {"anyOf": [ref, ref]}) | SCHEMA,
        of(allOf=[{}]),
        of(oneOf=[{}]),
        of(**{"not": {}}),
        of(**{"if": {}}),
        of(**{"$ref": "https://127.0.0.1:9/x"}),
        of(**{"$ref": "#"}),
        of(**{"$ref": "#/$defs/none"}),
        of(**{"$ref": ["#"]}),
        of(**{"$id": "x"}),
        of(**{"$defs": {}}),
        of(**{"$dynamicRef": "#a"}),
        of(pattern="(a+)+$"),
        of(pattern="^x" * 50_000),
        of(patternProperties={"(a+)+$": {}}),
        of(format="regex"),
        of(const=1),
        of(type="text"),
        of(type=["string"]),
        of(enum="abc"),
        of(enum=[[1]]),
        of(enum=[{"a": 1}]),
        of(enum=list(range(10_001))),
        of(minItems=-1),
        of(minItems=True),
        of(minItems=1e9),
        of(uniqueItems=1),
        of(items=[{}]),
        of(items="x"),
        of(prefixItems=[True]),
        of(anyOf=[5]),
        of(anyOf={}),
        of(maxLength=5),
        of(description=5),
        of(description="x" * 200_000),
        of(unevaluatedProperties=False),
        of(properties={str(number): {} for number in range(60_000)}),
    ],
)
def test_a_schema_that_no_signature_leads_to_is_refused_with_its_file(forged: dict[str, Any]) -> None:
    problem = told(input_schema=forged)
    assert (problem.path, problem.line) == ("lib/flows.py", 7)
    assert "schema" in problem.message
    assert len(problem.message) <= 2000


def test_schemas_nested_as_deep_as_a_frame_allows_are_refused() -> None:
    deep: Any = {}
    for _ in range(95):
        deep = {"items": deep}
    assert grammar.complaint(of(**deep)) is not None


class Colour(Enum):
    RED = "red"
    NONE = None


class Ticket(TypedDict, total=False):
    id: int
    tags: set[str]


@dataclass
class Node:
    """A node.

    Args:
        value: what it holds.
    """

    value: Any = None
    left: Node | None = None
    children: list[Node] = field(default_factory=list)


@dataclass
class Sum:
    left: Term
    right: Term


@dataclass
class Product:
    left: Term
    right: Term


Term = int | Sum | Product


def everything(
    a: int,
    b: float,
    c: str,
    d: bool,
    e: None,
    f: datetime,
    g: date,
    h: time,
    i: UUID,
    j: Decimal,
    k: list[int],
    l: tuple[int, str],  # noqa: E741
    m: tuple[int, ...],
    n: dict[str, Node],
    o: Literal["x", 1, None],
    p: Colour,
    q: Ticket,
    r: Term,
    s: Annotated[int | None, "a number"] = None,
    t: Any = {"a": [1]},  # noqa: B006
    u: tuple[()] = (),
    **rest: str,
) -> None: ...


def untyped(a, b=5, *, c=None, **rest):  # type: ignore[no-untyped-def]
    """Do it."""


def nothing() -> None: ...


@pytest.mark.parametrize("function", [everything, untyped, nothing])
def test_every_schema_that_the_sdk_emits_is_in_the_grammar(function: Callable[..., Any]) -> None:
    emitted = input_schema(function)
    assert grammar.complaint(emitted) is None
    schemas.checker_of(msgspec.json.encode(emitted), formats=True)


def test_both_sides_have_the_same_bounds() -> None:
    assert {_schema.DECIMAL, _schema.TIME} == grammar.PATTERNS
    assert schemas.MOST_BYTES >= _schema.LARGEST
    assert (described.MOST_RETRIES, described.MOST_AT_A_TIME) == (_bounds.RETRIES, _bounds.TURNS)
    assert run_state.MOST_AT_A_TIME == _bounds.TURNS
    assert described.MOST_EXPRESSION == _bounds.EXPRESSION
    # What the SDK sends at most is taken.
    most = GOOD | {
        "name": "x" * 64,
        "timeout": YEAR,
        "retries": _bounds.RETRIES,
        "concurrency": "x" * _bounds.EXPRESSION,
        "doc": encode.clean("x" * 100_000),
        "policy": {"retry_delay": YEAR, "retry_max_delay": YEAR, "queue_timeout": YEAR, "concurrency_limit": _bounds.TURNS},
    }
    assert described.description([most], []).problems == []
    assert _declare._NAME.pattern == "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


def taking(hint: Any) -> Callable[..., Any]:
    def main(a: Any) -> None: ...

    main.__annotations__ = {"a": hint}
    return main


@pytest.mark.parametrize("choice", [float("inf"), float("nan"), "a\0b", "\ud800", 2**70])
def test_a_choice_that_no_json_holds_names_the_parameter(choice: Any) -> None:
    for hint in (Enum("Odd", {"NONE": choice}), Literal[choice], list[Literal[choice]]):  # type: ignore[valid-type]
        with pytest.raises(_schema.Unsupported, match="parameter a"):
            input_schema(taking(hint))


def test_names_and_texts_that_cannot_be_stored_are_told_or_replaced() -> None:
    strange = TypedDict("strange", {"a\0": int})
    with pytest.raises(_schema.Unsupported, match="at most 200"):
        input_schema(taking(strange))

    def told_of(a: Annotated[int, "a\0b"] = 1, b: str = "\0", c: str = "\ud800", d: float = float("inf")) -> None: ...

    emitted = input_schema(told_of)
    assert grammar.complaint(emitted) is None
    assert "\0" not in str(emitted)
    plain = dataclass(type("a/b~c%d", (), {"__annotations__": {"x": int}}))
    assert grammar.complaint(input_schema(taking(plain))) is None


def test_a_signature_that_is_too_large_is_told() -> None:
    def main(a: str = "x" * 200_000) -> None: ...

    with pytest.raises(_schema.Unsupported, match="131072"):
        input_schema(main)
