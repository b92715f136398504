"""`python -m tests.chaos.oauth`: drill refreshing on an installation of its own, and say whether every grant lives."""

from __future__ import annotations

import os

import click

from tests.chaos.drill import carry_out, options, seeded
from tests.chaos.oauth.drill import Plan, drilled

REFRESHES, QUICK_REFRESHES = 2_000, 100
FAMILIES, QUICK_FAMILIES = 40, 10
# Below what two cores carry while they also count.
RATE, QUICK_RATE = 14.0, 8.0
EVERY, QUICK_EVERY = 10.0, 3.0
# Longer than a claim lives, so that another one has taken it by then.
PAUSE, QUICK_PAUSE = 36.0, 4.0


@click.command(name="chaos-oauth")
@click.option("--refreshes", type=click.IntRange(1), help=f"How many.  [default: {REFRESHES}]")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"How many a second, about.  [default: {RATE:g}]")
@seeded("Disturbs in the same order")
@options(f"{QUICK_REFRESHES} refreshes, each disturbance in turn, in about half a minute.")
def main(
    *,
    refreshes: int | None,
    rate: float | None,
    seed: int,
    quick: bool,
    write: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Kill and pause oauth services while tokens rotate; exit 1 if a grant was lost, or a connection is stuck or wrong."""
    # The provider is on the loopback, which services ask by an operator's leave only.
    os.environ["MILLRACE_EGRESS_ALLOW"] = "127.0.0.1"
    plan = Plan(
        refreshes=refreshes or (QUICK_REFRESHES if quick else REFRESHES),
        families=QUICK_FAMILIES if quick else FAMILIES,
        rate=rate or (QUICK_RATE if quick else RATE),
        every=QUICK_EVERY if quick else EVERY,
        pause=QUICK_PAUSE if quick else PAUSE,
        seed=seed,
        in_turn=quick,
    )
    announced = f"{plan.refreshes:,} refreshes of {plan.families} grants at {plan.rate:g} a second with the seed {plan.seed}"
    carry_out("oauth", announced, lambda site: drilled(site, plan), write=write, as_json=as_json, keep=keep)


if __name__ == "__main__":
    main()
