"""The words of every verdict: ends of runs, executions that left a mark, and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

# As their messages say them on the bus and as their rows show them; written out here, since the drill believes nobody.
TERMINAL = frozenset({"succeeded", "failed", "timed_out", "cancelled", "crashed", "expired"})


class Mark(msgspec.Struct, frozen=True):
    """An execution that a workflow left behind: of an `attempt`, a `step`, or between `enter` and `leave` of a key.

    `token` is the run or event that it was for, `name` the step or key; `at` is in nanoseconds since 1970.
    """

    what: str
    token: str
    name: str
    at: int


class Finding(msgspec.Struct, frozen=True):
    """Something wrong with the webhook or run `id`, which belongs to the report's row `subject` (or with the whole)."""

    subject: str
    kind: str
    id: str
    detail: str


def marks_of(path: Path) -> list[Mark]:
    """Read what the executions left behind."""
    lines = (line.split() for line in path.read_text("ascii").splitlines())
    return [Mark(what, token, name, int(at)) for what, token, name, at in lines]


def counted(found: Iterable[Finding]) -> Counter[tuple[str, str]]:
    """Return how many findings of each kind each subject has, by (subject, kind)."""
    return Counter((one.subject, one.kind) for one in found)
