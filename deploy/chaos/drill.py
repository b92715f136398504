"""The drill: set an installation up, disturb it cell by cell under a steady flow, and measure how soon it works again."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from deploy.chaos.installation import ASKED_EVERY, DrillError, Installation
from deploy.chaos.plan import COUNTED, NOOP, Cell, Plan
from deploy.chaos.sender import Address, Sender

WORKFLOWS = Path(__file__).with_name("drill_workflows.py")
# Seconds after which a cell counts as not recovered; the longest known wait is one for a redelivery, 30 s.
RECOVERS_WITHIN = 150.0
STAGES = ("process", "canary", "ready")


class Recovery(msgspec.Struct, frozen=True):
    """What was measured of a cell: `seconds` from the kill, or the end of the pause, until all works; None: not in time.

    `stages` are the seconds until its process ran, until a canary's run showed as succeeded, and until all were ready.
    """

    cell: Cell
    stages: tuple[float, ...]

    @property
    def seconds(self) -> float | None:
        """Return when the last stage was reached."""
        return self.stages[-1] if len(self.stages) == len(STAGES) else None

    @property
    def story(self) -> str:
        """Return the stages in words."""
        reached = [f"{stage} {seconds:.1f} s" for stage, seconds in zip(STAGES, self.stages, strict=False)]
        return ", ".join(reached) or "no stage was reached"


class Drill:
    """One installation under one plan."""

    def __init__(self, installation: Installation, session: aiohttp.ClientSession, sender: Sender, marks: Path) -> None:
        self._installation = installation
        self._session = session
        self._sender = sender
        self._marks = marks
        self._secret = secrets.token_urlsafe(24)
        self._addresses: dict[str, Address] = {}

    async def prepare(self) -> None:
        """Deploy the workflows, and make a source for the flow and one for canaries."""
        path = f"/api/v1/workspace/files/{WORKFLOWS.name}"
        deployed = await self._call("PUT", path, data=WORKFLOWS.read_bytes())
        if deployed["problems"]:
            raise DrillError(f"the drill's workflows do not load: {deployed['problems'][0]['message']}")
        counted = {"workflow": "chaos-counted", "input": {"file": str(self._marks), "event": "event.id"}}
        for source in ("flow", "canary"):
            body = {"adapter": "github", "settings": {"secret": self._secret}}
            url = (await self._call("PUT", f"/api/v1/sources/{source}", body=body))["url"]
            self._addresses[source] = Address(url, self._secret)
            subscription: dict[str, Any] = {"source": source, "event": COUNTED, **counted}
            await self._call("PUT", f"/api/v1/subscriptions/{source}-counted", body=subscription)
        subscription = {"source": "flow", "event": NOOP, "workflow": "chaos-noop", "input": {}}
        await self._call("PUT", "/api/v1/subscriptions/flow-noop", body=subscription)
        async with asyncio.timeout(RECOVERS_WITHIN):
            await self._canary("warm-up")

    async def run(self, plan: Plan, tell: Callable[[Recovery], None]) -> list[Recovery]:
        """Go through the cells; `tell` hears of each when it is over. A cell ends when it has recovered and all was accepted."""
        recoveries: list[Recovery] = []
        for cell in plan.cells:
            if not await self._without_backlog(cell):
                recoveries.append(Recovery(cell, ()))
                tell(recoveries[-1])
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
            recoveries.append(Recovery(cell, stages))
            tell(recoveries[-1])
        return recoveries

    async def _without_backlog(self, cell: Cell) -> bool:
        """Wait until no cell before this one has left it anything to do; False when that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECOVERS_WITHIN):
                # Work is done in order: when a canary is through, what came before it is.
                await self._canary(cell.name)
                await self._installation.all_ready(self._session)
                return True
        return False

    async def _disturbed(self, cell: Cell) -> tuple[float, ...]:
        """Kill or pause the cell's target; return the seconds after which each stage was reached, so far as they were in time."""
        before: int | None = None
        if cell.how == "kill":
            before = await self._installation.kill(cell.target)
        else:
            async with self._installation.paused(cell.target):
                await asyncio.sleep(cell.pause)
        loop = asyncio.get_running_loop()
        began = loop.time()
        stages: list[float] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECOVERS_WITHIN):
                await self._installation.running(cell.target, other_than=before)
                stages.append(loop.time() - began)
                await self._canary(cell.name)
                stages.append(loop.time() - began)
                await self._installation.all_ready(self._session)
                stages.append(loop.time() - began)
        return tuple(stages)

    async def _canary(self, cell: str) -> None:
        """Send a webhook and return once its run shows as succeeded, in the deliveries and among the runs."""
        while (sent := await self._sender.send(cell, self._addresses["canary"], COUNTED)).delivery is None:
            # That it was refused is in the report; whether it goes on being refused is asked here.
            await asyncio.sleep(1)
        delivery = f"/api/v1/deliveries/{sent.delivery}"
        while True:
            runs = ((await self._asked(delivery)) or {}).get("runs") or []
            if runs and runs[0]["status"] == "succeeded":
                run = await self._asked(f"/api/v1/runs/{runs[0]['id']}")
                if run is not None and run["status"] == "succeeded":
                    return
            await asyncio.sleep(ASKED_EVERY)  # what is asked for may be down: nothing tells when it is not

    async def _asked(self, path: str) -> dict[str, Any] | None:
        """Return what the API says, or None when it cannot say now."""
        ready = self._installation.ready()
        try:
            async with self._session.get(
                ready["url"] + path, headers=_key(ready), timeout=aiohttp.ClientTimeout(total=5)
            ) as response:
                if response.status != 200:
                    return None
                found: dict[str, Any] = await response.json()
                return found
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def _call(self, method: str, path: str, *, body: Any = None, data: bytes | None = None) -> Any:
        ready = self._installation.ready()
        async with self._session.request(method, ready["url"] + path, json=body, data=data, headers=_key(ready)) as response:
            answer = await response.json(content_type=None)
            if response.status >= 400:
                raise DrillError(f"{method} {path}: {response.status} {answer.get('detail')}")
            return answer


def _key(ready: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {ready['admin_key']}"}
