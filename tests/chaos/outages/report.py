"""The outcome of the drill of outages."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.chaos.report import OUTAGES, Report, Row

WRONGS = ("wrong", "hung", "unasked")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered from one disturbance to the next. `recovered` is in seconds, as is `slowest`."""

    target: str
    how: str
    requests: int
    unavailable: int
    unanswered: int
    slowest: float
    recovered: float


class OutagesReport(Report, frozen=True, kw_only=True):
    """The whole outcome."""

    name = "chaos-outages"
    part = OUTAGES
    headings = ("target", "how", "requests", "503s", "no answer", "slowest", "recovered after")
    words = frozenset({"target", "how"})
    reading = """\
How to read it. Of four requests two are reads, of one owner after the other, one is a write (a variable, a file, a run) and
one a webhook; each is sent once. *no answer*: the connection was refused or cut, which only the gateway's own end does.
*slowest*: seconds until any answer came, refusals included. *recovered after*: seconds from the kill, or from the end of the
pause, until nothing that was sent later failed. *wrong*: an answer that is neither a success nor 503 with `Retry-After`. *hung*:
no answer in 30 s. *unasked*: no answer while the gateway was well.
"""

    cells: list[Cell]

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        return not self.problems

    def introduction(self) -> str:
        """Return what was done."""
        return """\
Each service, the broker and the database is killed (SIGKILL) and started again, and then paused (SIGSTOP, with its supervisor) in
turn, under reads, writes and webhooks. `python -m tests.chaos.outages` repeats this part alone."""

    def measured(self) -> str:
        """Return how much was done."""
        return f"{sum(cell.requests for cell in self.cells):,} requests at {self.rate:g} a second, in {self.seconds:,.0f} s"

    def rows(self) -> list[Row]:
        """Return a row for each disturbance."""
        return [
            Row(
                (
                    cell.target,
                    cell.how,
                    f"{cell.requests:,}",
                    f"{cell.unavailable:,}",
                    f"{cell.unanswered:,}",
                    f"{cell.slowest:.1f} s",
                    f"{cell.recovered:.1f} s",
                ),
                not any(one.subject == f"{cell.target} {cell.how}" for one in self.problems),
            )
            for cell in self.cells
        ]

    def sums(self) -> Row:
        """Return the last row."""
        return Row(
            (
                "all",
                "",
                f"{sum(cell.requests for cell in self.cells):,}",
                f"{sum(cell.unavailable for cell in self.cells):,}",
                f"{sum(cell.unanswered for cell in self.cells):,}",
                f"≤ {max(cell.slowest for cell in self.cells):.1f} s",
                f"≤ {max(cell.recovered for cell in self.cells):.1f} s",
            )
        )

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        lines = [f"{one.subject}: {one.kind}: {one.id}: {one.detail}" for one in self.problems[:20]]
        return lines or ["every answer was a success or 503 with `Retry-After`, and every request had one in time"]

    def totals(self) -> dict[str, Any]:
        """Return the sums by name."""
        return {wrong: sum(one.kind == wrong for one in self.problems) for wrong in WRONGS}
