"""How a benchmark begins and ends: its options, its temporary folder, and one table or one JSON line for its figures."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import uvloop

from deploy.demo import DemoError
from deploy.errors import StartError


class BenchError(Exception):
    """The measurement would be worthless; one sentence says why."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A figure beside the limit that was measured in the same run; `more` holds further figures by name."""

    name: str
    figure: float
    unit: str
    limit: float
    ratio: float
    more: dict[str, Any]

    def line(self) -> str:
        """Return it as one line of JSON."""
        head = {"name": self.name, "figure": self.figure, "unit": self.unit, "limit": self.limit, "ratio": self.ratio}
        return json.dumps(_rounded(head | self.more))

    def table(self) -> str:
        """Return it for a reader."""
        return "\n".join(_rows(_rounded(self.more), ""))


def command(measure: Callable[[Path, float], Awaitable[Outcome]], *, seconds: float, about: str) -> click.Command:
    """Return the command line of a benchmark whose only choice is about how long it measures; `about` is its help."""

    @click.command(help=about)
    @click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
    @click.option("--seconds", default=seconds, show_default=True, help="How long to measure, roughly.")
    def chosen(*, as_json: bool, seconds: float) -> None:
        raise SystemExit(main(measure, seconds=seconds, as_json=as_json))

    return chosen


def main(measure: Callable[[Path, float], Awaitable[Outcome]], *, seconds: float, as_json: bool) -> int:
    """Measure in a temporary folder and print; returns the exit code. A signal ends it as orderly as its end."""
    try:
        outcome = uvloop.run(_measured(measure, seconds))
    except asyncio.CancelledError:
        sys.stderr.write("interrupted\n")
        return 130
    except (BenchError, DemoError, StartError, OSError, TimeoutError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    print(outcome.table())
    if as_json:
        print(outcome.line())
    return 0


async def _measured(measure: Callable[[Path, float], Awaitable[Outcome]], seconds: float) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with _folder() as folder:
        return await measure(folder, seconds)


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder through which Postgres' own user may pass; TMPDIR chooses where: on a disk, if fsync is to mean it."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def percentile(values: Iterable[float], percent: int) -> float:
    """Return a percentile; of too few values the largest."""
    ordered = sorted(values)
    if percent == 50:
        return statistics.median(ordered)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, 3 if abs(value) < 100 else 1)
    return value


def _rows(figures: dict[str, Any], indent: str) -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _rows(value, indent + "  ")
        else:
            yield f"{indent}{name:<{44 - len(indent)}} {value}"
