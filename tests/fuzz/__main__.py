"""`python -m tests.fuzz`: send hostile values through every door of a stack of its own, and say what became of it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from tests.fuzz import report
from tests.fuzz.documents import DAMAGES
from tests.fuzz.fuzzing import DOORS, Plan, fuzzed
from tests.fuzz.going import Count
from tests.fuzz.hostile import KINDS
from tests.support.places import open_folder

VALUES, QUICK_VALUES = 20_000, 1_000


@click.command(name="fuzz")
@click.option("--values", type=click.IntRange(1), help=f"How many in all.  [default: {VALUES}]")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed draws the same values.")
@click.option("--door", "doors", multiple=True, type=click.Choice(list(DOORS)), help="Some doors only.")
@click.option("--only", type=click.IntRange(0), help="Just the value with this number; needs one --door.")
@click.option("--without", multiple=True, type=click.Choice([*KINDS, *DAMAGES, "missing"]), help="Leave a kind of values out.")
@click.option("--quick", is_flag=True, help=f"Just {QUICK_VALUES} values, in about half a minute.")
@click.option("--write", is_flag=True, help="Write docs/fuzz.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
@click.option("--logs", type=click.Path(path_type=Path), help="Keep the services' logs in this folder.")
def main(
    *,
    values: int | None,
    seed: int,
    doors: tuple[str, ...],
    only: int | None,
    without: tuple[str, ...],
    quick: bool,
    write: bool,
    as_json: bool,
    logs: Path | None,
) -> None:
    """Send hostile values through every door; exit 1 if any did harm, or another organization had to wait."""
    if only is not None and len(doors) != 1:
        raise click.UsageError("--only needs one --door: each door counts its own values")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    many = values or (QUICK_VALUES if quick else VALUES)
    plan = Plan(values=many, seed=seed, doors=doors or tuple(DOORS), only=only, without=frozenset(without))

    def tell(count: Count) -> None:
        console.print(
            f"{count.door}: {count.became['values']:,} values, {count.failed:,} did harm", *count.complaints, markup=False
        )

    with open_folder() as folder:
        try:
            outcome = asyncio.run(fuzzed(plan, folder, tell))
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
        finally:
            if logs is not None:
                shutil.copytree(folder / "data" / "logs", logs, dirs_exist_ok=True)
    console.print(report.table(outcome))
    for remark in report.remarks(outcome):
        console.print(remark, markup=False)
    if write:
        report.PAGE.write_text(report.page(outcome), encoding="utf-8")
        console.print(f"written to {report.PAGE}")
    if as_json:
        click.echo(msgspec.json.encode(report.document(outcome)))
    sys.exit(0 if outcome.harmless and not outcome.late else 1)


if __name__ == "__main__":
    main()
