"""`python -m tests.chaos.cluster`: take each broker and the primary database away in turn, and say what became of each webhook."""

from __future__ import annotations

import sys
from functools import partial

import click

from tests.chaos.cluster import cut as cutting
from tests.chaos.cluster.drill import Drill, Plan, killed
from tests.chaos.drill import carry_out, options
from tests.chaos.installation import installed
from tests.support.programs import SKIPPED

# Below what two cores carry that also run three brokers, two databases, ten services, and who sends and counts.
RATE, QUICK_RATE = 25.0, 10.0
# The database twice: there and back.
TARGETS = ("leader", "other", "other", "primary", "primary")
QUICK = ("leader", "primary")
KILLS = "Each broker is killed (SIGKILL) in turn, that which leads the stream of webhooks first, then the primary database, twice."
# Longer than the broker's clients take to give up a connection that is silent.
CUT_FOR = 20.0
CUTS = f"Each broker is cut off from all others and all services for {CUT_FOR:g} s in turn: nothing arrives, and nobody is told."


@click.command(name="chaos-cluster")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help=f"Webhooks a second.  [default: {RATE:g}]")
@click.option("--cut", is_flag=True, help=f"Cut each broker off for {CUT_FOR:g} s instead, by networks of the drill's own.")
@options("Of the leader and the primary only, in about a minute.")
def main(*, rate: float | None, cut: bool, quick: bool, write: bool, as_json: bool, keep: bool) -> None:
    """Kill each broker and fail the database over under webhooks; exit 1 if one that was accepted did not end in its one run."""
    if cut and (why_not := cutting.enter(sys.argv[1:])):
        click.echo(f"skipped: {why_not}")
        sys.exit(SKIPPED)
    targets = tuple(one for one in (QUICK if quick else TARGETS) if not cut or one != "primary")
    plan = Plan(rate=rate or (QUICK_RATE if quick else RATE), how=CUTS if cut else KILLS, cut=cut, targets=targets)
    announced = f"{len(plan.targets)} {'cuts' if cut else 'kills'} in a cluster under {plan.rate:g} webhooks a second"
    carry_out(
        "cluster",
        announced,
        lambda site: Drill(site, plan, cutting.cut(CUT_FOR) if cut else killed(site)).run(),
        write=write,
        as_json=as_json,
        keep=keep,
        start=cutting.started if cut else partial(installed, options=("--cluster",)),
    )


if __name__ == "__main__":
    main()
