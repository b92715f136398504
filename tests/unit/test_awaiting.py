"""What an event and a wait have in common before anything is evaluated: it finds too much at times, and never too little."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.awaiting.plan import Occurred, OpenWait, canonical, in_order, patterns_of, value_at
from services.events.awaiting.waking import answer_of
from services.events.domain import event_document, matches
from shared.expressions.syntax import Equality, column_of, equality_of
from shared.messages import EventAccepted

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, -0.0, 1.0, 1.5, 1e18, 2.0**53]),
    st.sampled_from(["", "1", "é", "x" * 300]),
)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("event.data.id == invoice", Equality(("data", "id"), "invoice")),
        ("invoice == event.data.id", Equality(("data", "id"), "invoice")),
        ("event.type == 'a' && event.data.id == 'in_' + n // both", Equality(("data", "id"), "'in_' + n")),
        ('event.data.n > 3 && event.type == "a && b"', Equality(("type",), '"a && b"')),
        ("has(event.a) && event.a == [1, 2][0]", Equality(("a",), "[1, 2][0]")),
        ("event.a == (b || c)", Equality(("a",), "(b || c)")),
        *(
            (source, None)
            for source in (
                "true",
                "event.a == b || c",
                "event.a == b ? true : false",
                "(event.a == b)",
                "!event.a == b",
                "event.a == event.b",
                "event.a == b == c",
                "event.a == b in c",
                "event.a != b",
                "event.a.size() == 3",
                "event.data['x'] == 1",
                "event == x",
                "[1].all(event, event.a == 1)",
                "event.a == 'unended",
            )
        ),
    ],
)
def test_an_equality_is_one_that_every_true_case_needs(source: str, found: Equality | None) -> None:
    assert equality_of(source, "event") == found


def test_a_name_is_placed_in_its_line() -> None:
    assert column_of("event.invoice == invoice", "invoice") == 18
    assert column_of("event.a &&\n  b", "b") == 3


@given(SCALARS, SCALARS)
def test_equal_values_have_one_form(one: Any, other: Any) -> None:
    is_equal = one == other and isinstance(one, bool) == isinstance(other, bool)
    assert (canonical(one) == canonical(other)) == is_equal


@given(st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4).map(".".join).filter(bool))
def test_a_type_has_every_pattern_that_it_fits(type_: str) -> None:
    tried = {
        "*",
        type_,
        "a",
        "b.*",
        *(f"{type_[:end]}.*" for end in range(len(type_))),
        *(f"{type_[:end]}*" for end in range(len(type_))),
    }
    assert {one for one in tried if matches(one, type_)} <= set(patterns_of(type_))
    assert all(matches(one, type_) for one in patterns_of(type_))


def test_a_value_is_looked_for_in_objects_only() -> None:
    document = {"data": {"id": "x", "n": 2.0, "of": [1], "no": None}}
    found = [
        value_at(document, path) for path in ("", "data.id", "data.n", "data.no", "data.of", "data.of.0", "data.id.x", "other")
    ]
    assert found == ["", '"x"', "2", "null", None, None, None, None]


def test_large_data_is_answered_by_reference() -> None:
    event = EventAccepted(
        source="s",
        source_name="shop",
        event="e",
        delivery="d",
        type="t",
        headers={},
        received_at="2026-01-31T09:30:00Z",
        data_ref="ref",
    )
    at = datetime(2026, 1, 31, tzinfo=UTC)
    occurred = Occurred(sequence=1, at=at, event=event, document=event_document(event, ["x" * 10]))
    wait = OpenWait(
        run="r",
        name="t from shop",
        ordinal=0,
        org="o",
        source="s",
        type="t",
        path="",
        value="",
        expression=None,
        variables={},
        since=at,
    )
    assert answer_of(wait, occurred).result["data"] == {"$ref": "ref", "bytes": 14}
    assert in_order([(wait, occurred)]) == {"r": [(wait, occurred)]}
