"""What is told of an expression without evaluating it, and whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.expressions.syntax import LONGEST, found, pruned, syntax_of
from shared.expressions.turns import Queue, Waiting

EVENT = {"event": {"a": {"b": 1, "c": 2}, "l": [{"a": 1}], "x": 1}, "integration": {"config": {}}, "org": "acme"}


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("event.a.b == 1", {"event": {"a": {"b": 1}}}),
        ("event.a.b == event.x", {"event": {"a": {"b": 1}, "x": 1}}),
        ("event.a == {'b': 1}", {"event": {"a": {"b": 1, "c": 2}}}),
        ("event.a.b == 1 || event.a == 2", {"event": {"a": {"b": 1, "c": 2}}}),
        ("event . a\n.b", {"event": {"a": {"b": 1}}}),
        ("event.l.exists(x, x.a == 1)", {"event": {"l": [{"a": 1}]}}),
        ("event.l[0].a", {"event": {"l": [{"a": 1}]}}),
        ("event['a'].b", {"event": EVENT["event"]}),
        ("event.size()", {"event": EVENT["event"]}),
        ("has(event.a.missing.d)", {"event": {"a": {}}}),
        ("'event.a' == \"event.x\"", {}),
        ("r'\\' + org", {"org": "acme"}),
        ("'''org' ''' + b'org'", {}),
        ("true // event.a\n && event.x == 1", {"event": {"x": 1}}),
        ("{'event': org}", {"org": "acme"}),
        ("[event, org]", {"event": EVENT["event"], "org": "acme"}),
        ("event.x == `org`", EVENT),
    ],
)
def test_only_what_an_expression_can_see_is_handed_over(source: str, seen: dict[str, Any]) -> None:
    assert pruned(EVENT, syntax_of(source).sees) == seen


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("1" * (LONGEST + 1), "characters"),
        ("+".join(["1"] * 501), "names, values and signs"),
        ("[" * 33 + "]" * 33, "brackets"),
        ("(" * 33 + "'", "deeper"),
        ("a.map(x, x.map(y, y.map(z, z.map(w, w))))", "loops"),
        ("a.all(x, x.exists(y, y.filter(z, z.exists_one(w, w))))", "loops"),
        ("(a.map(x, (b.map(y, (c.map(z, (d.map(w, 1))))))))", "loops"),
    ],
)
def test_what_is_too_much_is_told_by_its_bound(source: str, problem: str) -> None:
    assert problem in (syntax_of(source).problem or "")


@pytest.mark.parametrize(
    "source",
    [
        "event.commits.exists(c, c.added.exists(f, f.startsWith('src/')))",
        "'" + "(" * 500 + "'",
        " || ".join(f"event.action == 'a{n}'" for n in range(100)),
        "map(map(map(map(1))))",
        "a.map(x, 1).map(x, 2).map(x, 3).map(x, 4)",
    ],
)
def test_what_people_write_is_within_the_bounds(source: str) -> None:
    assert syntax_of(source).problem is None


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("evnt.data.id > 3", {"evnt": ("data",)}),
        ("event.data.id > 3 && has(integration.config)", {"event": ("data",), "integration": ("config",)}),
        ("event.commits.exists(c, c.added.exists(f, f.startsWith('src/')))", {"event": ("commits",)}),
        ("event.l.map(event, event.typo)", {}),
        ("event.m.transformList(i, v, i + v)", {"event": ("m",)}),
        ("c > 1 || event.l.all(c, c > 1)", {"event": ("l",)}),
        ("size(input['a.b']) == int('evnt')", {"input": ()}),
        ("type(input) == list && true != null", {"input": ()}),
        ("input.a ? org : {'a': other}", {"input": ("a",), "org": (), "other": ()}),
        ("google.protobuf.Timestamp{seconds: 1} == event.time", {}),
        ("math.greatest(1, event.n) > 2", {"event": ("n",)}),
        ("'evnt.a' == \"b.c\" // evnt", {}),
    ],
)
def test_a_name_is_told_as_a_variable_only_where_it_can_be_nothing_else(source: str, variables: dict[str, tuple[str, ...]]) -> None:
    assert syntax_of(source).variables == variables


@given(st.text(alphabet=st.sampled_from("ab.'\"\\rb()[]{}?:+-!/ \n0123.eEuUxX`$é"), max_size=60))
def test_any_text_has_a_syntax_or_a_problem(source: str) -> None:
    syntax = syntax_of(source)
    assert pruned({"a": {"b": 1}}, syntax.sees).keys() <= {"a"}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("event.a.b", (True, 1)),
        ("org", (True, "acme")),
        ("event.missing", (False, None)),
        ("event.x.y", (False, None)),
    ],
)
def test_a_plain_path_is_followed(source: str, value: tuple[bool, Any]) -> None:
    plain = syntax_of(source).plain
    assert plain is not None
    assert found(EVENT, plain) == value


def test_what_cel_would_convert_or_refuse_is_left_to_it() -> None:
    given = {"n": 2**63, "f": 1.5, "l": [1], "m": {"a": 1}}
    assert not [name for name in given if found(given, (name,))[0]]
    assert [syntax_of(one).plain for one in ("a.in", "true", "a.b()", "a[0]", "a.1", " a", "")] == [None] * 7


# -- turns ----------------------------------------------------------------------------------------------------------------


def filled(*orgs: str, is_mixed: bool = True) -> Queue[str]:
    queue: Queue[str] = Queue(is_mixed=is_mixed, guess=50e-6)
    for number, org in enumerate(orgs):
        queue.offer(Waiting(org, 10, f"{org}{number}"))
    return queue


def test_organizations_take_turns_within_a_batch() -> None:
    queue = filled("a", "a", "a", "b", "c", "b")
    assert [one.bearer for one in queue.take()] == ["a0", "b3", "c4", "a1", "b5", "a2"]
    assert not len(queue)


def test_who_takes_long_has_one_in_a_batch_and_others_theirs() -> None:
    queue = filled(*["a"] * 50, *["b"] * 10)
    for _ in range(50):
        queue.note("a", 0.004)
    first, second = queue.take(), queue.take()
    assert [one.org for one in first].count("a") == 1
    assert [one.org for one in first].count("b") + [one.org for one in second].count("b") == 10


def test_a_batch_is_one_organizations_where_they_do_not_mix() -> None:
    queue = filled("a", "b", "a", "b", is_mixed=False)
    assert [[one.bearer for one in queue.take()] for _ in range(2)] == [["a0", "a2"], ["b1", "b3"]]


def test_who_is_withdrawn_leaves_others_where_they_are() -> None:
    queue = filled("a", "b", "a")
    assert queue.withdraw("a") == ["a0", "a2"]
    assert [one.bearer for one in queue.take()] == ["b1"]
    assert (len(queue), queue.withdraw("a"), queue.take()) == (0, [], [])


def test_a_batch_is_bounded_in_number_and_bytes() -> None:
    queue = filled(*(f"o{number}" for number in range(1000)))
    assert len(queue.take()) <= 256
    queue = Queue(is_mixed=True, guess=1e-6)
    for number in range(4):
        queue.offer(Waiting("a", 200_000, str(number)))
    assert len(queue.take()) == 1
