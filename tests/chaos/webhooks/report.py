"""The outcome of a drill of webhooks: a row for each disturbance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tests.chaos.report import WEBHOOKS, Report, Row
from tests.chaos.verdict import Finding, counted
from tests.chaos.webhooks.evidence import Evidence
from tests.chaos.webhooks.plan import Plan, Recovery
from tests.chaos.webhooks.sender import Sent
from tests.chaos.webhooks.verdict import KINDS, begun_again, unarchived

EXAMPLES = 10
_COUNTS = ("accepted", *KINDS, "refused")


class CellReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row: how a cell ended. `seconds` to recover, None when it did not in time; the rest are counts of webhooks or answers."""

    target: str
    how: str
    pause: float
    accepted: int
    lost: int
    duplicated: int
    stuck: int
    failed: int
    disagrees: int
    refused: int
    seconds: float | None
    unavailable: int
    unanswered: int

    @property
    def clean(self) -> bool:
        """Return whether nothing went wrong and all came back."""
        wrong = self.lost + self.duplicated + self.stuck + self.failed + self.disagrees + self.refused
        return not wrong and self.seconds is not None


class WebhooksReport(Report, frozen=True, kw_only=True):
    """The whole outcome. `unarchived` counts by stream what the archive lacks; `dead` quotes dead letters.

    `begun_again` counts runs with more than one attempt, `resumed` those that had their step behind them by then.
    """

    name = "chaos"
    part = WEBHOOKS
    headings = ("target", "how", *_COUNTS, "recovered after", "503s", "no answer")
    words = frozenset({"target", "how"})
    reading = """\
How to read it. *accepted*: answered 202 or 200. Of these: *lost*: not on the bus, without a row, or without its run.
*duplicated*: stored twice, more than one run, a run with more than one end, or a step executed again after it was recorded.
*stuck*: its run has not ended some minutes after the last webhook. *failed*: its run ended otherwise than well. *disagrees*: the
bus and the database tell different stories. *refused*: never accepted. *recovered after*: seconds from the kill, or from the end
of the pause, until every service was ready and a webhook sent then had its run succeeded, shown by the API; behind the backlog.
*503s* and *no answer* count answers, not webhooks. Counted from the streams, from Postgres, and from a file that the workflow
itself writes; the archive is compared with the streams message by message.
"""

    webhooks: int
    runs_every: int
    cells: list[CellReport]
    begun_again: int
    resumed: int
    unarchived: dict[str, int]
    dead: list[str]

    @property
    def clean(self) -> bool:
        """Return whether the installation kept every promise."""
        return all(cell.clean for cell in self.cells) and not (self.unarchived or self.dead or self.problems)

    def introduction(self) -> str:
        """Return what was done."""
        return f"""\
Written by `make chaos ARGS=--write`; not edited by hand. `make chaos` repeats it here, `make chaos ARGS=--quick` a short one.

Each of the five services, the broker and the database is disturbed in turn while signed GitHub webhooks stream in: once killed
(SIGKILL), once paused (SIGSTOP, then SIGCONT) for longer than leases and acknowledgement waits where the target has any. Its
supervisor is paused with it, as on a machine that stands still: it would end what hangs for so long and start it again.
{_started(self.runs_every)} A webhook that was answered 503, or not at all, is
sent again under the same delivery id, as its sender would."""

    def measured(self) -> str:
        """Return how much was sent."""
        return f"{self.webhooks:,} webhooks (canaries included) at {self.rate:g} a second, in {self.seconds:,.0f} s"

    def rows(self) -> list[Row]:
        """Return a row for each cell."""
        return [Row(_words(cell), cell.clean) for cell in self.cells]

    def sums(self) -> Row:
        """Return the sums of the cells."""
        counts = (f"{self.total(name):,}" for name in _COUNTS)
        slowest = max((cell.seconds for cell in self.cells if cell.seconds is not None), default=0)
        return Row(("all", "", *counts, f"≤ {slowest:.1f} s", f"{self.total('unavailable'):,}", f"{self.total('unanswered'):,}"))

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        lines = [
            f"{self.begun_again} runs were begun again, {self.resumed} of them with their step recorded: those must not repeat it"
        ]
        lines += [f"{one.subject}: {one.kind}: {one.id}: {one.detail}" for one in self.problems]
        lines += [f"the archive lacks {count} messages of {stream}" for stream, count in self.unarchived.items()]
        lines += [f"dead letter: {letter}" for letter in self.dead]
        return [*lines, "no dead letter, and no gap between the streams and the archive"] if self.clean else lines

    def totals(self) -> dict[str, Any]:
        """Return the sums by name."""
        return {name: self.total(name) for name in (*_COUNTS, "unavailable", "unanswered")}

    def total(self, column: str) -> int:
        """Return the sum of a column."""
        return sum(getattr(cell, column) for cell in self.cells)


def cell_reports(recoveries: Sequence[Recovery], sent: Sequence[Sent], found: Sequence[Finding]) -> list[CellReport]:
    """Return one row for each cell."""
    counts: Mapping[tuple[str, str], int] = counted(found)
    rows = []
    for recovery in recoveries:
        cell = recovery.cell
        mine = [one for one in sent if one.cell == cell.name]
        rows.append(
            CellReport(
                target=cell.target,
                how=cell.how,
                pause=cell.pause,
                accepted=sum(one.delivery is not None for one in mine),
                refused=sum(one.refusal is not None for one in mine),
                seconds=None if recovery.seconds is None else round(recovery.seconds, 2),
                unavailable=sum(one.tries.unavailable for one in mine),
                unanswered=sum(one.tries.unanswered for one in mine),
                **{kind: counts.get((cell.name, kind), 0) for kind in KINDS},
            )
        )
    return rows


def made(
    plan: Plan, recoveries: Sequence[Recovery], sent: Sequence[Sent], evidence: Evidence, *, at: datetime, seconds: float
) -> WebhooksReport:
    """Return the report of a drill that began `at` and took so many seconds."""
    again, resumed = begun_again(evidence.bus, evidence.marks)
    refused = [Finding(one.cell, "refused", one.sender_delivery, one.refusal) for one in sent if one.refusal is not None]
    return WebhooksReport(
        at=at,
        webhooks=sum(one.cell in {recovery.cell.name for recovery in recoveries} for one in sent),
        rate=plan.rate,
        runs_every=plan.runs_every,
        seconds=round(seconds, 1),
        cells=cell_reports(recoveries, sent, evidence.found),
        begun_again=again,
        resumed=resumed,
        unarchived=unarchived(evidence.bus, evidence.rows),
        dead=evidence.bus.dead[:EXAMPLES],
        problems=[*evidence.found, *refused][:EXAMPLES],
    )


def _started(every: int) -> str:
    which = "Every webhook starts" if every == 1 else f"One webhook of {every} starts"
    rest = (
        ""
        if every == 1
        else " Nobody wants the others: their deliveries must say so, and a run of one of them counts as duplicated."
    )
    return f"{which} exactly one run, of a workflow with a durable step and of one that does nothing in turn.{rest}"


def _words(cell: CellReport) -> tuple[str, ...]:
    how = "SIGKILL" if cell.how == "kill" else f"SIGSTOP {cell.pause:g} s"
    counts = (getattr(cell, name) for name in _COUNTS)
    seconds = "not in time" if cell.seconds is None else f"{cell.seconds:.1f} s"
    return (cell.target, how, *(f"{count:,}" for count in counts), seconds, f"{cell.unavailable:,}", f"{cell.unanswered:,}")
