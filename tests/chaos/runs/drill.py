"""The drill: ask for runs of every kind while one of two executors after the other is disturbed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.drill import Site
from tests.chaos.evidence import settle
from tests.chaos.runs.asker import Asker
from tests.chaos.runs.disturbing import Disturbing
from tests.chaos.runs.evidence import Evidence
from tests.chaos.runs.kinds import orders
from tests.chaos.runs.replicas import health, second_of
from tests.chaos.runs.report import RunsReport, made

WORKFLOWS = Path(__file__).with_name("workflows.py")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole drill: `runs` at `rate` a second, a disturbance `every` so many seconds; a `pause` and the end in seconds too."""

    runs: int
    rate: float
    every: float
    pause: float
    settle: float
    seed: int
    in_turn: bool


async def drilled(site: Site, plan: Plan) -> RunsReport:
    """Carry a plan out and return what came of it. Raises `DrillError`."""
    at = datetime.now(UTC)
    async with second_of("executor", site.installation, site.place) as second:
        ready = site.installation.ready()
        await site.deploy(WORKFLOWS)
        loop = asyncio.get_running_loop()
        began = loop.time()
        asker = Asker(site.session, ready["url"], ready["admin_key"])

        def printed(what: str) -> None:
            site.tell(f"{what} ({sum(one.run is not None for one in asker.asked):,} accepted)")

        disturbing = Disturbing(site.installation, second, every=plan.every, pause=plan.pause, seed=plan.seed, tell=printed)
        async with disturbing.going(in_turn=plan.in_turn):
            await asker.flow(orders(plan.runs, plan.seed, str(site.marks)), plan.rate)
        site.print("waiting for everything accepted to end …")
        await site.installation.all_ready(site.session)

        async def pools() -> dict[str, Any]:
            """Return what each executor says of its slots and children."""
            sockets = Path((site.place / "data" / "run" / "sockets").read_text())
            found = {"first": await health(sockets / "health" / "executor.sock"), "second": await second.health()}
            site.installation.ready()
            return {name: None if answer is None else answer.get("pool") for name, answer in found.items()}

        evidence = Evidence(asker.asked, pools)
        await settle(evidence, ready, site.marks, plan.settle)
        return made(asker.asked, evidence, disturbing.done, at=at, seed=plan.seed, rate=plan.rate, seconds=loop.time() - began)
