"""The outcome of the drill of waits: one row."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from tests.chaos.report import WAITS, Report, Row
from tests.chaos.verdict import counted
from tests.chaos.waits.evidence import WRONGS, Evidence

EXAMPLES = 20


class WaitsReport(Report, frozen=True, kw_only=True):
    """The whole outcome. `late` is how many of the `runs` came after their events, `matched` how many answers there were."""

    name = "chaos-waits"
    part = WAITS
    headings = ("", "runs", "events", "answers", *WRONGS)
    words = frozenset({""})
    reading = """\
How to read it. *unended*: a run without an end some minutes after the last event. *twice*: two ends or two events of one run.
*another's*: an event of another invoice than its own. *failed*: an end that is no success, or with another's event.
*left*: a row of a wait that is over, or of an event that is still to be looked at.
"""

    runs: int
    events: int
    late: int
    matched: int
    kills: dict[str, int]
    seed: int
    counts: dict[str, int]

    @property
    def clean(self) -> bool:
        """Return whether each run has gone on once, with its own event."""
        return not self.problems and self.matched == self.runs

    def introduction(self) -> str:
        """Return what was done."""
        return """\
Written by `make chaos ARGS=--write`; not edited by hand.

Runs wait for the payment of an invoice each. The payments come in a random order, one of five a second time under the same key, one
of ten as another payment; one run of ten begins after all of them. Meanwhile two executors and the events service are killed
(SIGKILL), one after the other."""

    def measured(self) -> str:
        """Return how much was sent."""
        return f"{self.runs:,} runs and {self.events:,} events, {self.rate:g} a second, in {self.seconds:,.0f} s; seed {self.seed}"

    def rows(self) -> list[Row]:
        """Return no row beside the sums."""
        return []

    def sums(self) -> Row:
        """Return the sums."""
        return Row(
            (
                "all",
                f"{self.runs:,}",
                f"{self.events:,}",
                f"{self.matched:,}",
                *(f"{self.counts[kind]:,}" for kind in WRONGS),
            )
        )

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        lines = [f"{self.late:,} runs began after their event", f"killed: {self.kills}"]
        lines += [f"{one.kind}: {one.id}: {one.detail}" for one in self.problems]
        return [*lines, "each went on once, with its own event"] if self.clean else lines

    def totals(self) -> dict[str, Any]:
        """Return the sums by name."""
        return dict(self.counts)


def made(
    evidence: Evidence,
    kills: Counter[str],
    *,
    events: int,
    late: int,
    at: datetime,
    seed: int,
    rate: float,
    seconds: float,
) -> WaitsReport:
    """Return the report of a drill that began `at` and took so many seconds."""
    counts = counted(evidence.found)
    return WaitsReport(
        at=at,
        seconds=round(seconds, 1),
        rate=rate,
        problems=evidence.found[:EXAMPLES],
        runs=len(evidence.runs),
        events=events,
        late=late,
        matched=sum(map(len, evidence.matched.values())),
        kills=dict(kills),
        seed=seed,
        counts={wrong: counts.get(("waits", wrong), 0) for wrong in WRONGS},
    )
