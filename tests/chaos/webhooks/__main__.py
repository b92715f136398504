"""`python -m tests.chaos.webhooks`: run the kill matrix on an installation of its own, and say what it came to."""

from __future__ import annotations

import click

from tests.chaos.drill import carry_out, options
from tests.chaos.webhooks.drill import drilled
from tests.chaos.webhooks.plan import chosen, plan

# Seconds of flow around a disturbance, its pause aside: how the webhooks are spread.
AROUND, QUICK_AROUND = 14.0, 3.0
WEBHOOKS, QUICK_WEBHOOKS = 20_000, 300
# Below what two cores carry while they also send and count: above it the matrix would measure a backlog and not a recovery.
RATE, QUICK_RATE = 40.0, 20.0
RUNS_EVERY, QUICK_RUNS_EVERY = 8, 1
QUICK_TARGETS = "events:kill,executor:kill,gateway:kill,nats:kill,postgres:kill"


@click.command(name="chaos")
@click.option("--webhooks", type=click.IntRange(1), help=f"How many in all.  [default: {WEBHOOKS}]")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"How many a second.  [default: {RATE:g}]")
@click.option("--runs-every", type=click.IntRange(1), help=f"Every so many webhooks start a run.  [default: {RUNS_EVERY}]")
@click.option("--targets", help="Some only: events,nats:kill,postgres:pause.  [default: all, both ways]")
@click.option("--pause", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Seconds of a SIGSTOP.")
@click.option("--long-pause", type=click.FloatRange(0.1), default=35.0, show_default=True, help="The same of events and executor.")
@options("Five kills and 300 webhooks, in about a minute.")
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
    announced = f"{planned.webhooks:,} webhooks at {planned.rate:g} a second, {len(planned.cells)} disturbances"
    carry_out("webhooks", announced, lambda site: drilled(site, planned), write=write, as_json=as_json, keep=keep)


if __name__ == "__main__":
    main()
