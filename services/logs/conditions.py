"""A query's tree as a condition of SQL. Text of the query only ever becomes a bound parameter."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from services.logs.domain import LEVELS, level_named
from services.logs.query import NUMBER
from services.logs.tree import (
    FIELDS,
    And,
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

# Columns that may be NULL. A comparison with the others never is, and must stand bare for an index to serve it.
_NULLABLE = {"run", "causation_id", "workflow"}
_OPERATORS: dict[Operator, str] = {">": ">", ">=": ">=", "<": "<", "<=": "<="}


class Condition:
    """`sql`, over the columns of `message`, with its `parameters`; never NULL, so that it can be negated."""

    def __init__(self, tree: Tree) -> None:
        self.parameters: dict[str, Any] = {}
        self.sql = self._of(tree)

    def _bind(self, value: Any, cast: str) -> str:
        name = f"q{len(self.parameters)}"
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
            case SearchWords():
                return self._words(tree)
            case Equals(field, value):
                return self._data_equals(field, value) if isinstance(field, Path) else self._column_equals(field.name, value)
            case StartsWith(field, value):
                return self._known(f"starts_with({self._text(field)}, {self._bind(value, 'text')})")
            case Compares(field, operator, value):
                return self._compares(field, operator, value)
            case Exists(field):
                return f"({self._text(field)} IS NOT NULL)"
            case Everything():
                return "true"

    def _words(self, words: SearchWords) -> str:
        if not words.prefix:
            return f"(tsv @@ phraseto_tsquery('simple', {self._bind(words.text, 'text')}))"
        quoted = words.text.replace("\\", "\\\\").replace("'", "''")
        beginning = f"'{quoted}':*"
        return f"(tsv @@ to_tsquery('simple', {self._bind(beginning, 'text')}))"

    def _column_equals(self, name: str, value: str) -> str:
        if name == "seq":
            return f"(seq = {self._bind(_number(value), 'numeric')})"
        if name == "level":
            return f"(level = {self._bind(level_named(value), 'text')})"
        if name == "message":
            return f"(position(lower({self._bind(value, 'text')}) IN lower(message)) > 0)"
        return self._present(name, f"{_column(name)} = {self._bind(value, 'text')}")

    def _data_equals(self, path: Path, value: str) -> str:
        found = self._json(path)
        # The second alternative is an item of a list, as in data.labels:bug.
        alternatives = [
            f"({found} #>> '{{}}') = {self._bind(value, 'text')}",
            f"{found} @> to_jsonb({self._bind(value, 'text')})",
        ]
        number = _number(value)
        if number is not None:
            alternatives.append(f"{found} @> to_jsonb({self._bind(number, 'numeric')})")
        return self._known(" OR ".join(alternatives))

    def _compares(self, field: Field, operator: Operator, value: str) -> str:
        sign = _OPERATORS[operator]
        number = _number(value)
        if field == Column("level"):
            bound = LEVELS.index(level_named(value))
            chosen = [name for rank, name in enumerate(LEVELS) if _holds(rank, operator, bound)]
            return f"(level = ANY({self._bind(chosen, 'text[]')}))"
        if field == Column("seq"):
            return f"(seq {sign} {self._bind(number, 'numeric')})"
        # By code point, under any collation of the database: as times in RFC 3339 need it.
        text = f'({self._text(field)} COLLATE "C" {sign} {self._bind(value, "text")})'
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

    def _text(self, field: Field) -> str:
        if isinstance(field, Path):
            return f"({self._json(field)} #>> '{{}}')"
        return "CAST(seq AS text)" if field.name == "seq" else _column(field.name)

    @staticmethod
    def _present(name: str, sql: str) -> str:
        return f"({name} IS NOT NULL AND {sql})" if name in _NULLABLE else f"({sql})"

    @staticmethod
    def _known(sql: str) -> str:
        return f"COALESCE(({sql}), false)"


def _column(name: str) -> str:
    """Return the column of that name, which is one of ours: never text of a query."""
    return FIELDS[FIELDS.index(name)]


def _number(value: str) -> Decimal | None:
    return Decimal(value) if NUMBER.match(value) else None


def _holds(rank: int, operator: Operator, bound: int) -> bool:
    return {">": rank > bound, ">=": rank >= bound, "<": rank < bound, "<=": rank <= bound}[operator]
