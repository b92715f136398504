"""The outcome of a drill: as a table for eyes, as a part of the documentation's page, as one line for programs."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from rich.table import Table

from tests.chaos.verdict import Finding
from tests.support.machine import machine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kill-matrix.md"
HEADS = (
    "# The kill matrix\n",
    "## Runs of every kind, over two executors\n",
    "## Webhooks that come twice and out of order\n",
    "## Refresh tokens that rotate, over two oauth services\n",
    "## Parts that are away, under reads, writes and webhooks\n",
    "## A cluster that loses a broker, or its primary database\n",
    "## A cluster with a broker that is cut off\n",
    "## Runs that wait for events of their own\n",
    "## Failed runs that one command mends\n",
)
WEBHOOKS, RUNS, STORIES, TOKENS, OUTAGES, CLUSTER, CUTS, WAITS, MENDING = range(9)


class Row(msgspec.Struct, frozen=True):
    """A row of the table in words, and whether nothing is wrong with it."""

    words: tuple[str, ...]
    clean: bool = True


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill that began `at` came to; each drill adds its figures."""

    name: ClassVar[str]
    # Which part of the page it is, what was done before the figures, and how to read them.
    part: ClassVar[int]
    reading: ClassVar[str]
    # Those of `headings` whose columns hold words.
    headings: ClassVar[tuple[str, ...]]
    words: ClassVar[frozenset[str]]

    at: datetime
    seconds: float
    rate: float
    problems: list[Finding]

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        raise NotImplementedError

    def introduction(self) -> str:
        """Return what was done, for the page."""
        raise NotImplementedError

    def measured(self) -> str:
        """Return in a phrase how much was measured."""
        raise NotImplementedError

    def rows(self) -> list[Row]:
        """Return the table's rows."""
        raise NotImplementedError

    def sums(self) -> Row:
        """Return the table's last row."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        raise NotImplementedError

    def totals(self) -> dict[str, Any]:
        """Return the sums by name."""
        raise NotImplementedError


def table(report: Report) -> Table:
    """Return the rows with their sum."""
    made = Table(show_footer=True)
    for heading, footer in zip(report.headings, report.sums().words, strict=True):
        made.add_column(heading, footer, justify="left" if heading in report.words else "right")
    for row in report.rows():
        made.add_row(*row.words, style=None if row.clean else "red")
    return made


def page(report: Report) -> str:
    """Return the drill's part of the documentation's page."""
    first, *rest = report.sums().words
    rows = [
        report.headings,
        tuple("---" if heading in report.words else "---:" for heading in report.headings),
        *(row.words for row in report.rows()),
        (f"**{first}**", *rest),
    ]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    remarks = "\n".join(f"- {remark}" for remark in report.remarks())
    return f"""\
{HEADS[report.part]}
{report.introduction()}

- **{report.at:%Y-%m-%d %H:%M} UTC**, Millrace {version("millrace")}, {machine()}
- {report.measured()}

{lines}

{remarks}

{report.reading}"""


def document(report: Report) -> dict[str, Any]:
    """Return the report as one JSON object."""
    found: dict[str, Any] = msgspec.to_builtins(report)
    return {"name": report.name, "clean": report.clean, **report.totals(), **found}


def written(part: int, text: str, page: Path = PAGE) -> Path:
    """Put a part, which begins with its head, in the place of the one before and leave the others as they are; returns the page."""
    left = page.read_text("utf-8") if page.exists() else ""
    parts: list[str] = []
    for head in reversed(HEADS[1:]):
        left, found, rest = left.partition(head)
        parts.insert(0, found + rest)
    parts.insert(0, left)
    parts[part] = text
    page.write_text("\n\n".join(one.strip() for one in parts if one.strip()) + "\n", encoding="utf-8")
    return page
