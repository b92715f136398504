"""The outcome of the drill of mending: a row for those that were mended, and one for those beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tests.chaos.mending.evidence import WRONGS, Evidence
from tests.chaos.report import MENDING, Report, Row
from tests.chaos.verdict import counted

EXAMPLES = 20


class MendingReport(Report, frozen=True, kw_only=True):
    """The whole outcome: how many `runs` were to be mended, and how many the command said that it had resumed."""

    name = "chaos-mending"
    part = MENDING
    headings = ("", "runs", *WRONGS)
    words = frozenset({""})
    reading = """\
How to read it. *unresumed*: a failed run that no run goes on with. *unended*: a run without an end some minutes later. *twice*:
resumed by two runs, or two ends of one. *repeated*: a step that was on record is done again. *failed*: an end that
is no success. *rows*: a row that has no end.
"""

    runs: int
    told: int
    others: int
    kills: dict[str, int]
    seed: int
    counts: dict[str, dict[str, int]]

    @property
    def clean(self) -> bool:
        """Return whether each was mended once and all others went on."""
        return not self.problems and self.told == self.runs

    def introduction(self) -> str:
        """Return what was done."""
        return """\
Written by `make chaos ARGS=--write`; not edited by hand.

Runs fail behind their second step. Their code is mended, and `millrace runs resume --query 'workflow:… status:failed'` is given
twice, while as many runs of another workflow are asked for and two executors are killed (SIGKILL), one after the other.
`python -m tests.chaos.mending` repeats this part alone."""

    def measured(self) -> str:
        """Return how much was asked for."""
        return (
            f"{self.runs:,} runs mended beside {self.others:,}, {self.rate:g} a second, in {self.seconds:,.0f} s; seed {self.seed}"
        )

    def rows(self) -> list[Row]:
        """Return a row for each kind."""
        counts = (("mended", self.runs), ("other", self.others))
        return [
            Row((kind, f"{runs:,}", *(f"{self.counts[kind][wrong]:,}" for wrong in WRONGS)), not any(self.counts[kind].values()))
            for kind, runs in counts
        ]

    def sums(self) -> Row:
        """Return the sums."""
        totals = self.totals()
        return Row(("all", f"{self.runs + self.others:,}", *(f"{totals[wrong]:,}" for wrong in WRONGS)))

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        lines = [f"the command said of {self.told:,} runs that they go on", f"killed: {self.kills}"]
        lines += [f"{one.kind}: {one.id}: {one.detail}" for one in self.problems]
        return [*lines, "each was mended once, and no step was repeated"] if self.clean else lines

    def totals(self) -> dict[str, Any]:
        """Return the sums by name."""
        return {wrong: sum(of[wrong] for of in self.counts.values()) for wrong in WRONGS}


def made(
    evidence: Evidence,
    kills: Counter[str],
    *,
    told: Sequence[dict[str, Any]],
    at: datetime,
    seed: int,
    rate: float,
    seconds: float,
) -> MendingReport:
    """Return the report of a drill that began `at` and took so many seconds."""
    counts = counted(evidence.found)
    return MendingReport(
        at=at,
        seconds=round(seconds, 1),
        rate=rate,
        problems=evidence.found[:EXAMPLES],
        runs=len(evidence.failed),
        told=sum(one["run"] is not None for one in told),
        others=len(evidence.others),
        kills=dict(kills),
        seed=seed,
        counts={kind: {wrong: counts.get((kind, wrong), 0) for wrong in WRONGS} for kind in ("mended", "other", "runs")},
    )
