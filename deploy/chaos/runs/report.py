"""The outcome of a drill of runs: as a table for eyes, as a part of the documentation's page, as one line for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import msgspec
from rich.table import Table

from deploy.chaos.report import machine
from deploy.chaos.runs.asker import Asked
from deploy.chaos.runs.evidence import Evidence
from deploy.chaos.runs.kinds import KINDS as KINDS_OF_RUNS
from deploy.chaos.runs.verdict import KINDS, Finding, begun_again

EXAMPLES = 20
_HEADINGS = ("kind", "runs", "ended", *KINDS)


class KindReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row: how many runs of a kind were accepted, how they ended, and how often each thing was wrong with them."""

    name: str
    accepted: int
    ends: dict[str, int]
    wrong: dict[str, int]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole outcome. `runs` counts child runs too; `claims` is how often they were begun, `again` runs begun more than once."""

    at: datetime
    seed: int
    rate: float
    seconds: float
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
    problems: list[Finding]

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        return not any(self.counts.values())


def made(
    asked: Sequence[Asked],
    evidence: Evidence,
    disturbances: Mapping[str, int],
    *,
    at: datetime,
    seed: int,
    rate: float,
    seconds: float,
) -> Report:
    """Return the report of a drill that began `at` and took so many seconds."""
    wrong = Counter((one.kind_of_run, one.kind) for one in evidence.found)
    runs = evidence.bus.runs
    rows = []
    for kind in KINDS_OF_RUNS:
        mine = [one.run for one in asked if one.order.kind.name == kind.name and one.run is not None]
        ends = Counter(runs[run].ends[0] if run in runs and runs[run].ends else "no end" for run in mine)
        counts = {name: wrong[kind.name, name] for name in KINDS}
        rows.append(KindReport(name=kind.name, accepted=len(mine), ends=dict(ends.most_common()), wrong=counts))
    again, with_steps = begun_again(evidence.bus)
    return Report(
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


def table(report: Report) -> Table:
    """Return the kinds as a table with their sum."""
    made = Table(show_footer=True)
    for heading, footer in zip(_HEADINGS, _sums(report), strict=True):
        made.add_column(heading, footer, justify="left" if heading in {"kind", "ended"} else "right")
    for row in report.kinds:
        made.add_row(*_words(row), style="red" if any(row.wrong.values()) else None)
    return made


def remarks(report: Report) -> list[str]:
    """Return in sentences what the table does not show."""
    done = ", ".join(f"{what} {count} times" for what, count in sorted(report.disturbances.items()))
    lines = [
        f"done to the installation meanwhile: {done or 'nothing'}",
        f"{report.runs:,} runs (children included) were begun {report.claims:,} times and left {report.messages:,} messages",
        f"{report.again:,} runs were begun more than once, {report.with_steps:,} of them with a step behind them",
        f"{report.repeated:,} requests had no answer or a 503, and were made again",
    ]
    for name, pool in report.pools.items():
        lines.append(f"the {name} executor at the end: {pool if pool is None else _pool(pool)}")
    return lines + [f"{one.kind_of_run}: {one.kind}: {one.run}: {one.detail}" for one in report.problems]


def part(report: Report) -> str:
    """Return the part of the documentation's page that tells of runs."""
    rows = [_HEADINGS, tuple("---" if heading in {"kind", "ended"} else "---:" for heading in _HEADINGS)]
    rows += [_words(row) for row in report.kinds]
    first, *rest = _sums(report)
    rows += [(f"**{first}**", *rest)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    said = "\n".join(f"- {remark}" for remark in remarks(report))
    return f"""\
## Runs of every kind, over two executors

Runs are asked for over HTTP while one of two executors is killed (SIGKILL) or paused (SIGSTOP for longer than it takes until its
work is given to the other one, then SIGCONT; its supervisor with it), and now and then the broker or the database is killed.
`python -m deploy.chaos.runs` repeats this part alone; the same `--seed` asks for the same runs and disturbs in the same order.

- **{report.at:%Y-%m-%d %H:%M} UTC**, Millrace {version("millrace")}, {machine()}
- {report.accepted:,} runs at {report.rate:g} a second, in {report.seconds:,.0f} s, with the seed {report.seed}

{lines}

{said}

How to read it. *lost*: accepted, and not on the bus or without a row. *duplicated*: more than one end, anything said after the
end or on behalf of a claim that was superseded, a step recorded twice, or executed after its record was on the bus. *stuck*: no end
some minutes after the last request. *wrong*: an end that the workflow, or what was done to the run, does not allow; another result
than the right one; fewer retries than it had; two runs of one key at a time. *disagrees*: bus, rows and archive tell different
stories. *leaked*: a turn, a slot or a child that is still held when nothing goes on. Counted from the stream, from Postgres, and
from a file that the workflows themselves write.
"""


def document(report: Report) -> dict[str, Any]:
    """Return the report as one JSON object."""
    found: dict[str, Any] = msgspec.to_builtins(report)
    return {"name": "chaos-runs", "clean": report.clean, **report.counts, **found}


def _pool(pool: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pool.items())


def _words(row: KindReport) -> tuple[str, ...]:
    ends = ", ".join(f"{end} {count:,}" for end, count in row.ends.items())
    return (row.name, f"{row.accepted:,}", ends, *(f"{row.wrong[name]:,}" for name in KINDS))


def _sums(report: Report) -> tuple[str, ...]:
    return ("all", f"{report.accepted:,}", "", *(f"{report.counts[name]:,}" for name in KINDS))
