"""`python -m deploy.chaos.runs`: drill runs on an installation of its own, and say what became of each."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec
from rich.console import Console

from deploy.chaos.installation import DrillError, Installation, installed
from deploy.chaos.page import RUNS, written
from deploy.chaos.place import end_in_order, executions_in, place_of
from deploy.chaos.runs import report
from deploy.chaos.runs.asker import Asker
from deploy.chaos.runs.disturbing import Disturbing
from deploy.chaos.runs.evidence import settled
from deploy.chaos.runs.kinds import orders
from deploy.chaos.runs.replicas import Second, health, second_executor

WORKFLOWS = Path(__file__).with_name("drilled.py")
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
@click.option("--settle", type=click.FloatRange(1), default=SETTLES_WITHIN, show_default=True, help="Seconds to end in, at last.")
@click.option("--seed", type=int, help="Asks for the same runs and disturbs in the same order again.  [default: the time]")
@click.option("--quick", is_flag=True, help=f"{QUICK_RUNS} runs, each disturbance in turn, in about a minute.")
@click.option("--write", is_flag=True, help="Write its part of docs/kill-matrix.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
@click.option("--keep", is_flag=True, help="Leave the installation's folder behind, with its logs.")
def main(
    *,
    runs: int | None,
    rate: float | None,
    every: float | None,
    pause: float | None,
    settle: float,
    seed: int | None,
    quick: bool,
    write: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Kill and pause executors under runs of every kind; exit 1 if any was lost, ended twice, got stuck or ended wrongly."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    drill = Drill(
        console,
        runs=runs or (QUICK_RUNS if quick else RUNS_ASKED),
        rate=rate or (QUICK_RATE if quick else RATE),
        every=every or (QUICK_EVERY if quick else EVERY),
        pause=pause or (QUICK_PAUSE if quick else PAUSE),
        settle=settle,
        seed=int(datetime.now(UTC).timestamp()) if seed is None else seed,
        in_turn=quick,
    )
    try:
        with place_of("runs", keep=keep) as place:
            outcome = asyncio.run(drill.through(place))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except DrillError as error:
        console.print(f"[red]chaos:[/] {error}")
        sys.exit(1)
    console.print(report.table(outcome))
    for remark in report.remarks(outcome):
        console.print(remark, markup=False)
    if write:
        console.print(f"written to {written(RUNS, report.part(outcome))}")
    if as_json:
        click.echo(msgspec.json.encode(report.document(outcome)))
    sys.exit(0 if outcome.clean else 1)


class Drill:
    """One drill with its settings; see the options."""

    def __init__(
        self,
        console: Console,
        *,
        runs: int,
        rate: float,
        every: float,
        pause: float,
        settle: float,
        seed: int,
        in_turn: bool,
    ) -> None:
        self._console = console
        self._runs = runs
        self._rate = rate
        self._every = every
        self._pause = pause
        self._settle = settle
        self._seed = seed
        self._in_turn = in_turn

    async def through(self, place: Path) -> report.Report:
        """Set an installation up in `place`, drill it and return what came of it. Raises `DrillError`."""
        end_in_order()
        marks = executions_in(place)
        at = datetime.now(UTC)
        self._say(f"{self._runs:,} runs at {self._rate:g} a second with the seed {self._seed}, in {place}")
        # Every request has a connection of its own: a client does not wait for other clients.
        async with (
            installed(place) as installation,
            second_executor(installation, place) as second,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            ready = installation.ready()
            await _deploy(session, ready)
            began = asyncio.get_running_loop().time()
            asker = Asker(session, ready["url"], ready["admin_key"])
            disturbing = Disturbing(
                installation, second, every=self._every, pause=self._pause, seed=self._seed, tell=self._disturbed(asker)
            )
            async with disturbing.going(in_turn=self._in_turn):
                await asker.flow(orders(self._runs, self._seed, str(marks)), self._rate)
            self._say("waiting for everything accepted to end …")
            await installation.all_ready(session)

            async def pools() -> dict[str, Any]:
                return await _pools(installation, place, second)

            evidence = await settled(ready["nats_url"], ready["database_url"], asker.asked, marks, pools, self._settle)
            return report.made(
                asker.asked,
                evidence,
                disturbing.done,
                at=at,
                seed=self._seed,
                rate=self._rate,
                seconds=asyncio.get_running_loop().time() - began,
            )

    def _disturbed(self, asker: Asker) -> Any:
        def tell(what: str) -> None:
            self._say(f"{datetime.now(UTC):%H:%M:%S} {what} ({sum(one.run is not None for one in asker.asked):,} accepted)")

        return tell

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False)


async def _deploy(session: aiohttp.ClientSession, ready: dict[str, Any]) -> None:
    async with session.put(
        f"{ready['url']}/api/v1/workspace/files/{WORKFLOWS.name}",
        data=WORKFLOWS.read_bytes(),
        headers={"Authorization": f"Bearer {ready['admin_key']}"},
    ) as response:
        answer = await response.json(content_type=None)
        if response.status >= 400:
            raise DrillError(f"the drill's workflows are refused: {response.status} {answer.get('detail')}")
        if answer["problems"]:
            raise DrillError(f"the drill's workflows do not load: {answer['problems'][0]['message']}")


async def _pools(installation: Installation, place: Path, second: Second) -> dict[str, Any]:
    """Return what each executor says of its slots and children."""
    sockets = Path((place / "data" / "run" / "sockets").read_text())
    found = {"first": await health(sockets / "health" / "executor.sock"), "second": await second.health()}
    installation.ready()
    return {name: None if document is None else document.get("pool") for name, document in found.items()}


if __name__ == "__main__":
    main()
