"""`python -m deploy.doctor`, which is `millrace doctor`."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from deploy.doctor import machine, running
from deploy.doctor.finding import Finding
from deploy.folder import is_claimed
from deploy.local import Ready

MARKS = {"well": "[green]well[/]", "note": "[yellow]note[/]", "wrong": "[red]wrong[/]"}


@click.command(name="doctor", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The data folder.")
@click.option("--port", type=click.IntRange(0, 65535), default=8420, show_default=True, help="The port that `up` would take.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print it.")
def main(*, data: Path, port: int, output: str) -> None:
    """Say what is wrong here and what to do. Exit code 0: nothing. 1: something is."""
    findings = asyncio.run(_look(data.expanduser().absolute(), port))
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode({"items": findings})))
    else:
        _show(findings)
    sys.exit(any(finding.verdict == "wrong" for finding in findings))


async def _look(data: Path, port: int) -> list[Finding]:
    up = is_claimed(data)
    found = [*machine.machine(), *machine.folder(data, running=up), await machine.sandbox()]
    if os.path.exists(data) and not machine.is_ours(data):  # noqa: PTH110 - Path.exists raises where it may not look
        return found
    if not up:
        return [*found, machine.port(port), Finding("stack", "note", f"nothing runs on {data}", "Start it with `millrace up`.")]
    found += running.supervised(data / "run" / "state.json", data / "logs", datetime.now(UTC))
    try:
        ready = msgspec.json.decode((data / "ready.json").read_bytes(), type=Ready)
        sockets = Path((data / "run" / "sockets").read_text("utf-8"))
    except (OSError, msgspec.DecodeError):
        return [
            *found,
            Finding("stack", "wrong", "it runs and is not ready", "It is starting, or rebuilding, or one named above dies."),
        ]
    found.append(Finding("stack", "well", f"runs at {ready.url}, version {ready.version}"))
    found.append(await running.served(ready.url))
    found += [finding async for finding in running.healthy(sockets, list(ready.services))]
    found += [finding async for finding in running.stores(ready)]
    return found


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    table = Table("what", "how", "said", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.about, MARKS[finding.verdict], finding.said)
    console.print(table)
    for finding in findings:
        if finding.verdict != "well" and finding.do:
            console.print(f"{MARKS[finding.verdict]} {finding.about}: ", end="")
            console.print(f"{finding.said}. {finding.do}", markup=False)
    if all(finding.verdict != "wrong" for finding in findings):
        console.print("Nothing is wrong.")


if __name__ == "__main__":
    main(prog_name="millrace doctor")
