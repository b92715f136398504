"""The outcome of a drill of runs: a row for each kind of run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tests.chaos.report import RUNS, Report, Row
from tests.chaos.runs.asker import Asked
from tests.chaos.runs.evidence import Evidence
from tests.chaos.runs.kinds import KINDS as KINDS_OF_RUNS
from tests.chaos.runs.verdict import KINDS, begun_again
from tests.chaos.verdict import counted

EXAMPLES = 20


class KindReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row: how many runs of a kind were accepted, how they ended, and how often each thing was wrong with them."""

    name: str
    accepted: int
    ends: dict[str, int]
    wrong: dict[str, int]


class RunsReport(Report, frozen=True, kw_only=True):
    """The whole outcome. `runs` counts child runs too; `claims` is how often they were begun, `again` runs begun more than once."""

    name = "chaos-runs"
    part = RUNS
    headings = ("kind", "runs", "ended", *KINDS)
    words = frozenset({"kind", "ended"})
    reading = """\
How to read it. *lost*: accepted, and not on the bus or without a row. *duplicated*: more than one end, anything said after the
end or on behalf of a claim that was superseded, a step recorded twice, or executed after its record was on the bus. *stuck*: no end
some minutes after the last request. *wrong*: an end that the workflow, or what was done to the run, does not allow; another result
than the right one; fewer retries than it had; two runs of one key at a time. *disagrees*: bus, rows and archive tell different
stories. *leaked*: a turn, a slot or a child that is still held when nothing goes on. Counted from the stream, from Postgres, and
from a file that the workflows themselves write.
"""

    seed: int
    kinds: list[KindReport]
    accepted: int
    runs: int
    claims: int
    again: int
    with_steps: int
    messages: int
    repeated: int
    disturbances: dict[str, int]
    pools: dict[str, dict[str, Any] | None]
    counts: dict[str, int]

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        return not any(self.counts.values())

    def introduction(self) -> str:
        """Return what was done."""
        return """\
Runs are asked for over HTTP while one of two executors is killed (SIGKILL) or paused (SIGSTOP for longer than it takes until its
work is given to the other one, then SIGCONT; its supervisor with it), and now and then the broker or the database is killed.
`python -m tests.chaos.runs` repeats this part alone; the same `--seed` asks for the same runs and disturbs in the same order."""

    def measured(self) -> str:
        """Return how much was asked for."""
        return f"{self.accepted:,} runs at {self.rate:g} a second, in {self.seconds:,.0f} s, with the seed {self.seed}"

    def rows(self) -> list[Row]:
        """Return a row for each kind of run."""
        return [Row(_words(row), not any(row.wrong.values())) for row in self.kinds]

    def sums(self) -> Row:
        """Return the sums of the kinds, and what was wrong with the whole."""
        return Row(("all", f"{self.accepted:,}", "", *(f"{self.counts[name]:,}" for name in KINDS)))

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        done = ", ".join(f"{what} {count} times" for what, count in sorted(self.disturbances.items()))
        lines = [
            f"done to the installation meanwhile: {done or 'nothing'}",
            f"{self.runs:,} runs (children included) were begun {self.claims:,} times and left {self.messages:,} messages",
            f"{self.again:,} runs were begun more than once, {self.with_steps:,} of them with a step behind them",
            f"{self.repeated:,} requests had no answer or a 503, and were made again",
        ]
        for name, pool in self.pools.items():
            lines.append(f"the {name} executor at the end: {pool if pool is None else _pool(pool)}")
        return lines + [f"{one.subject}: {one.kind}: {one.id}: {one.detail}" for one in self.problems]

    def totals(self) -> dict[str, Any]:
        """Return how often each thing was wrong."""
        return dict(self.counts)


def made(
    asked: Sequence[Asked],
    evidence: Evidence,
    disturbances: Mapping[str, int],
    *,
    at: datetime,
    seed: int,
    rate: float,
    seconds: float,
) -> RunsReport:
    """Return the report of a drill that began `at` and took so many seconds."""
    wrong = counted(evidence.found)
    runs = evidence.bus.runs
    rows = []
    for kind in KINDS_OF_RUNS:
        mine = [one.run for one in asked if one.order.kind.name == kind.name and one.run is not None]
        ends = Counter(runs[run].ends[0] if run in runs and runs[run].ends else "no end" for run in mine)
        counts = {name: wrong[kind.name, name] for name in KINDS}
        rows.append(KindReport(name=kind.name, accepted=len(mine), ends=dict(ends.most_common()), wrong=counts))
    again, with_steps = begun_again(evidence.bus)
    return RunsReport(
        at=at,
        seed=seed,
        rate=rate,
        seconds=round(seconds, 1),
        kinds=rows,
        accepted=sum(row.accepted for row in rows),
        runs=len(runs),
        claims=sum(len(run.claims) for run in runs.values()),
        again=again,
        with_steps=with_steps,
        messages=evidence.bus.stored,
        repeated=sum(one.again for one in asked),
        disturbances=dict(disturbances),
        pools=evidence.pools,
        counts={name: sum(one.kind == name for one in evidence.found) for name in KINDS},
        problems=evidence.found[:EXAMPLES],
    )


def _pool(pool: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pool.items())


def _words(row: KindReport) -> tuple[str, ...]:
    ends = ", ".join(f"{end} {count:,}" for end, count in row.ends.items())
    return (row.name, f"{row.accepted:,}", ends, *(f"{row.wrong[name]:,}" for name in KINDS))
