"""`python -m deploy.chaos`: run the kill matrix on an installation of its own, and say what it came to."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import click
import msgspec
from rich.console import Console

from deploy.chaos import report
from deploy.chaos.drill import Drill, Recovery
from deploy.chaos.evidence import settled
from deploy.chaos.installation import DrillError, installed
from deploy.chaos.page import WEBHOOKS as WEBHOOKS_PART
from deploy.chaos.page import written
from deploy.chaos.place import end_in_order, executions_in, place_of
from deploy.chaos.plan import Plan, chosen, plan
from deploy.chaos.sender import Sender

# Longer than an acknowledgement wait, a redelivery and the delays after them, one behind the other.
SETTLES_WITHIN = 180.0
# For how long one webhook is sent again: longer than any recovery, so that a slow one is a slow one and not a refusal.
PATIENCE = 180.0
# Seconds of flow around a disturbance, its pause aside: how the webhooks are spread.
AROUND, QUICK_AROUND = 14.0, 3.0
WEBHOOKS, QUICK_WEBHOOKS = 20_000, 300
# Below what two cores carry while they also send and count: above it the matrix would measure a backlog and not a recovery.
RATE, QUICK_RATE = 40.0, 20.0
RUNS_EVERY, QUICK_RUNS_EVERY = 8, 1
DESCRIPTORS = 16_384
QUICK_TARGETS = "events:kill,executor:kill,gateway:kill,nats:kill,postgres:kill"


@click.command(name="chaos")
@click.option("--webhooks", type=click.IntRange(1), help=f"How many in all.  [default: {WEBHOOKS}]")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"How many a second.  [default: {RATE:g}]")
@click.option("--runs-every", type=click.IntRange(1), help=f"Every so many webhooks start a run.  [default: {RUNS_EVERY}]")
@click.option("--targets", help="Some only: events,nats:kill,postgres:pause.  [default: all, both ways]")
@click.option("--pause", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Seconds of a SIGSTOP.")
@click.option("--long-pause", type=click.FloatRange(0.1), default=35.0, show_default=True, help="The same of events and executor.")
@click.option("--quick", is_flag=True, help="Five kills and 300 webhooks, in about a minute.")
@click.option("--write", is_flag=True, help="Write docs/kill-matrix.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
@click.option("--keep", is_flag=True, help="Leave the installation's folder behind, with its logs.")
def main(
    *,
    webhooks: int | None,
    rate: float | None,
    runs_every: int | None,
    targets: str | None,
    pause: float,
    long_pause: float,
    quick: bool,
    write: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Kill and pause every part of an installation under load; exit 1 if anything was lost, done twice or got stuck."""
    try:
        disturbances = chosen(targets or (QUICK_TARGETS if quick else ""))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    planned = plan(
        disturbances,
        webhooks=webhooks or (QUICK_WEBHOOKS if quick else WEBHOOKS),
        rate=rate or (QUICK_RATE if quick else RATE),
        runs_every=runs_every or (QUICK_RUNS_EVERY if quick else RUNS_EVERY),
        pause=pause,
        long_pause=long_pause,
        around=QUICK_AROUND if quick else AROUND,
    )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    # While the gateway is away every webhook waits on a connection of its own.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    try:
        with place_of("webhooks", keep=keep) as place:
            outcome = asyncio.run(_drilled(place, planned, console))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except DrillError as error:
        console.print(f"[red]chaos:[/] {error}")
        sys.exit(1)
    console.print(report.table(outcome))
    for remark in report.remarks(outcome):
        console.print(remark, markup=False)
    if write:
        console.print(f"written to {written(WEBHOOKS_PART, report.page(outcome))}")
    if as_json:
        click.echo(msgspec.json.encode(report.document(outcome)))
    sys.exit(0 if outcome.clean else 1)


async def _drilled(place: Path, planned: Plan, console: Console) -> report.Report:
    end_in_order()
    marks = executions_in(place)
    at = datetime.now(UTC)
    console.print(f"{planned.webhooks:,} webhooks at {planned.rate:g} a second, {len(planned.cells)} disturbances, in {place}")
    # Every webhook in flight has a connection of its own: a sender does not wait for other senders.
    connector = aiohttp.TCPConnector(limit=0)
    async with installed(place) as installation, aiohttp.ClientSession(connector=connector) as session:
        sender = Sender(session, PATIENCE)
        drill = Drill(installation, session, sender, marks)
        await drill.prepare()
        began = asyncio.get_running_loop().time()

        def tell(recovery: Recovery) -> None:
            seconds = "not in time" if recovery.seconds is None else f"after {recovery.seconds:.1f} s"
            console.print(f"{recovery.cell.name:16} recovered {seconds} ({recovery.story})", markup=False)

        recoveries = await drill.run(planned, tell)
        console.print("waiting for everything accepted to end …")
        ready = installation.ready()
        evidence = await settled(ready["nats_url"], ready["database_url"], sender.sent, marks, SETTLES_WITHIN)
        return report.made(
            planned,
            recoveries,
            sender.sent,
            evidence,
            at=at,
            seconds=asyncio.get_running_loop().time() - began,
        )


if __name__ == "__main__":
    main()
