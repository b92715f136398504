"""The drill's outcome: as a table for eyes, as a page for the documentation, as one line for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from deploy.chaos.drill import Recovery
from deploy.chaos.evidence import Evidence
from deploy.chaos.plan import Plan
from deploy.chaos.sender import Sent
from deploy.chaos.verdict import KINDS, Finding, begun_again, counted, unarchived

EXAMPLES = 10
_HEADINGS = ("target", "how", "accepted", *KINDS, "refused", "recovered after", "503s", "no answer")


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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole outcome. `unarchived` counts by stream what the archive lacks; `dead` quotes dead letters.

    `begun_again` counts runs with more than one attempt, `resumed` those that had their step behind them by then.
    """

    at: datetime
    webhooks: int
    rate: float
    runs_every: int
    seconds: float
    cells: list[CellReport]
    begun_again: int
    resumed: int
    unarchived: dict[str, int]
    dead: list[str]
    problems: list[Finding]

    @property
    def clean(self) -> bool:
        """Return whether the installation kept every promise."""
        return all(cell.clean for cell in self.cells) and not (self.unarchived or self.dead or self.problems)

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
                unavailable=sum(one.unavailable for one in mine),
                unanswered=sum(one.unanswered for one in mine),
                **{kind: counts.get((cell.name, kind), 0) for kind in KINDS},
            )
        )
    return rows


def made(
    plan: Plan,
    recoveries: Sequence[Recovery],
    sent: Sequence[Sent],
    evidence: Evidence,
    *,
    at: datetime,
    seconds: float,
) -> Report:
    """Return the report of a drill that began `at` and took so many seconds."""
    again, resumed = begun_again(evidence.bus, evidence.marks)
    refused = [Finding(one.cell, "refused", one.sender_delivery, one.refusal) for one in sent if one.refusal is not None]
    return Report(
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


def table(report: Report) -> Table:
    """Return the cells as a table with their sum."""
    made = Table(show_footer=True)
    for heading, footer in zip(_HEADINGS, ("all", *_sums(report)), strict=True):
        made.add_column(heading, footer, justify="left" if heading in _HEADINGS[:2] else "right")
    for cell in report.cells:
        made.add_row(*_words(cell), style=None if cell.clean else "red")
    return made


def remarks(report: Report) -> list[str]:
    """Return in sentences what the table does not show."""
    lines = [
        f"{report.begun_again} runs were begun again, {report.resumed} of them with their step recorded: those must not repeat it"
    ]
    lines += [f"{one.cell}: {one.kind}: {one.delivery}: {one.detail}" for one in report.problems]
    lines += [f"the archive lacks {count} messages of {stream}" for stream, count in report.unarchived.items()]
    return lines + [f"dead letter: {letter}" for letter in report.dead]


def page(report: Report) -> str:
    """Return the documentation's page."""
    rows = [_HEADINGS, tuple("---" if heading in _HEADINGS[:2] else "---:" for heading in _HEADINGS)]
    rows += [_words(cell) for cell in report.cells]
    rows += [("**all**", *_sums(report))]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    said = "\n".join(f"- {remark}" for remark in remarks(report))
    if report.clean:
        said += "\n- no dead letter, and no gap between the streams and the archive"
    return f"""\
# The kill matrix

Written by `make chaos ARGS=--write`; not edited by hand. `make chaos` repeats it here, `make chaos ARGS=--quick` a short one.

Each of the five services, the broker and the database is disturbed in turn while signed GitHub webhooks stream in: once killed
(SIGKILL), once paused (SIGSTOP, then SIGCONT) for longer than leases and acknowledgement waits where the target has any. Its
supervisor is paused with it, as on a machine that stands still: it would end what hangs for so long and start it again.
{_started(report.runs_every)} A webhook that was answered 503, or not at all, is
sent again under the same delivery id, as its sender would.

- **{report.at:%Y-%m-%d %H:%M} UTC**, Millrace {version("millrace")}, {machine()}
- {report.webhooks:,} webhooks (canaries included) at {report.rate:g} a second, in {report.seconds:,.0f} s

{lines}

{said}

How to read it. *accepted*: answered 202 or 200. Of these: *lost*: not on the bus, without a row, or without its run.
*duplicated*: stored twice, more than one run, a run with more than one end, or a step executed again after it was recorded.
*stuck*: its run has not ended some minutes after the last webhook. *failed*: its run ended otherwise than well. *disagrees*: the
bus and the database tell different stories. *refused*: never accepted. *recovered after*: seconds from the kill, or from the end
of the pause, until every service was ready and a webhook sent then had its run succeeded, shown by the API; behind the backlog.
*503s* and *no answer* count answers, not webhooks. Counted from the streams, from Postgres, and from a file that the workflow
itself writes; the archive is compared with the streams message by message.
"""


def _started(every: int) -> str:
    which = "Every webhook starts" if every == 1 else f"One webhook of {every} starts"
    rest = (
        ""
        if every == 1
        else " Nobody wants the others: their deliveries must say so, and a run of one of them counts as duplicated."
    )
    return f"{which} exactly one run, of a workflow with a durable step and of one that does nothing in turn.{rest}"


def machine() -> str:
    """Return in a phrase what this was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, {system}"


def document(report: Report) -> dict[str, Any]:
    """Return the report as one JSON object."""
    totals = {name: report.total(name) for name in ("accepted", *KINDS, "refused", "unavailable", "unanswered")}
    found: dict[str, Any] = msgspec.to_builtins(report)
    return {"name": "chaos", "clean": report.clean, **totals, **found}


def _words(cell: CellReport) -> tuple[str, ...]:
    how = "SIGKILL" if cell.how == "kill" else f"SIGSTOP {cell.pause:g} s"
    counts = (getattr(cell, name) for name in ("accepted", *KINDS, "refused"))
    seconds = "not in time" if cell.seconds is None else f"{cell.seconds:.1f} s"
    return (cell.target, how, *(f"{count:,}" for count in counts), seconds, f"{cell.unavailable:,}", f"{cell.unanswered:,}")


def _sums(report: Report) -> tuple[str, ...]:
    counts = (f"{report.total(name):,}" for name in ("accepted", *KINDS, "refused"))
    measured = [cell.seconds for cell in report.cells if cell.seconds is not None]
    return (
        "",
        *counts,
        f"≤ {max(measured, default=0):.1f} s",
        f"{report.total('unavailable'):,}",
        f"{report.total('unanswered'):,}",
    )
