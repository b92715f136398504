"""The search language: text to tree, nothing else. Words, phrases and `field:value`, joined by AND (implied), OR, NOT, ().

`failed "rate limit" level:>=warning -workflow:sync (type:run.* OR fields.status:>=500) data.tags:* seq:[10 TO 20] why:RUN`
A backslash makes the next character ordinary. AND, OR, NOT and TO are operators in capitals only.
"""

from __future__ import annotations

import re
from typing import NoReturn, cast

from services.logs.domain import LEVELS, level_known, storable
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
from shared.errors import Invalid, Problem

# Places within the data that are named like columns.
NAMED = ("attempt",)
LENGTH = 4096
TERMS = 50
DEPTH = 10
# A value that is compared as a number; longer ones are text.
NUMBER = re.compile(r"-?[0-9]{1,300}(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?\Z", re.ASCII)


_FIELD = re.compile(r"([A-Za-z_][\w-]*(?:\.[\w@$-]+)*):")
_COMPARISON = re.compile(r">=|<=|>|<")
_OPERATOR = re.compile(r"(AND|OR|NOT)(?=[\s()]|$)")
_SPACE = re.compile(r"\s*")


def parse(text: str) -> Tree:
    """Return the tree of a query; an empty one matches everything.

    Raises `Invalid` that names the position, counted from 1, and the expected token.
    """
    if len(text) > LENGTH:
        raise Invalid(f"the query has {len(text)} characters; it may have {LENGTH}", errors=(Problem("q", "is too long"),))
    return _Parser(storable(text)).whole()


