"""Statements of the Postgres driver, which projections run."""

from __future__ import annotations

from typing import Any, NamedTuple


class Statement(NamedTuple):
    """An INSERT, UPDATE or DELETE that returns nothing, with the values of its `$1`, `$2` …"""

    sql: str
    values: tuple[Any, ...] = ()
