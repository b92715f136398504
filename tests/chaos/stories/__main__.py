"""`python -m tests.chaos.stories`: drill deliveries on an installation of its own, and say whether each has one story."""

from __future__ import annotations

import click

from tests.chaos.drill import carry_out, options, seeded, settling
from tests.chaos.stories.drill import Plan, drilled

WEBHOOKS, QUICK_WEBHOOKS = 10_000, 400
SOURCES = 20
# Below what two cores carry while they also send and count.
RATE, QUICK_RATE = 80.0, 25.0
# Longer than a redelivery, twice, and the delays after it.
SETTLES_WITHIN = 240.0


@click.command(name="chaos-stories")
@click.option("--webhooks", type=click.IntRange(20), help=f"How many, each counted once.  [default: {WEBHOOKS}]")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"How many a second.  [default: {RATE:g}]")
@click.option("--sources", type=click.IntRange(1, 200), default=SOURCES, show_default=True, help="Of how many sources.")
@click.option("--kills", type=click.IntRange(0, 20), default=2, show_default=True, help="How often the events service is killed.")
@settling(SETTLES_WITHIN)
@seeded("Sends the same webhooks in the same order")
@options(f"{QUICK_WEBHOOKS} webhooks, in about half a minute.")
def main(
    *,
    webhooks: int | None,
    rate: float | None,
    sources: int,
    kills: int,
    settle: float,
    seed: int,
    quick: bool,
    write: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Kill the events service under webhooks that come twice and out of order; exit 1 if any has no story, no end, or two."""
    plan = Plan(
        webhooks=webhooks or (QUICK_WEBHOOKS if quick else WEBHOOKS),
        rate=rate or (QUICK_RATE if quick else RATE),
        sources=sources,
        kills=kills,
        settle=settle,
        seed=seed,
    )
    announced = f"{plan.webhooks:,} webhooks of {plan.sources} sources at {plan.rate:g} a second with the seed {plan.seed}"
    carry_out("stories", announced, lambda site: drilled(site, plan), write=write, as_json=as_json, keep=keep)


if __name__ == "__main__":
    main()
