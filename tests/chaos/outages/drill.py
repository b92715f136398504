"""The drill: each part is killed, then paused, under a mixed load; what clients were answered is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from tests.chaos.drill import Site
from tests.chaos.installation import DrillError
from tests.chaos.outages.load import SECRET, Load, Outcome
from tests.chaos.outages.report import Cell, OutagesReport
from tests.chaos.verdict import Finding

TARGETS = ("gateway", "events", "executor", "oauth", "logs", "nats", "postgres")
WORKFLOW = b"""
from millrace import workflow


@workflow(name="touch")
def touch() -> int:
    return 1
"""
# Seconds without a failure after which a disturbance is over; such a wait comes before the first one as well.
WELL = 2.0
# Seconds within which everything has to work again.
RECOVERS = 60.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole drill: requests a second, seconds of each pause (none without), and what is disturbed."""

    rate: float
    pause: float
    targets: tuple[str, ...]


async def drilled(site: Site, plan: Plan) -> OutagesReport:
    """Carry a plan out and return what came of it. Raises `DrillError`."""
    at, loop = datetime.now(UTC), asyncio.get_running_loop()
    began = loop.time()
    (site.place / "touch.py").write_bytes(WORKFLOW)
    await site.deploy(site.place / "touch.py")
    source = await site.call("PUT", "/api/v1/sources/load", body={"adapter": "github", "settings": {"secret": SECRET}})
    cells: list[Cell] = []
    problems: list[Finding] = []
    async with Load(site, f"/hooks/{source['id']}", plan.rate) as load:
        await _is_well(load, loop.time())
        for how in ("SIGKILL", *([f"SIGSTOP {plan.pause:g} s"] if plan.pause else [])):
            for target in plan.targets:
                site.print(f"{target}: {how}")
                cell, found = await _disturbed(site, load, plan, target, how)
                cells.append(cell)
                problems += found
    return OutagesReport(at=at, seconds=loop.time() - began, rate=plan.rate, problems=problems, cells=cells)


async def _disturbed(site: Site, load: Load, plan: Plan, target: str, how: str) -> tuple[Cell, list[Finding]]:
    loop, installation = asyncio.get_running_loop(), site.installation
    began = loop.time()
    if how == "SIGKILL":
        moment = loop.time()
        await installation.running(target, other_than=await installation.kill(target))
    else:
        async with installation.paused(target):
            await asyncio.sleep(plan.pause)  # the pause is the disturbance
        moment = loop.time()
    await installation.all_ready(site.session)
    recovered = await _is_well(load, moment)
    outcomes = load.since(began)
    cell = Cell(
        target=target,
        how=how,
        requests=len(outcomes),
        unavailable=sum(one.status == 503 for one in outcomes),
        unanswered=sum(one.status is None for one in outcomes),
        slowest=max(one.seconds for one in outcomes),
        recovered=max(0.0, recovered - moment),
    )
    return cell, [*_findings(f"{target} {how}", target, outcomes)]


async def _is_well(load: Load, since: float) -> float:
    """Wait until nothing fails for a while, and return when the last request that failed was sent. Raises `DrillError`."""
    loop = asyncio.get_running_loop()
    found = since

    def well() -> bool:
        nonlocal found
        found = max([since, *(one.at for one in load.since(since) if one.failed)])
        return loop.time() - found > WELL and any(one.at > found + WELL / 2 for one in load.outcomes)

    try:
        async with asyncio.timeout(RECOVERS):
            await load.until(well)
    except TimeoutError as error:
        last = next((one for one in reversed(load.outcomes) if one.failed), None)
        raise DrillError(f"requests fail for {RECOVERS:.0f} s, the last one of them {last}") from error
    return found


def _findings(subject: str, target: str, outcomes: Iterable[Outcome]) -> Iterable[Finding]:
    for one in outcomes:
        what = f"{one.request.method} {one.request.path}"
        if one.error == "hung":
            yield Finding(subject, "hung", what, f"no answer after {one.seconds:.0f} s")
        elif one.error is not None and target != "gateway":
            yield Finding(subject, "unasked", what, one.error)
        elif one.status is not None and not (one.status < 400 or (one.status == 503 and one.retry_after)):
            yield Finding(subject, "wrong", what, f"answered {one.status}")
