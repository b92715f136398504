"""`python -m tests.chaos.cluster`: take each broker and the primary database away in turn, and say what became of each webhook."""

from __future__ import annotations

from functools import partial

import click

from tests.chaos.cluster.drill import Drill, Plan, killed
from tests.chaos.drill import carry_out, options
from tests.chaos.installation import installed

# Below what two cores carry that also run three brokers, two databases, ten services, and who sends and counts.
RATE, QUICK_RATE = 25.0, 10.0
# The database twice: there and back.
TARGETS = ("leader", "follower", "follower", "primary", "primary")
QUICK = ("leader", "primary")
HOW = "Each broker is killed (SIGKILL) in turn, that which leads the stream of webhooks first, then the primary database, twice."


@click.command(name="chaos-cluster")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"Webhooks a second.  [default: {RATE:g}]")
@options("Kill the leader and the primary only, in about a minute.")
def main(*, rate: float | None, quick: bool, write: bool, as_json: bool, keep: bool) -> None:
    """Kill each broker and fail the database over under webhooks; exit 1 if one that was accepted did not end in its one run."""
    plan = Plan(rate=rate or (QUICK_RATE if quick else RATE), how=HOW, targets=QUICK if quick else TARGETS)
    announced = f"{len(plan.targets)} kills in a cluster under {plan.rate:g} webhooks a second"
    carry_out(
        "cluster",
        announced,
        lambda site: Drill(site, plan, killed(site)).run(),
        write=write,
        as_json=as_json,
        keep=keep,
        start=partial(installed, options=("--cluster",)),
    )


if __name__ == "__main__":
    main()
