"""A query's tree as a condition of SQL. Text of the query only ever becomes a bound parameter.

`matching` says the same in Python. Where the words of a row must have those of a value, the condition asks for them first: their
index finds few rows among many, whatever the field. What has to be exact stands behind it, and is hidden from the planner, which
would take both for independent, and the rows for fewer than they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from services.logs import lexemes, wording
from services.logs.domain import LEVELS, level_named
from services.logs.query import NUMBER
from services.logs.tree import (
    FIELDS,
    And,
    ChainOf,
    Column,
    Compares,
    Equals,
    Everything,
    Exists,
    Field,
    Not,
    Operator,
    Or,
    Path,
    SearchWords,
    StartsWith,
    Tree,
)
from shared.runs import RUN_STREAMS, RUNS

# Columns that may be NULL. A comparison with the others never is, and must stand bare for an index to serve it.
_NULLABLE = {"run", "causation_id", "workflow"}
_OPERATORS: dict[Operator, str] = {">": ">", ">=": ">=", "<": "<", "<=": "<="}
_TRUTH = ("true", "false")
# Data of lines that is not among their words.
_UNSAID = {"workflow", "attempt", "stream"}
# Most rows have these: their marks find nothing that reading by time does not find as fast.
_COMMON = {"debug", "info"}
# The beginning of a number: of one its text is not among the words in every way of writing it.
_NUMERIC = re.compile(r"-?[0-9.]+([eE][+-]?[0-9]*)?\Z", re.ASCII)
# Beyond it a number has no exact integer as its text.
_LARGEST = Decimal(10) ** 30


def texts_of(fields: Sequence[Field]) -> tuple[list[str], dict[str, Any]]:
    """Return the text of each field as SQL, and the parameters of all, which no condition has in the same statement."""
    made = Condition(Everything(), prefix="field")
    return [made.text(field) for field in fields], made.parameters


class Condition:
    """`sql`, over the columns of `message`, with its `parameters`; never NULL, so that it can be negated."""

    def __init__(self, tree: Tree, *, prefix: str = "q") -> None:
        """`prefix` is that of its parameters' names."""
        self._prefix = prefix
        self.parameters: dict[str, Any] = {}
        self.sql = self._of(tree)

    def _bind(self, value: Any, cast: str) -> str:
        name = f"{self._prefix}{len(self.parameters)}"
        self.parameters[name] = value
        return f"CAST(:{name} AS {cast})"

    def _of(self, tree: Tree) -> str:
        match tree:
            case And(items):
                return "(" + " AND ".join(self._of(item) for item in items) + ")"
            case Or(items):
                return "(" + " OR ".join(self._of(item) for item in items) + ")"
            case Not(item):
                return f"NOT {self._of(item)}"
            case SearchWords(text, prefix):
                return self._words([lexemes.query_of(lexemes.words_in(text), prefix=prefix)])
            case Equals(field, value):
                return self._data_equals(field, value) if isinstance(field, Path) else self._column_equals(field.name, value)
            case StartsWith(field, value):
                return self._starts(field, value)
            case Compares(field, operator, value):
                return self._compares(field, operator, value)
            case Exists(field):
                return f"({self.text(field)} IS NOT NULL)"
            case Everything():
                return "true"
            case ChainOf(run):
                raise TypeError(f"the chain of run {run!r} is not resolved")

    def _words(self, any_of: list[str | None]) -> str:
        wanted = [one for one in any_of if one is not None]
        return f"(tsv @@ {self._bind(' | '.join(wanted), 'tsquery')})" if wanted else "false"

    def _found(self, any_of: list[str] | None, exact: str) -> str:
        """Return the exact condition, behind the words that every row that it holds for has; None: it may have any."""
        if any_of is None:
            return exact
        words = self._words([*any_of, _quoted(lexemes.INCOMPLETE)])
        # Where rows are read by time they are held against the first: comparing a column takes less than looking through words.
        return f"({self._known(exact)} AND {words})"

    def _column_equals(self, name: str, value: str) -> str:
        if name == "seq":
            return f"(seq = {self._bind(_number(value), 'numeric')})"
        if name == "level":
            return self._levels([level_named(value)])
        if name == "message":
            return f'(position(lower({self._bind(value, "text")} COLLATE "C") IN lower(message COLLATE "C")) > 0)'
        if name == "stream" and value == RUNS and len(RUN_STREAMS) > 1:
            exact = f"(stream = ANY({self._bind(list(RUN_STREAMS), 'text[]')}))"
        else:
            exact = self._present(name, f"{_column(name)} = {self._bind(value, 'text')}")
        if name in {"type", "key"}:
            return self._found(_whole(value), exact)
        if name == "stream" and re.fullmatch(r"\w+", value):
            return self._found([_quoted(lexemes.mark("stream", value))], exact)
        return exact

    def _levels(self, names: list[str]) -> str:
        exact = f"(level = ANY({self._bind(names, 'text[]')}))"
        if not names or _COMMON.intersection(names):
            return exact
        return self._found([_quoted(lexemes.mark("level", name)) for name in names], exact)

    def _data_equals(self, path: Path, value: str) -> str:
        found = self._json(path)
        # A value contains itself, and a list its items, as in data.labels:bug.
        alternatives = [f"{found} @> to_jsonb({self._bind(value, 'text')})"]
        number = _number(value)
        if number is not None:
            alternatives.append(f"{found} @> to_jsonb({self._bind(number, 'numeric')})")
        if value in _TRUTH:
            alternatives.append(f"{found} @> to_jsonb({self._bind(value == 'true', 'boolean')})")
        exact = self._known(" OR ".join(alternatives))
        if value in _TRUTH or not _has_words(path):
            return exact
        return self._found(_whole(value) if number is None else _numbers(value, number), exact)

    def _starts(self, field: Field, value: str) -> str:
        starts = f"starts_with({self.text(field)}, {self._bind(value, 'text')})"
        if isinstance(field, Path):
            starts = f"CASE WHEN jsonb_typeof({self._json(field)}) IN ('string', 'number', 'boolean') THEN {starts} END"
        exact = self._known(starts)
        if isinstance(field, Column):
            return self._found(_beginning(value), exact) if field.name in {"type", "key"} else exact
        may_be_else = _NUMERIC.match(value) is not None or value == "-" or any(one.startswith(value) for one in _TRUTH)
        return exact if may_be_else or not _has_words(field) else self._found(_beginning(value), exact)

    def _compares(self, field: Field, operator: Operator, value: str) -> str:
        sign = _OPERATORS[operator]
        number = _number(value)
        if field == Column("level"):
            bound = LEVELS.index(level_named(value))
            return self._levels([name for rank, name in enumerate(LEVELS) if holds(rank, operator, bound)])
        if field == Column("seq"):
            return f"(seq {sign} {self._bind(number, 'numeric')})"
        # By code point, under any collation of the database: as times in RFC 3339 need it.
        text = f'({self.text(field)} COLLATE "C" {sign} {self._bind(value, "text")})'
        if isinstance(field, Column):
            return self._present(field.name, text)
        found = self._json(field)
        if number is None:
            return self._known(f"CASE WHEN jsonb_typeof({found}) = 'string' THEN {text} END")
        return self._known(
            f"CASE WHEN jsonb_typeof({found}) = 'number'"
            f" THEN CAST({found} #>> '{{}}' AS numeric) {sign} {self._bind(number, 'numeric')}"
            f" WHEN jsonb_typeof({found}) = 'string' THEN {text} END"
        )

    def _json(self, path: Path) -> str:
        """Return the value at the place; of a line also its author's field of that name."""
        where = f"(data #> {self._bind(list(path.parts), 'text[]')})"
        if path.parts[0] != "fields":
            also = f"CASE WHEN line > 0 THEN data #> {self._bind(['fields', *path.parts], 'text[]')} END"
        elif len(path.parts) > 2:
            # A field may be called `http.status`.
            also = f"data #> {self._bind(['fields', '.'.join(path.parts[1:])], 'text[]')}"
        else:
            return where
        return f"COALESCE({where}, {also})"

    def text(self, field: Field) -> str:
        """Return the text of a column, or of a place within the data, where lists and objects have one that only exists."""
        if isinstance(field, Column):
            return "CAST(seq AS text)" if field.name == "seq" else _column(field.name)
        return f"({self._json(field)} #>> '{{}}')"

    @staticmethod
    def _present(name: str, sql: str) -> str:
        return f"({name} IS NOT NULL AND {sql})" if name in _NULLABLE else f"({sql})"

    @staticmethod
    def _known(sql: str) -> str:
        return f"COALESCE(({sql}), false)"


