"""The rows that a caller may see and has asked for: the one place in which a search is held to its organization."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from services.logs.conditions import Condition
from services.logs.domain import Row
from services.logs.limits import PAST, Limit, hiding
from services.logs.matching import Seen, matches
from services.logs.tree import Tree


class Selection:
    """Rows of the organization `org` that a tree matches; None: of all organizations. In SQL, and of one row in Python.

    What is past its `limits`, removed already or not, is another condition: few searches go so far back, and no new row does.
    """

    def __init__(self, org: str | None, tree: Tree, limits: Sequence[Limit] = ()) -> None:
        self.org = org
        self.tree = tree
        self.limits = limits

    @cached_property
    def _condition(self) -> Condition:
        return Condition(self.tree)

    def kept(self, since: datetime | None = None) -> tuple[str, dict[str, Any]]:
        """Return the condition that rows from `since` on are not past the limits, and its parameters."""
        return hiding(self.limits, self.org, since)

    @property
    def sql(self) -> str:
        """The condition over the columns of `message`, without chunks, whose lines are rows of their own."""
        own = "" if self.org is None else " AND org = :org"
        return f"line >= 0{own} AND {self._condition.sql}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the condition."""
        own = {} if self.org is None else {"org": self.org}
        return own | self._condition.parameters

    def holds(self, seen: Seen) -> bool:
        """Return whether a row is one of them."""
        row = seen.row
        if row.line < 0 or (self.org is not None and row.org != self.org):
            return False
        return not self._is_past(row) and matches(self.tree, seen)

    def _is_past(self, row: Row) -> bool:
        return any(one.stream == PAST and one.org == self.org and row.said_at <= one.before for one in self.limits)
