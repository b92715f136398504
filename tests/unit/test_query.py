"""The search language: what it means, that it never fails in another way than it says, that text never becomes SQL."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.logs.conditions import Condition
from services.logs.query import parse
from services.logs.tree import (
    And,
    ChainOf,
    Column,
    Compares,
    Equals,
    Everything,
    Exists,
    Not,
    Or,
    Path,
    SearchWords,
    StartsWith,
    Tree,
    resolved,
)
from shared.errors import Invalid

TYPE, LEVEL, RUN, SEQ = Column("type"), Column("level"), Column("run"), Column("seq")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", Everything()),
        ("  ", Everything()),
        ("*", Everything()),
        ("failed", SearchWords("failed")),
        ("fail*", SearchWords("fail", prefix=True)),
        ('"rate limit"', SearchWords("rate limit")),
        ('"say \\"no\\""', SearchWords('say "no"')),
        ("or and", And((SearchWords("or"), SearchWords("and")))),
        ("a b", And((SearchWords("a"), SearchWords("b")))),
        ("a AND b", And((SearchWords("a"), SearchWords("b")))),
        ("a OR b c", Or((SearchWords("a"), And((SearchWords("b"), SearchWords("c")))))),
        ("(a OR b) c", And((Or((SearchWords("a"), SearchWords("b"))), SearchWords("c")))),
        ("-a", Not(SearchWords("a"))),
        ("NOT a", Not(SearchWords("a"))),
        ("NOT -a", SearchWords("a")),
        ("-(a b)", Not(And((SearchWords("a"), SearchWords("b"))))),
        ("a-b", SearchWords("a-b")),
        ("type:run.failed", Equals(TYPE, "run.failed")),
        ("type:run.*", StartsWith(TYPE, "run.")),
        ("run:*", Exists(RUN)),
        ('type:"run.*"', Equals(TYPE, "run.*")),
        ("type:run.\\*", Equals(TYPE, "run.*")),
        ("-level:info", Not(Equals(LEVEL, "info"))),
        ("level:>=warning", Compares(LEVEL, ">=", "warning")),
        ("seq:<5", Compares(SEQ, "<", "5")),
        ("seq:[5 TO 10]", And((Compares(SEQ, ">=", "5"), Compares(SEQ, "<=", "10")))),
        ("seq:[* TO 10]", Compares(SEQ, "<=", "10")),
        ("seq:[5 TO *]", Compares(SEQ, ">=", "5")),
        ("data.ref:refs/heads/main", Equals(Path(("ref",)), "refs/heads/main")),
        ("data.labels.0.name:bug", Equals(Path(("labels", "0", "name")), "bug")),
        ("data.at:2026-01-01T00:00:00Z", Equals(Path(("at",)), "2026-01-01T00:00:00Z")),
        ("workflow:pr-summary", Equals(Column("workflow"), "pr-summary")),
        ("fields.status:200", Equals(Path(("fields", "status")), "200")),
        ("fields.http.status:>=500", Compares(Path(("fields", "http", "status")), ">=", "500")),
        ("attempt:2", Equals(Path(("attempt",)), "2")),
        ("\\-a", SearchWords("-a")),
        ("why:r1 -level:info", And((ChainOf("r1"), Not(Equals(LEVEL, "info"))))),
    ],
)
def test_a_query_means_what_people_know(text: str, tree: Tree) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("colour:red", 1, "one of stream, seq"),
        ("a (b", 5, '")" for the "(" at 3'),
        ("a)", 2, "the end"),
        ('say "no', 8, "closing quote for the one at 5"),
        ("a OR", 5, "a word, a phrase"),
        ("type:", 6, "a value"),
        ("seq:[1 2]", 8, "TO between"),
        ("seq:[1 TO", 10, "a highest value"),
        ("seq:[1 TO]", 10, "a highest value"),
        ("seq:[1 TOO 2]", 8, "TO between"),
        ("seq:[1 TO 2", 12, '"]"'),
        ("seq:many", 5, "a number"),
        ("level:loud", 7, "one of debug"),
        ("a*b", 3, "the end of the word"),
        ("level:>", 8, "a value after >"),
        ("data:1", 1, "data.<path>"),
        ("a status:200", 3, "fields.status for a field that a workflow logged, data.status for a field of a message"),
        ("why:r*", 5, "a run's id without *"),
        ("http://x", 1, "or quotes around text with a colon"),
    ],
)
def test_a_mistake_is_answered_with_its_position_and_what_was_expected(text: str, position: int, expected: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(text)
    assert f"position {position}:" in refused.value.detail
    assert expected in refused.value.detail
    assert refused.value.errors[0].path == "q"


def test_terms_and_depth_and_length_are_capped() -> None:
    parse(" ".join(["a"] * 50))
    with pytest.raises(Invalid, match="at most 50 terms"):
        parse(" ".join(["a"] * 51))
    parse("(" * 10 + "a" + ")" * 10)
    with pytest.raises(Invalid, match="at most 10 parentheses"):
        parse("(" * 11 + "a" + ")" * 11)
    with pytest.raises(Invalid, match="4096"):
        parse("a" * 4097)


# Everything that the conditions' own SQL consists of; a query's text has no way to add to it.
_SQL = re.compile(
    r"(?:\s|[()=<>@#,]|:q[0-9]+\b|'string'|'number'|'boolean'|'{}'|\"C\"|\[\]|"
    r"\b(?:NOT|AND|OR|COALESCE|CAST|AS|text|numeric|boolean|false|true|tsv|tsquery|starts_with|position|lower|IN|"
    r"ANY|IS|NULL|CASE|WHEN|THEN|END|COLLATE|jsonb_typeof|to_jsonb|data|stream|seq|type|level|service|org|key|run|"
    r"correlation_id|causation_id|id|message|workflow|line|0)\b)*\Z"
)
_FRAGMENTS = st.sampled_from(
    [
        " ", "(", ")", '"', "\\", "*", "-", "AND ", "OR ", "NOT ", "TO ", "[", "]", ":", ">=", "<", "level:", "data.a.b:",
        "run:", "type:", "message:", "error", "5", "1e3", "'; DROP TABLE message; --", ":q0", "%", "\x00", "\ud800", "é",
        "seq:", "data.x:", "fields.x:", "fields.x.y:", "workflow:", "attempt:", "why:",
    ]
)  # fmt: skip
_QUERIES = st.one_of(st.text(max_size=60), st.lists(_FRAGMENTS, max_size=14).map("".join))


@given(_QUERIES)
def test_any_text_is_a_query_or_invalid_and_never_becomes_sql(text: str) -> None:
    try:
        condition = Condition(resolved(parse(text), {}))
    except Invalid:
        return
    assert _SQL.match(condition.sql), condition.sql
    assert set(re.findall(r":(q[0-9]+)", condition.sql)) == set(condition.parameters)
    for value in condition.parameters.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, str):
                assert "\x00" not in part
                part.encode()
