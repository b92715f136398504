"""The outcome of the drill of a cluster."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.chaos.report import CLUSTER, CUTS, Report, Row

_COUNTS = ("accepted", "lost", "duplicated", "stuck", "failed", "disagrees", "refused")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one being away; `pause`, `slowest` and `recovered` are in seconds, the others counts of webhooks or answers."""

    target: str
    accepted: int
    refused: int
    unavailable: int
    unanswered: int
    pause: float
    slowest: float
    recovered: float
    lost: int = 0
    duplicated: int = 0
    stuck: int = 0
    failed: int = 0
    disagrees: int = 0

    @property
    def clean(self) -> bool:
        """Return whether every webhook that was accepted ended in its one run, and none was refused."""
        return not (self.lost + self.duplicated + self.stuck + self.failed + self.disagrees + self.refused)


class ClusterReport(Report, frozen=True, kw_only=True):
    """The whole outcome. `unarchived` counts by stream what the archive lacks; `dead` quotes dead letters."""

    name = "chaos-cluster"
    part = CLUSTER
    headings = ("target", *_COUNTS, "longest pause", "slowest", "well after", "503s", "no answer")
    words = frozenset({"target"})
    reading = """\
How to read it. The counts are those of the first table. *longest pause*: the longest time from the kill on in which no webhook was
accepted, at either gateway. *slowest*: until a webhook was accepted, its repetitions included. *well after*: seconds from the kill
until every service was ready, every stream was on all three brokers, and the standby had every commit.
"""

    how: str
    cells: list[Cell]
    unarchived: dict[str, int]
    dead: list[str]

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        return all(cell.clean for cell in self.cells) and not (self.problems or self.unarchived or self.dead)

    def introduction(self) -> str:
        """Return what was done."""
        return f"""\
Three brokers, Postgres with a standby and two processes of each service (`millrace up --cluster`) under signed GitHub webhooks,
sent to both gateways in turn, each of which starts a run. {self.how} `python -m tests.chaos.cluster` repeats this part alone."""

    def measured(self) -> str:
        """Return how much was sent."""
        return f"{self.total('accepted'):,} webhooks at {self.rate:g} a second, in {self.seconds:,.0f} s"

    def rows(self) -> list[Row]:
        """Return a row for each that was away."""
        return [Row(_words(cell), cell.clean) for cell in self.cells]

    def sums(self) -> Row:
        """Return the last row."""
        counts = (f"{self.total(name):,}" for name in _COUNTS)
        times = (
            f"≤ {max((getattr(cell, name) for cell in self.cells), default=0):.1f} s" for name in ("pause", "slowest", "recovered")
        )
        return Row(("all", *counts, *times, f"{self.total('unavailable'):,}", f"{self.total('unanswered'):,}"))

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        lines = [f"{one.subject}: {one.kind}: {one.id}: {one.detail}" for one in self.problems]
        lines += [f"the archive lacks {count} messages of {stream}" for stream, count in self.unarchived.items()]
        lines += [f"dead letter: {letter}" for letter in self.dead]
        return lines or ["no dead letter, and no gap between the streams and the archive"]

    def totals(self) -> dict[str, Any]:
        """Return the sums by name, and the longest pause."""
        sums = {name: self.total(name) for name in (*_COUNTS, "unavailable", "unanswered")}
        return sums | {"longest_pause": max((cell.pause for cell in self.cells), default=0.0)}

    def total(self, column: str) -> int:
        """Return the sum of a column."""
        return sum(getattr(cell, column) for cell in self.cells)


class CutReport(ClusterReport, frozen=True, kw_only=True):
    """The outcome where brokers were cut off."""

    name = "chaos-cluster-cut"
    part = CUTS

    def introduction(self) -> str:
        """Return what was done."""
        return f"""\
The same with three brokers in network namespaces of their own, given to `millrace up --nats … --replicas 2`. {self.how}
`python -m tests.chaos.cluster --cut` repeats this part alone."""


def _words(cell: Cell) -> tuple[str, ...]:
    counts = (f"{getattr(cell, name):,}" for name in _COUNTS)
    times = (f"{cell.pause:.1f} s", f"{cell.slowest:.1f} s", f"{cell.recovered:.1f} s")
    return (cell.target, *counts, *times, f"{cell.unavailable:,}", f"{cell.unanswered:,}")
