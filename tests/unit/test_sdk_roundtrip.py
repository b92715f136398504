"""What a value is as JSON fits its type's schema and becomes the value again; annotations here are text, as authors like them."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, Required, TypedDict
from uuid import UUID

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import InputError
from millrace._binding import bind
from millrace._bounds import LEAST_INTEGER, MOST_INTEGER
from millrace._docstring import described
from millrace._runtime.encode import to_json
from millrace._schema import input_schema
from services.gateway.workflows import WorkflowLookup
from shared.errors import Invalid
from shared.questions.workflows import WorkflowEntry


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Loose(TypedDict, total=False):
    id: Required[int]
    when: datetime


class Strict(TypedDict):
    id: Annotated[int, "the number"]
    note: NotRequired[Annotated[str, "a note"]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item.

    Attributes:
        price: What one costs.
    """

    price: Decimal
    due: date | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    at: datetime
    items: tuple[Item, ...]
    parent: Optional[Order] = None  # noqa: UP045 - as many still write it
    note: str = None  # type: ignore[assignment]


Number = NewType("Number", int)
INTEGERS = st.integers(LEAST_INTEGER, MOST_INTEGER)
INSTANTS = st.datetimes(
    timezones=st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))) | st.just(UTC),
    min_value=datetime(1, 1, 3),  # noqa: DTZ001 - hypothesis puts the zones on
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
ITEMS = st.builds(
    Item,
    price=st.decimals(allow_nan=False, allow_infinity=False),
    due=st.none() | st.dates(),
    tags=st.lists(TEXTS, max_size=2),
)
ORDERS: st.SearchStrategy[Order] = st.deferred(
    lambda: st.builds(
        Order,
        at=INSTANTS,
        items=st.lists(ITEMS, max_size=2).map(tuple),
        parent=st.none() | ORDERS,
        note=st.none() | TEXTS,
    )
)
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (bool, st.booleans()),
    (int, INTEGERS),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, TEXTS),
    (None, st.none()),
    (datetime, INSTANTS),
    (date, st.dates()),
    (time, st.times()),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Level, st.sampled_from(Level)),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", 1, True, None], st.sampled_from(["a", 1, True, None])),
    (Number, INTEGERS),
    (Loose, st.fixed_dictionaries({"id": INTEGERS}, optional={"when": INSTANTS})),
    (Strict, st.fixed_dictionaries({"id": INTEGERS}, optional={"note": TEXTS})),
    (Item, ITEMS),
    (Order, ORDERS),
    (Any, st.recursive(st.none() | st.booleans() | TEXTS, lambda inner: st.lists(inner, max_size=2), max_leaves=4)),
]
SCALARS = [kind for kind in KINDS if kind[0] in (bool, int, str, datetime, date, UUID, Level, Colour)]


