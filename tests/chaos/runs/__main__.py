"""`python -m tests.chaos.runs`: drill runs on an installation of its own, and say what became of each."""

from __future__ import annotations

import click

from tests.chaos.drill import carry_out, options, seeded, settling
from tests.chaos.runs.drill import Plan, drilled

RUNS_ASKED, QUICK_RUNS = 10_000, 100
# Below what two cores carry while they also ask and count.
RATE, QUICK_RATE = 15.0, 2.0
EVERY, QUICK_EVERY = 10.0, 4.0
# Longer than the 30 s after which unacknowledged work is given to somebody else.
PAUSE, QUICK_PAUSE = 40.0, 33.0
# Longer than a redelivery, twice, and the waits after it.
SETTLES_WITHIN = 300.0


@click.command(name="chaos-runs")
@click.option("--runs", type=click.IntRange(1), help=f"How many.  [default: {RUNS_ASKED}]")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"How many a second.  [default: {RATE:g}]")
@click.option("--every", type=click.FloatRange(0.5), help=f"Seconds between two disturbances.  [default: {EVERY:g}]")
@click.option("--pause", type=click.FloatRange(0.1), help=f"Seconds of a SIGSTOP.  [default: {PAUSE:g}]")
@settling(SETTLES_WITHIN)
@seeded("Asks for the same runs and disturbs in the same order")
@options(f"{QUICK_RUNS} runs, each disturbance in turn, in about a minute.")
def main(
    *,
    runs: int | None,
    rate: float | None,
    every: float | None,
    pause: float | None,
    settle: float,
    seed: int,
    quick: bool,
    write: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Kill and pause executors under runs of every kind; exit 1 if any was lost, ended twice, got stuck or ended wrongly."""
    plan = Plan(
        runs=runs or (QUICK_RUNS if quick else RUNS_ASKED),
        rate=rate or (QUICK_RATE if quick else RATE),
        every=every or (QUICK_EVERY if quick else EVERY),
        pause=pause or (QUICK_PAUSE if quick else PAUSE),
        settle=settle,
        seed=seed,
        in_turn=quick,
    )
    announced = f"{plan.runs:,} runs at {plan.rate:g} a second with the seed {plan.seed}"
    carry_out("runs", announced, lambda site: drilled(site, plan), write=write, as_json=as_json, keep=keep)


if __name__ == "__main__":
    main()
