"""The tree of a query: `query` parses it and `conditions` turns it into SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

# Columns that do not depend on time: the range of times stands beside the query.
FIELDS = (
    "stream", "seq", "type", "level", "service", "org", "key", "run", "correlation_id", "causation_id", "id", "message", "workflow",
)  # fmt: skip

Operator = Literal[">", ">=", "<", "<="]


class Column(msgspec.Struct, frozen=True):
    """One of `FIELDS`."""

    name: str


class Path(msgspec.Struct, frozen=True):
    """A place within the data, such as `data.pull_request.number`: names, or numbers of list items.

    `fields.status` is the place `fields`, `status`: given by the author of a line, or a service, beside the text.
    """

    parts: tuple[str, ...]


Field = Column | Path


class Everything(msgspec.Struct, frozen=True):
    """Matches every message."""


class SearchWords(msgspec.Struct, frozen=True):
    """Full text: the words of `text` one after the other; `prefix` lets the last one go on."""

    text: str
    prefix: bool = False


class Equals(msgspec.Struct, frozen=True):
    """The field has exactly this value."""

    field: Field
    value: str


class StartsWith(msgspec.Struct, frozen=True):
    """The field's text begins so."""

    field: Field
    value: str


class Compares(msgspec.Struct, frozen=True):
    """The field is above or below: as a number where `value` is one, else as text."""

    field: Field
    operator: Operator
    value: str


class Exists(msgspec.Struct, frozen=True):
    """The field has a value."""

    field: Field


class ChainOf(msgspec.Struct, frozen=True):
    """Messages of the chain that this run is of; to be made a comparison by `resolved` before it is looked for."""

    run: str


class Not(msgspec.Struct, frozen=True):
    """Rows that `item` does not match."""

    item: Tree


class And(msgspec.Struct, frozen=True):
    """Rows that all items match."""

    items: tuple[Tree, ...]


class Or(msgspec.Struct, frozen=True):
    """Rows that any item matches."""

    items: tuple[Tree, ...]


Tree = Everything | SearchWords | Equals | StartsWith | Compares | Exists | ChainOf | Not | And | Or


def runs_asked_for(tree: Tree) -> set[str]:
    """Return the runs whose chains a tree names."""
    match tree:
        case ChainOf(run):
            return {run}
        case Not(item):
            return runs_asked_for(item)
        case And(items) | Or(items):
            return set().union(*map(runs_asked_for, items))
    return set()


def resolved(tree: Tree, chains: Mapping[str, str]) -> Tree:
    """Return a tree with the chain, by its correlation id, of each run that it names; nothing is in that of an unknown run."""
    match tree:
        case ChainOf(run):
            return Equals(Column("correlation_id"), chains[run]) if run in chains else Not(Everything())
        case Not(item):
            return Not(resolved(item, chains))
        case And(items):
            return And(tuple(resolved(item, chains) for item in items))
        case Or(items):
            return Or(tuple(resolved(item, chains) for item in items))
    return tree
