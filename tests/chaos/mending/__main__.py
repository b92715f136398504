"""`python -m tests.chaos.mending`: fail runs, mend them by one command, and say what became of each."""

from __future__ import annotations

import click

from tests.chaos.drill import carry_out, options, seeded, settling
from tests.chaos.mending.drill import Plan, drilled

RUNS, QUICK_RUNS = 500, 60
# Below what two cores carry of both kinds of runs.
RATE, QUICK_RATE = 12.0, 8.0
EVERY, QUICK_EVERY = 12.0, 4.0
# Longer than a redelivery, twice.
SETTLES_WITHIN = 300.0


@click.command(name="chaos-mending")
@click.option("--runs", type=click.IntRange(1), help=f"How many runs fail.  [default: {RUNS}]")
@click.option(
    "--rate", type=click.FloatRange(0.1, 1000), help=f"Runs a second that are asked for, and resumed.  [default: {RATE:g}]"
)
@click.option("--every", type=click.FloatRange(0.5), help=f"Seconds between two kills.  [default: {EVERY:g}]")
@settling(SETTLES_WITHIN)
@seeded("Kills in the same order")
@options(f"{QUICK_RUNS} runs, each kill in turn, in about a minute.")
def main(
    *,
    runs: int | None,
    rate: float | None,
    every: float | None,
    settle: float,
    seed: int,
    quick: bool,
    write: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Resume failed runs with mended code under kills of executors; exit 1 if any has not ended once, or repeated a step."""
    plan = Plan(
        runs=runs or (QUICK_RUNS if quick else RUNS),
        rate=rate or (QUICK_RATE if quick else RATE),
        every=every or (QUICK_EVERY if quick else EVERY),
        settle=settle,
        seed=seed,
        in_turn=quick,
    )
    announced = f"{plan.runs:,} runs to mend at {plan.rate:g} a second with the seed {plan.seed}"
    carry_out("mending", announced, lambda site: drilled(site, plan), write=write, as_json=as_json, keep=keep)


if __name__ == "__main__":
    main()
