"""What a fuzz came to: as a table for eyes, as a page for the documentation, as one line for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.table import Table

from tests.fuzz.canary import LATE, Canary
from tests.fuzz.going import WRONGS, Count, Failure
from tests.support.machine import machine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fuzz.md"
COLUMNS = ("values", "stored", "refused", *WRONGS)
_MEANINGS = {
    "http": "every route of the API, with hostile paths, parameters, headers and bodies",
    "hooks": "webhooks to every adapter, signed and not, of any content type, encoding and charset",
    "questions": "every question and command on the bus, with the rights of the service that may ask it",
    "streams": "every message, written straight into its stream as an older version may have left it",
    "runs": "every frame that a run can write past the SDK, and every call of the SDK, from within the sandbox",
    "declarations": "every part of a declared workflow or adapter, and every field of a forged description, deployed and used",
}


class DoorReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row: how many values went through a door, and what became of them."""

    door: str
    counts: dict[str, int]
    seconds: float
    failures: list[Failure]
    complaints: list[str]

    @property
    def clean(self) -> bool:
        """Return whether nothing went wrong."""
        return not self.complaints and not any(self.counts[column] for column in WRONGS)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole outcome. `restarts` has the processes that were started again; `late` and `silent` are runs of the canary.

    `errors` counts the lines of level error in the services' own logs: what they cope with, they tell.
    """

    at: datetime
    seed: int
    seconds: float
    doors: list[DoorReport]
    kinds: dict[str, int]
    restarts: dict[str, Any]
    sung: int
    usual: float
    slowest: float
    late: int
    silent: list[str]
    errors: dict[str, int]

    @property
    def harmless(self) -> bool:
        """Return whether nobody was hurt; a canary that was late is counted and not judged here."""
        return all(door.clean for door in self.doors) and not self.restarts and not self.silent


def made(
    counts: Sequence[Count],
    canary: Canary,
    *,
    restarts: dict[str, Any],
    errors: dict[str, int],
    at: datetime,
    seed: int,
    seconds: float,
) -> Report:
    """Return the report of what was counted."""
    kinds: dict[str, int] = {}
    for count in counts:
        for kind, many in count.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + many
    return Report(
        at=at,
        seed=seed,
        seconds=round(seconds, 1),
        doors=[
            DoorReport(
                door=count.door,
                counts={column: count.became[column] for column in COLUMNS},
                seconds=round(count.seconds, 1),
                failures=count.failures,
                complaints=count.complaints,
            )
            for count in counts
        ],
        kinds=dict(sorted(kinds.items())),
        restarts=restarts,
        sung=len(canary.seconds),
        usual=round(median(canary.seconds or [0.0]), 3),
        slowest=round(max(canary.seconds, default=0.0), 3),
        late=sum(seconds > LATE for seconds in canary.seconds),
        silent=canary.silent,
        errors=errors,
    )


def table(report: Report) -> Table:
    """Return the doors as a table with their sum."""
    shown = Table(show_footer=True)
    shown.add_column("door", "all")
    for column in COLUMNS:
        shown.add_column(column, f"{_sum(report, column):,}", justify="right")
    shown.add_column("seconds", f"{report.seconds:,.0f}", justify="right")
    for door in report.doors:
        shown.add_row(door.door, *_figures(door), f"{door.seconds:,.0f}", style=None if door.clean else "red")
    return shown


def remarks(report: Report) -> list[str]:
    """Return in sentences what the table does not show."""
    again = ", ".join(f"{name} {said}" for name, said in report.restarts.items())
    canary = (
        f"the canary: {report.sung} webhooks to the end of their runs, half of them within {report.usual:.2f} s, the slowest in"
        f" {report.slowest:.2f} s; {report.late} took longer than {LATE:g} s, {len(report.silent)} never ended"
    )
    lines = [f"processes started again: {again or 'none'}", canary]
    if report.errors:
        lines.append("errors that the services logged: " + ", ".join(f"{name} {many:,}" for name, many in report.errors.items()))
    for door in report.doors:
        lines += [f"{door.door}: {complaint}" for complaint in door.complaints]
        for failure in door.failures:
            lines.append(f"{failure.case}\n    {failure.said}\n    {repeat(report, failure)}")
    return lines + [f"canary: {silent}" for silent in report.silent[:5]]


def repeat(report: Report, failure: Failure) -> str:
    """Return the command that sends a value again."""
    return f'make fuzz ARGS="--door {failure.door} --seed {report.seed} --only {failure.number}"'


def document(report: Report) -> dict[str, Any]:
    """Return the outcome for programs."""
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found | {"harmless": report.harmless, **{column: _sum(report, column) for column in COLUMNS}}


def page(report: Report) -> str:
    """Return the page of the documentation."""
    heads = ["door", *COLUMNS]
    rows = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    rows += ["| " + " | ".join([door.door, *_figures(door)]) + " |" for door in report.doors]
    rows.append("| **all** | " + " | ".join(f"{_sum(report, column):,}" for column in COLUMNS) + " |")
    meanings = "\n".join(f"- **{door.door}**: {_MEANINGS[door.door]}" for door in report.doors)
    facts = "\n".join(f"- {line}" for line in remarks(report) if "\n" not in line)
    return f"""\
# The fuzz

Written by `make fuzz ARGS="--values {_sum(report, "values")} --write"`; not edited by hand. `make fuzz` repeats a part of it,
and `make test` a small one.

Hostile values go through every door of a running stack, one to each input that is otherwise as it should be: texts with NUL, half
surrogate pairs, marks, floods of combining characters and 100,000 characters; numbers and times at and beyond the ends of what
JSON, Postgres and Python hold; nesting of up to 100,000 levels; other types, missing, unknown and repeated fields; whole documents
that are empty, cut, compressed, or in another encoding. Where they are put follows from the declarations: every field of every
message, question, command, body and frame.

{meanings}

Meanwhile another organization's good webhooks start good runs.

After that come requests which Schemathesis makes of the OpenAPI document, with the key of each role (`--door roles`, so many
`--each` of an operation): none may be answered 5xx, or as the document does not say.

- **{report.at:%Y-%m-%d %H:%M} UTC**, Millrace {version("millrace")}, {machine()}
- {_sum(report, "values"):,} values of {len(report.kinds)} kinds in {report.seconds:,.0f} s, with the seed {report.seed}

{chr(10).join(rows)}

{facts}

How to read it. *stored*: taken, and there when it is asked for; a message has its row in the archive. *refused*: with an answer
that says why, and which field is meant. *failed*: answered 5xx, or as a bug of the service that was asked. *unanswered*: no answer
within 20 s. *wrong*: any other breach, such as a refusal that names nothing. After each batch of values every projection has to
catch up with its stream, every service to be ready, and no process to have been started again.
"""


def _figures(door: DoorReport) -> list[str]:
    return [f"{door.counts[column]:,}" for column in COLUMNS]


def _sum(report: Report, column: str) -> int:
    return sum(door.counts[column] for door in report.doors)
