"""`python -m tests.chaos.outages`: take each part away under a mixed load, and say what was answered."""

from __future__ import annotations

import click

from tests.chaos.drill import carry_out, options
from tests.chaos.outages.drill import TARGETS, Plan, drilled

RATE = 40.0
# Longer than the gateway takes to know that a service hangs.
PAUSE = 8.0
QUICK = ("oauth", "postgres")


@click.command(name="chaos-outages")
@click.option("--rate", type=click.FloatRange(1, 2000), help=f"Requests a second.  [default: {RATE:g}]")
@options(f"Kill {' and '.join(QUICK)} only, in about half a minute.")
def main(*, rate: float | None, quick: bool, write: bool, as_json: bool, keep: bool) -> None:
    """Kill and pause each part under reads, writes and webhooks; exit 1 if one was answered 500, or not in time."""
    plan = Plan(rate=rate or RATE, pause=0.0 if quick else PAUSE, targets=QUICK if quick else TARGETS)
    announced = f"{len(plan.targets)} parts under {plan.rate:g} requests a second"
    carry_out("outages", announced, lambda site: drilled(site, plan), write=write, as_json=as_json, keep=keep)


if __name__ == "__main__":
    main()
