"""`python -m tests.chaos.waits`: drill waits for events on an installation of its own, and say what each run went on with."""

from __future__ import annotations

import click

from tests.chaos.drill import carry_out, options, seeded, settling
from tests.chaos.waits.drill import Plan, drilled

WAITS, QUICK_WAITS = 10_000, 100
# Below what two cores carry while they also ask and count.
RATE, QUICK_RATE = 15.0, 8.0
EVERY, QUICK_EVERY = 15.0, 5.0
# Longer than a redelivery, twice, and the waits after it.
SETTLES_WITHIN = 300.0


@click.command(name="chaos-waits")
@click.option("--waits", type=click.IntRange(1), help=f"How many runs, each with an event.  [default: {WAITS}]")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"Runs, and then events, a second.  [default: {RATE:g}]")
@click.option("--every", type=click.FloatRange(0.5), help=f"Seconds between two kills.  [default: {EVERY:g}]")
@settling(SETTLES_WITHIN)
@seeded("Sends in the same order")
@options(f"{QUICK_WAITS} runs, each kill in turn, in about a minute.")
def main(
    *,
    waits: int | None,
    rate: float | None,
    every: float | None,
    settle: float,
    seed: int,
    quick: bool,
    write: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Kill executors and the events service under runs that wait for events; exit 1 if any has not gone on once with its own."""
    plan = Plan(
        waits=waits or (QUICK_WAITS if quick else WAITS),
        rate=rate or (QUICK_RATE if quick else RATE),
        every=every or (QUICK_EVERY if quick else EVERY),
        settle=settle,
        seed=seed,
        in_turn=quick,
    )
    announced = f"{plan.waits:,} waits at {plan.rate:g} a second with the seed {plan.seed}"
    carry_out("waits", announced, lambda site: drilled(site, plan), write=write, as_json=as_json, keep=keep)


if __name__ == "__main__":
    main()
