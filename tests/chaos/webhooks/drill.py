"""The drill: set an installation up, disturb it cell by cell under a steady flow, and measure how soon it works again."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.drill import Site
from tests.chaos.evidence import settle
from tests.chaos.installation import ASKED_EVERY
from tests.chaos.webhooks.evidence import Evidence
from tests.chaos.webhooks.plan import COUNTED, NOOP, Cell, Plan, Recovery
from tests.chaos.webhooks.report import WebhooksReport, made
from tests.chaos.webhooks.sender import Address, Sender

WORKFLOWS = Path(__file__).with_name("workflows.py")
# Longer than an acknowledgement wait, a redelivery and the delays after them, one behind the other.
SETTLES_WITHIN = 180.0
# Seconds after which a cell counts as not recovered; the longest known wait is one for a redelivery, 30 s.
RECOVERS_WITHIN = 150.0


async def drilled(site: Site, plan: Plan) -> WebhooksReport:
    """Carry a plan out and return what came of it. Raises `DrillError`."""
    at = datetime.now(UTC)
    sender = Sender(site.session)
    drill = Drill(site, sender)
    await drill.prepare()
    loop = asyncio.get_running_loop()
    began = loop.time()
    recoveries = await drill.run(plan)
    site.print("waiting for everything accepted to end …")
    evidence = Evidence(sender.sent)
    await settle(evidence, site.installation.ready(), site.marks, SETTLES_WITHIN)
    return made(plan, recoveries, sender.sent, evidence, at=at, seconds=loop.time() - began)


class Drill:
    """One installation under one plan."""

    def __init__(self, site: Site, sender: Sender) -> None:
        self._site = site
        self._sender = sender
        self._secret = secrets.token_urlsafe(24)
        self._addresses: dict[str, Address] = {}

    async def prepare(self) -> None:
        """Deploy the workflows, and make a source for the flow and one for canaries."""
        await self._site.deploy(WORKFLOWS)
        counted = {"workflow": "chaos-counted", "input": {"file": str(self._site.marks), "event": "event.id"}}
        for source in ("flow", "canary"):
            body = {"adapter": "github", "settings": {"secret": self._secret}}
            url = (await self._site.call("PUT", f"/api/v1/sources/{source}", body=body))["url"]
            self._addresses[source] = Address(url, self._secret)
            subscription: dict[str, Any] = {"source": source, "event": COUNTED, **counted}
            await self._site.call("PUT", f"/api/v1/subscriptions/{source}-counted", body=subscription)
        subscription = {"source": "flow", "event": NOOP, "workflow": "chaos-noop", "input": {}}
        await self._site.call("PUT", "/api/v1/subscriptions/flow-noop", body=subscription)
        async with asyncio.timeout(RECOVERS_WITHIN):
            await self._canary("warm-up")

    async def run(self, plan: Plan) -> list[Recovery]:
        """Go through the cells and print each when it is over. A cell ends when it has recovered and all was accepted."""
        recoveries: list[Recovery] = []
        for cell in plan.cells:
            if not await self._without_backlog(cell):
                recoveries.append(self._printed(Recovery(cell, ())))
                continue
            stream = self._sender.stream(cell.name, self._addresses["flow"], plan.flow(cell), plan.rate)
            flow = asyncio.create_task(stream)
            try:
                await asyncio.sleep(plan.lead)
                stages = await self._disturbed(cell)
                await flow
            finally:
                flow.cancel()
                await asyncio.gather(flow, return_exceptions=True)
            recoveries.append(self._printed(Recovery(cell, stages)))
        return recoveries

    def _printed(self, recovery: Recovery) -> Recovery:
        seconds = "not in time" if recovery.seconds is None else f"after {recovery.seconds:.1f} s"
        self._site.print(f"{recovery.cell.name:16} recovered {seconds} ({recovery.story})")
        return recovery

    async def _without_backlog(self, cell: Cell) -> bool:
        """Wait until no cell before this one has left it anything to do; False when that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECOVERS_WITHIN):
                # Work is done in order: when a canary is through, what came before it is.
                await self._canary(cell.name)
                await self._site.installation.all_ready(self._site.session)
                return True
        return False

    async def _disturbed(self, cell: Cell) -> tuple[float, ...]:
        """Kill or pause the cell's target; return the seconds after which each stage was reached, so far as they were in time."""
        before: int | None = None
        if cell.how == "kill":
            before = await self._site.installation.kill(cell.target)
        else:
            async with self._site.installation.paused(cell.target):
                await asyncio.sleep(cell.pause)
        loop = asyncio.get_running_loop()
        began = loop.time()
        stages: list[float] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECOVERS_WITHIN):
                await self._site.installation.running(cell.target, other_than=before)
                stages.append(loop.time() - began)
                await self._canary(cell.name)
                stages.append(loop.time() - began)
                await self._site.installation.all_ready(self._site.session)
                stages.append(loop.time() - began)
        return tuple(stages)

    async def _canary(self, cell: str) -> None:
        """Send a webhook and return once its run shows as succeeded, in the deliveries and among the runs."""
        while (sent := await self._sender.send(cell, self._addresses["canary"], COUNTED)).delivery is None:
            # That it was refused is in the report; whether it goes on being refused is asked here.
            await asyncio.sleep(1)
        delivery = f"/api/v1/deliveries/{sent.delivery}"
        while True:
            runs = ((await self._site.get(delivery)) or {}).get("runs") or []
            if runs and runs[0]["status"] == "succeeded":
                run = await self._site.get(f"/api/v1/runs/{runs[0]['id']}")
                if run is not None and run["status"] == "succeeded":
                    return
            await asyncio.sleep(ASKED_EVERY)  # what is asked for may be down: nothing tells when it is not