def _column(name: str) -> str:
    """Return the column of that name, which is one of ours: never text of a query."""
    return FIELDS[FIELDS.index(name)]


def _quoted(mark: str) -> str:
    return f"'{mark}'"


def _number(value: str) -> Decimal | None:
    return Decimal(value) if NUMBER.match(value) else None


def holds(rank: Any, operator: Operator, bound: Any) -> bool:
    """Return whether a value is above or below another."""
    return bool({">": rank > bound, ">=": rank >= bound, "<": rank < bound, "<=": rank <= bound}[operator])


def _has_words(path: Path) -> bool:
    return wording.is_kept(path.parts) and path.parts[0] not in _UNSAID


def _whole(value: str) -> list[str] | None:
    """Return the words of every row that has this text somewhere; None where nothing is known of them."""
    wanted = lexemes.query_of(lexemes.words_in(value))
    return None if wanted is None else [wanted]


def _beginning(value: str) -> list[str] | None:
    wanted = lexemes.query_of(lexemes.words_in(value), prefix=bool(lexemes.words_in(value[-1:])))
    return None if wanted is None else [wanted]


def _numbers(value: str, number: Decimal) -> list[str] | None:
    """Return the words of every row that has this number, in each way in which its text may be written."""
    written = {value, repr(float(number))}
    if abs(number) < _LARGEST and number == number.to_integral_value():
        written.add(str(int(number)))
    found = [lexemes.query_of(lexemes.words_in(text)) for text in sorted(written)]
    return None if None in found else [one for one in found if one is not None]
