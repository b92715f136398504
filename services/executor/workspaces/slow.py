"""Files that took too long to import: not imported again for each file that is deployed after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from services.executor.sandbox.interface import BundleProblem
from shared.messages.catalog import FileProblem

# Seconds for which a file that was slow is left alone; a deployment has mostly ended by then.
REMEMBERED = 120.0
# Seconds that the import of one file may take, and of one that comes within that time after another was slow.
PATIENCE, FURTHER = 10.0, 2.0
MOST = 1000


class Slow:
    """Remembers them by organization, path and content."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._known: dict[tuple[str, str, str], tuple[float, FileProblem]] = {}

    def record(self, org: str, tree: dict[str, str], problems: Iterable[BundleProblem]) -> None:
        """Remember those files of a tree that were slow."""
        for one in problems:
            if one.is_slow and one.path in tree and len(self._known) < MOST:
                again = f"{one.message}; it is tried again in {REMEMBERED:g} s, when it changes, or when it is deployed again"
                self._known[org, one.path, tree[one.path]] = (self._now() + REMEMBERED, FileProblem(one.path, one.line, again))

    def of(self, org: str, tree: dict[str, str], changed: Collection[str]) -> list[FileProblem]:
        """Return the problems of those files of a tree that were slow; those `changed` are deployed just now, and tried again."""
        self._forget()
        return [
            problem
            for (owner, path, sha256), (_, problem) in self._known.items()
            if owner == org and path not in changed and tree.get(path) == sha256
        ]

    def patience(self, org: str) -> float:
        """Return how many seconds the import of one file may take now."""
        self._forget()
        return FURTHER if any(owner == org for owner, _, _ in self._known) else PATIENCE

    def _forget(self) -> None:
        now = self._now()
        self._known = {key: kept for key, kept in self._known.items() if kept[0] > now}