def field_named(name: str) -> Field:
    """Return the field that is called so. Raises `Invalid`."""
    return _Parser(storable(name)).only_field()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._terms = 0

    def whole(self) -> Tree:
        self._skip()
        if self._at == len(self._text):
            return Everything()
        tree = self._any_of(0)
        if self._at < len(self._text):
            self._fail('the end, or a "(" before this ")"')
        return tree

    def only_field(self) -> Field:
        if _FIELD.fullmatch(f"{self._text}:") is None:
            self._fail("the name of a field")
        return self._field(self._text)

    def _any_of(self, depth: int) -> Tree:
        items = [self._all_of(depth)]
        while self._operator("OR"):
            items.append(self._all_of(depth))
        return items[0] if len(items) == 1 else Or(tuple(items))

    def _all_of(self, depth: int) -> Tree:
        items = [self._one(depth)]
        while True:
            if self._operator("AND") or not self._at_end_of_all():
                items.append(self._one(depth))
            else:
                return items[0] if len(items) == 1 else And(tuple(items))

    def _at_end_of_all(self) -> bool:
        self._skip()
        if self._at == len(self._text) or self._text[self._at] == ")":
            return True
        found = _OPERATOR.match(self._text, self._at)
        return found is not None and found.group(1) == "OR"

    def _one(self, depth: int) -> Tree:
        negated = False
        while True:
            self._skip()
            if self._text.startswith("-", self._at):
                self._at += 1
            elif not self._operator("NOT"):
                break
            negated = not negated
        tree = self._group(depth) if self._text.startswith("(", self._at) else self._term()
        return Not(tree) if negated else tree

    def _group(self, depth: int) -> Tree:
        if depth == DEPTH:
            self._fail(f"at most {DEPTH} parentheses within each other")
        opened = self._at
        self._at += 1
        tree = self._any_of(depth + 1)
        self._skip()
        if not self._text.startswith(")", self._at):
            self._fail(f'a ")" for the "(" at {opened + 1}')
        self._at += 1
        return tree

    def _term(self) -> Tree:
        if self._at == len(self._text) or self._text[self._at] == ")" or _OPERATOR.match(self._text, self._at):
            self._fail("a word, a phrase or field:value")
        self._terms += 1
        if self._terms > TERMS:
            self._fail(f"at most {TERMS} terms")
        found = _FIELD.match(self._text, self._at)
        if found is None:
            text, prefix = self._value()
            if not text:
                return Everything()
            return SearchWords(text, prefix)
        if found.group(1) == "why":
            self._at = found.end()
            return self._why()
        field = self._field(found.group(1))
        self._at = found.end()
        return self._of_field(field)

    def _why(self) -> Tree:
        started = self._at
        run, prefix = self._value(expected="a run's id")
        if prefix:
            self._at = started
            self._fail("a run's id without *")
        return ChainOf(run)

    def _field(self, name: str) -> Field:
        if name in FIELDS:
            return Column(name)
        parts = tuple(name.split("."))
        if name in NAMED:
            return Path(parts)
        if len(parts) == 1 or parts[0] not in {"data", "fields"}:
            known = ", ".join((*FIELDS, *NAMED, "why"))
            hint = f"fields.{name} for a field that a workflow logged, data.{name} for a field of a message"
            self._fail(
                f"one of {known}, fields.<name> or data.<path> before the colon ({hint}), or quotes around text with a colon"
            )
        return Path(parts[1:] if parts[0] == "data" else parts)

    def _of_field(self, field: Field) -> Tree:
        comparison = _COMPARISON.match(self._text, self._at)
        if comparison is not None:
            self._at = comparison.end()
            operator = cast("Operator", comparison.group())
            return Compares(field, operator, self._plain(field, f"a value after {operator}"))
        if self._text.startswith("[", self._at):
            return self._between(field)
        started = self._at
        value, prefix = self._value()
        if prefix:
            return StartsWith(field, value) if value else Exists(field)
        self._check(field, value, started)
        return Equals(field, value)

    def _check(self, field: Field, value: str, started: int) -> None:
        if field == Column("level") and not level_known(value):
            self._at = started
            self._fail(f"one of {', '.join(LEVELS)}")
        if field == Column("seq") and NUMBER.match(value) is None:
            self._at = started
            self._fail("a number")

    def _between(self, field: Field) -> Tree:
        self._at += 1
        self._skip()
        low = self._bound(field, "a lowest value")
        self._skip()
        if re.match(r"TO(?![^\s\]])", self._text[self._at : self._at + 3]) is None:
            self._fail("TO between the two values")
        self._at += 2
        self._skip()
        high = self._bound(field, "a highest value")
        self._skip()
        if not self._text.startswith("]", self._at):
            self._fail('a "]"')
        self._at += 1
        ends = [Compares(field, ">=", low)] if low is not None else []
        if high is not None:
            ends.append(Compares(field, "<=", high))
        return And(tuple(ends)) if len(ends) > 1 else (ends[0] if ends else Exists(field))

    def _bound(self, field: Field, expected: str) -> str | None:
        """Read one end of a range; None is the open end, written `*`."""
        if re.match(r"\*[\s\]]", self._text[self._at : self._at + 2]):
            self._at += 1
            return None
        return self._plain(field, expected)

    def _plain(self, field: Field, expected: str) -> str:
        started = self._at
        value, prefix = self._value(stops="]", expected=expected)
        if prefix:
            self._at = started
            self._fail(f"{expected} without *")
        self._check(field, value, started)
        return value

    def _value(self, stops: str = "", expected: str = "a value") -> tuple[str, bool]:
        """Read a phrase or a bare value; the second item: it ended with an unescaped `*`."""
        if self._text.startswith('"', self._at):
            return self._phrase(), False
        made: list[str] = []
        started = self._at
        while self._at < len(self._text):
            character = self._text[self._at]
            if character.isspace() or character in '()"' or character in stops:
                break
            if character == "*":
                self._at += 1
                if self._at < len(self._text) and not (self._text[self._at].isspace() or self._text[self._at] in ")" + stops):
                    self._fail('the end of the word: a "*" stands only there (or \\* for the character)')
                return "".join(made), True
            if character == "\\":
                self._at += 1
                if self._at == len(self._text):
                    self._fail("a character after the backslash")
                character = self._text[self._at]
            made.append(character)
            self._at += 1
        if self._at == started:
            self._fail(expected)
        return "".join(made), False

    def _phrase(self) -> str:
        opened = self._at
        self._at += 1
        made: list[str] = []
        while self._at < len(self._text) and self._text[self._at] != '"':
            if self._text[self._at] == "\\" and self._at + 1 < len(self._text):
                self._at += 1
            made.append(self._text[self._at])
            self._at += 1
        if self._at == len(self._text):
            self._fail(f"a closing quote for the one at {opened + 1}")
        self._at += 1
        return "".join(made)

    def _operator(self, name: str) -> bool:
        self._skip()
        found = _OPERATOR.match(self._text, self._at)
        if found is None or found.group(1) != name:
            return False
        self._at = found.end()
        return True

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _fail(self, expected: str) -> NoReturn:
        found = "the end" if self._at >= len(self._text) else repr(self._text[self._at : self._at + 20])
        message = f"position {self._at + 1}: expected {expected}, found {found}"
        raise Invalid(f"the query cannot be read at {message}", errors=(Problem("q", message),))