def inside_of(kind: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    hint, values = kind
    return st.one_of(
        values.map(lambda value: (hint, value)),
        st.one_of(st.none(), values).map(lambda value: (Optional[hint], value)),  # noqa: UP045
        st.lists(values, max_size=3).map(lambda value: (list[hint], value)),  # type: ignore[valid-type]
        st.lists(values, max_size=3).map(lambda value: (Sequence[hint], value)),
        st.lists(values, max_size=3).map(lambda value: (tuple[hint, ...], tuple(value))),
        values.map(lambda value: (tuple[hint, int], (value, 7))),
        st.dictionaries(TEXTS, values, max_size=3).map(lambda value: (Mapping[str, hint], value)),
        st.dictionaries(TEXTS, st.lists(values, max_size=2), max_size=2).map(lambda value: (dict[str, list[hint]], value)),
        values.map(lambda value: (Annotated[hint, "said"], value)),
    )


PAIRS = st.one_of(
    st.sampled_from(KINDS).flatmap(inside_of),
    st.sampled_from(SCALARS).flatmap(
        lambda kind: st.sets(kind[1], max_size=3).map(lambda value: (set[kind[0]], value))  # type: ignore[misc]
    ),
)


def taking(hint: Any) -> Any:
    def main(a) -> None: ...  # type: ignore[no-untyped-def]

    main.__annotations__["a"] = hint
    return main


def judge(function: Any) -> Any:
    schema = input_schema(function)
    jsonschema_rs.meta.validate(schema)
    return jsonschema_rs.validator_for(schema, offline=True, validate_formats=True)


def sent(value: object) -> Any:
    """The value as whoever starts a run would send it."""
    return json.loads(to_json({"a": list(value) if isinstance(value, set) else value}, what="it", rich=True))


@settings(deadline=None)  # a machine that others share is slow now and then
@given(PAIRS)
def test_a_value_goes_out_as_json_and_comes_back_as_itself(pair: tuple[Any, Any]) -> None:
    hint, value = pair
    function = taking(hint)
    document = sent(value)
    assert judge(function).is_valid(document)
    _, kwargs = bind(function, document)
    assert kwargs == {"a": value}
    assert type(kwargs["a"]) is type(value) or isinstance(value, float | int)


HOUR, ZONE = r"[0-2][0-9]:[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?", r"([zZ]|[+-][0-2][0-9]:?[0-5][0-9])?"
ODD_TEXTS = st.one_of(
    st.from_regex(rf"\A[0-9]{{4}}-[01][0-9]-[0-3][0-9]([Tt ]{HOUR}{ZONE})?\n?\Z"),
    st.from_regex(r"\A-?[0-9]{0,3}(\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?\n?\Z"),
    st.from_regex(rf"\A{HOUR}{ZONE}\n?\Z"),
    st.uuids().flatmap(lambda key: st.sampled_from([str(key), key.hex, f"{{{key}}}", key.urn, str(key).upper()])),
    st.sampled_from(["NaN", "Infinity", "1_000", " 1", "\u0661", "2026-W05-6", "20260131", "2026-01-31T09:30:00", ""]),
)


@settings(deadline=None)  # a machine that others share is slow now and then
@given(st.sampled_from([datetime, date, time, UUID, Decimal]), ODD_TEXTS)
def test_the_binding_takes_of_all_texts_just_those_that_the_schema_takes(kind: type, text: str) -> None:
    function = taking(kind)
    fits = judge(function).is_valid({"a": text})
    try:
        bind(function, {"a": text})
    except InputError:
        # The one thing that a schema lets through and Python has no value for.
        assert not fits or text.startswith("0000")
    else:
        assert fits


def test_qualifiers_hold_where_annotations_are_text() -> None:
    def main(loose: Loose, strict: Strict) -> None: ...

    definitions = input_schema(main)["$defs"]
    assert definitions["Loose"]["required"] == ["id"]
    assert definitions["Strict"]["required"] == ["id"]
    assert definitions["Strict"]["properties"]["note"] == {"type": "string", "description": "a note"}
    assert bind(main, {"loose": {"id": 1}, "strict": {"id": 2}})[1] == {"loose": {"id": 1}, "strict": {"id": 2}}


def test_a_default_of_none_lets_none_through_in_a_dataclass_as_in_a_signature() -> None:
    def main(order: Order, name: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    given_input = {"order": {"at": "2026-01-31T09:30:00Z", "items": [], "note": None}, "name": None}
    assert judge(main).is_valid(given_input)
    assert bind(main, given_input)[1]["order"].note is None


def test_what_a_docstring_says_of_a_parameter_is_its_description() -> None:
    def main(event: dict[str, Any], limit: Annotated[int, "how many"] = 5, *, item: Item | None = None, **more: int) -> None:
        """Do it.

        Args:
            event: What happened,
                outside of us.
            limit (int): Not this.
            item: One: the first.
            **more: The rest.

        Returns:
            nothing: at all.
        """

    schema = input_schema(main)
    assert {name: one.get("description") for name, one in schema["properties"].items()} == {
        "event": "What happened, outside of us.",
        "limit": "how many",
        "item": "One: the first.",
    }
    assert schema["$defs"]["Item"]["properties"]["price"]["description"] == "What one costs."
    assert dataclasses.is_dataclass(Order)
    assert "description" not in input_schema(taking(Order))["$defs"]["Order"]["properties"]["at"]


def test_fields_of_restructured_text_are_understood_and_prose_is_not_mistaken_for_them() -> None:
    assert described(":param a: First.\n:param int b: Second,\n    over lines.\n:returns: c: no") == {
        "a": "First.",
        "b": "Second, over lines.",
    }
    assert described("Args: are not here.\n\nnote: nor this.") == {}
    assert described("Args:\n    a: x\n        deeper: still x\n\n    b: y\nAfter: z") == {"a": "x deeper: still x", "b": "y"}
    assert described(None) == {}


@settings(deadline=None)  # a machine that others share is slow now and then
@given(st.text(st.sampled_from("a:bA rgs\n *()"), max_size=60))
def test_no_docstring_is_too_odd(doc: str) -> None:
    assert all(text and "\n" not in text for text in described(doc).values())


def test_the_gateway_refuses_a_text_of_the_wrong_format_before_there_is_a_run() -> None:
    def main(at: datetime, who: UUID) -> None: ...

    async def absent(_: object) -> Any:
        raise AssertionError

    view: Any = None
    entry = WorkflowEntry(
        name="main", org="default", version="v", module="m", function="main", path="m.py", line=1, doc="",
        input_schema=input_schema(main), timeout=1.0, retries=0, concurrency=None, updated_at="2026-01-31T09:30:00Z",
    )  # fmt: skip
    checked = WorkflowLookup(view, absent)
    key = "12345678-1234-5678-1234-567812345678"
    checked.check(entry, {"at": "2026-01-31T09:30:00Z", "who": key})
    with pytest.raises(Invalid) as caught:
        checked.check(entry, {"at": "2026-01-31T09:30:00", "who": key})
    assert [problem.path for problem in caught.value.errors] == ["input.at"]
