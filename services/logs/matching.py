"""A query's tree, asked of one row in Python: what the condition in SQL says of it, for rows on their way to many readers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any

from services.logs import lexemes
from services.logs.conditions import holds
from services.logs.domain import LEVELS, Row, level_named
from services.logs.lexemes import Lexemes
from services.logs.query import NUMBER
from services.logs.tree import (
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

_MISSING: Any = object()
# A position in a list, as Postgres reads it.
_INDEX = re.compile(r"-?[0-9]{1,9}\Z", re.ASCII)
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


class Seen:
    """A row as queries look at it: its data is decoded, and its words are read, when the first of them asks."""

    def __init__(self, row: Row) -> None:
        self.row = row

    @cached_property
    def data(self) -> Any:
        """The data; numbers are as exact as they are in jsonb."""
        if self.row.data is None:
            return _MISSING
        return json.loads(self.row.data, parse_float=Decimal, parse_int=Decimal)

    @cached_property
    def lexemes(self) -> Lexemes:
        """The words with their positions."""
        return Lexemes(lexemes.read(self.row.words))


@lru_cache(maxsize=128)
def _wanted(text: str) -> list[str]:
    """Return the words of a term: the same are asked of each row."""
    return lexemes.words_in(text)


def matches(tree: Tree, seen: Seen) -> bool:
    """Return whether a row is among those that the tree's condition selects."""
    match tree:
        case And(items):
            return all(matches(item, seen) for item in items)
        case Or(items):
            return any(matches(item, seen) for item in items)
        case Not(item):
            return not matches(item, seen)
        case SearchWords(text, prefix):
            return seen.lexemes.holds(_wanted(text), prefix=prefix)
        case Equals(Path() as path, value):
            return _has(_at(seen, path), value)
        case Equals(Column(name), value):
            return _column_equals(seen.row, name, value)
        case StartsWith(field, value):
            return (_text(seen, field) or "").startswith(value) if value else _text(seen, field) is not None
        case Compares(field, operator, value):
            return _compares(seen, field, operator, value)
        case Exists(Path() as path):
            return _at(seen, path) not in (_MISSING, None)
        case Exists(Column(name)):
            return getattr(seen.row, name) is not None
        case Everything():
            return True
        case ChainOf(run):
            raise TypeError(f"the chain of run {run!r} is not resolved")
    raise TypeError(f"{tree!r} is no tree")


def _column_equals(row: Row, name: str, value: str) -> bool:
    found = getattr(row, name)
    if name == "seq":
        return bool(Decimal(found) == Decimal(value))
    if name == "level":
        return bool(found == level_named(value))
    if name == "message":
        return value.translate(_LOWER) in found.translate(_LOWER)
    if name == "stream" and value == RUNS:
        return found in RUN_STREAMS
    return bool(found == value)


def _has(found: Any, value: str) -> bool:
    """Return whether a value of the data is what is written so, or a list that holds it."""
    items = found if isinstance(found, list) else [found]
    number = Decimal(value) if NUMBER.match(value) else None
    truth = {"true": True, "false": False}.get(value)
    return any(
        item == value if isinstance(item, str) else item is truth if isinstance(item, bool) else _is_number(item) and item == number
        for item in items
    )


def _compares(seen: Seen, field: Field, operator: Operator, value: str) -> bool:
    if field == Column("level"):
        return holds(LEVELS.index(seen.row.level), operator, LEVELS.index(level_named(value)))
    if field == Column("seq"):
        return holds(Decimal(seen.row.seq), operator, Decimal(value))
    found = getattr(seen.row, field.name) if isinstance(field, Column) else _at(seen, field)
    if isinstance(found, str):
        return holds(found, operator, value)
    return _is_number(found) and NUMBER.match(value) is not None and holds(found, operator, Decimal(value))


def _text(seen: Seen, field: Field) -> str | None:
    """Return the text of a field as Postgres writes it; None where it has none."""
    if isinstance(field, Column):
        found = getattr(seen.row, field.name)
        return None if found is None else str(found)
    value = _at(seen, field)
    if isinstance(value, bool):
        return "true" if value else "false"
    if _is_number(value):
        return format(value.copy_abs() if value.is_zero() else value, "f")
    return value if isinstance(value, str) else None


def _at(seen: Seen, path: Path) -> Any:
    """Return the value at a place; of a line also its author's field of that name. `_MISSING` where there is none."""
    found = _within(seen.data, path.parts)
    if found is not _MISSING:
        return found
    if path.parts[0] != "fields":
        return _within(seen.data, ("fields", *path.parts)) if seen.row.line > 0 else _MISSING
    return _within(seen.data, ("fields", ".".join(path.parts[1:]))) if len(path.parts) > 2 else _MISSING


def _within(value: Any, parts: tuple[str, ...]) -> Any:
    for part in parts:
        if isinstance(value, Mapping):
            value = value.get(part, _MISSING)
        elif isinstance(value, list) and _INDEX.match(part) and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, Decimal)
