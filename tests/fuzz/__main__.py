"""`python -m tests.fuzz`: send hostile values through every door of a stack of its own, then what follows from the OpenAPI document
as each role, and say what became of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console

from tests.fuzz import report, roles
from tests.fuzz.documents import DAMAGES
from tests.fuzz.fuzzing import DOORS, Plan, fuzzed
from tests.fuzz.going import Count
from tests.fuzz.hostile import KINDS
from tests.support.places import open_folder

VALUES, QUICK_VALUES = 20_000, 1_000
# Requests of each operation with each key; `make test` sends one.
EACH, QUICK_EACH = 10, 1
# The part that has no values: its requests are the document's.
ROLES = "roles"


@click.command(name="fuzz")
@click.option("--values", type=click.IntRange(1), help=f"How many in all.  [default: {VALUES}]")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed sends the same.")
@click.option("--door", "doors", multiple=True, type=click.Choice([*DOORS, ROLES]), help="Some only; roles: each by the document.")
@click.option("--each", type=click.IntRange(1), help=f"Requests of an operation as each role.  [default: {EACH}]")
@click.option("--seconds", type=click.IntRange(1), help="No request as a role begins after so many.")
@click.option("--only", type=click.IntRange(0), help="Just the value with this number; needs one --door.")
@click.option("--without", multiple=True, type=click.Choice([*KINDS, *DAMAGES, "missing"]), help="Leave a kind of values out.")
@click.option("--quick", is_flag=True, help=f"Just {QUICK_VALUES} values, and {QUICK_EACH} request as each role.")
@click.option("--write", is_flag=True, help="Write docs/fuzz.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
@click.option("--logs", type=click.Path(path_type=Path), help="Keep the services' logs in this folder.")
def main(
    *,
    values: int | None,
    seed: int,
    doors: tuple[str, ...],
    each: int | None,
    seconds: int | None,
    only: int | None,
    without: tuple[str, ...],
    quick: bool,
    write: bool,
    as_json: bool,
    logs: Path | None,
) -> None:
    """Send hostile values through every door, and requests as each role; exit 1 if any did harm or held up another organization."""
    hostile = tuple(door for door in doors or DOORS if door != ROLES)
    if only is not None and len(hostile) != 1:
        raise click.UsageError("--only needs one --door: each door counts its own values")
    plan = Plan(
        values=values or (QUICK_VALUES if quick else VALUES), seed=seed, doors=hostile, only=only, without=frozenset(without)
    )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    outcome = said = None
    if hostile:
        with _kept(logs) as folder:
            outcome = _through(plan, folder, console, write=write)
    # Whatever the first half has found.
    if ROLES in doors or not doors:
        with _kept(logs) as folder:
            said = asyncio.run(roles.complaints(folder, each=each or (QUICK_EACH if quick else EACH), seed=seed, seconds=seconds))
        console.print(said or "roles: no 5xx, and no answer that is not declared", markup=False)
    if outcome is not None and as_json:
        click.echo(msgspec.json.encode(report.document(outcome)))
    sys.exit(0 if said is None and (outcome is None or (outcome.harmless and not outcome.late)) else 1)


@contextlib.contextmanager
def _kept(logs: Path | None) -> Iterator[Path]:
    """Make the folder of a stack; what its services logged is kept where that is wanted."""
    with open_folder() as folder:
        try:
            yield folder
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
        finally:
            if logs is not None:
                shutil.copytree(folder / "data" / "logs", logs, dirs_exist_ok=True)


def _through(plan: Plan, folder: Path, console: Console, *, write: bool) -> report.Report:
    """Send the values through the doors, and print and return what came of it."""

    def tell(count: Count) -> None:
        console.print(
            f"{count.door}: {count.became['values']:,} values, {count.failed:,} did harm", *count.complaints, markup=False
        )

    outcome = asyncio.run(fuzzed(plan, folder, tell))
    console.print(report.table(outcome))
    for remark in report.remarks(outcome):
        console.print(remark, markup=False)
    if write:
        report.PAGE.write_text(report.page(outcome), encoding="utf-8")
        console.print(f"written to {report.PAGE}")
    return outcome


if __name__ == "__main__":
    main()
