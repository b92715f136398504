"""The drill: each broker and the primary database is taken away under a flow of webhooks, to two gateways in turn."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from deploy.errors import StartError
from deploy.positions import administrator
from shared.errors import Unavailable
from shared.pull import StreamError, api_request
from shared.streams import STREAMS
from tests.chaos.clients import paced
from tests.chaos.cluster.report import Cell, ClusterReport, CutReport
from tests.chaos.drill import Site
from tests.chaos.evidence import settle
from tests.chaos.installation import ASKED_EVERY, START_WITHIN, DrillError
from tests.chaos.verdict import counted
from tests.chaos.webhooks.drill import WORKFLOWS
from tests.chaos.webhooks.evidence import Evidence
from tests.chaos.webhooks.plan import COUNTED, NOOP
from tests.chaos.webhooks.sender import Address, Sender
from tests.chaos.webhooks.verdict import KINDS, unarchived

# One webhook of so many starts the workflow with a step; the others that which does nothing.
COUNTED_EVERY = 5
# Seconds of flow before each disturbance, and after all is well again.
LEAD = 3.0
SETTLES_WITHIN = 180.0

Away = Callable[[str], AbstractAsyncContextManager[None]]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is taken away and `how`, in words; each of `targets` is chosen when its turn comes: `leader`, `other`, `primary`."""

    rate: float
    how: str
    cut: bool
    targets: tuple[str, ...]


class Drill:
    """One installation under one plan; `away` takes a broker or database away for its block, and no longer than that."""

    def __init__(self, site: Site, plan: Plan, away: Away) -> None:
        self._site = site
        self._plan = plan
        self._away = away
        self._sender = Sender(site.session)
        self._addresses: list[Address] = []
        # When each webhook that was accepted had its answer.
        self._accepted: list[float] = []
        self._slowest = 0.0
        self._had: set[str] = set()

    async def run(self) -> ClusterReport:
        """Carry the plan out and return what came of it. Raises `DrillError`."""
        at, loop = datetime.now(UTC), asyncio.get_running_loop()
        began = loop.time()
        await self._prepare()
        measured = [await self._cell(kind) for kind in self._plan.targets]
        self._site.print("waiting for everything accepted to end …")
        evidence = Evidence(self._sender.sent)
        await settle(evidence, self._site.installation.ready(), self._site.marks, SETTLES_WITHIN)
        counts = counted(evidence.found)
        return (CutReport if self._plan.cut else ClusterReport)(
            at=at,
            seconds=loop.time() - began,
            rate=self._plan.rate,
            how=self._plan.how,
            problems=evidence.found,
            cells=[
                msgspec.structs.replace(cell, **{kind: counts.get((cell.target, kind), 0) for kind in KINDS}) for cell in measured
            ],
            unarchived=unarchived(evidence.bus, evidence.rows),
            dead=evidence.bus.dead,
        )

    async def _prepare(self) -> None:
        site, secret = self._site, secrets.token_urlsafe(24)
        await site.deploy(WORKFLOWS)
        source = await site.call("PUT", "/api/v1/sources/flow", body={"adapter": "github", "settings": {"secret": secret}})
        self._addresses = [Address(f"{url}/hooks/{source['id']}", secret) for url in site.installation.ready()["urls"]]
        inputs = {"file": str(site.marks), "event": "event.id"}
        for event, workflow, given in ((COUNTED, "chaos-counted", inputs), (NOOP, "chaos-noop", {})):
            body: dict[str, Any] = {"source": "flow", "event": event, "workflow": workflow, "input": given}
            await site.call("PUT", f"/api/v1/subscriptions/flow-{workflow}", body=body)
        await self._all_is_well()

    async def _cell(self, kind: str) -> Cell:
        """Take one away and let it come back under a flow of webhooks; return what was measured of it."""
        loop = asyncio.get_running_loop()
        name, kind = await self._chosen(kind)
        stopped, sent_before = asyncio.Event(), len(self._sender.sent)
        label = f"{name} ({kind})"
        self._slowest = 0.0
        flow = asyncio.create_task(self._flow(label, stopped))
        try:
            await asyncio.sleep(LEAD)
            moment = loop.time()
            async with self._away(name):
                pass
            await self._all_is_well()
            recovered = loop.time() - moment
            await asyncio.sleep(LEAD)
            stopped.set()
            await flow
        finally:
            flow.cancel()
            await asyncio.gather(flow, return_exceptions=True)
        mine = self._sender.sent[sent_before:]
        cell = Cell(
            target=label,
            accepted=sum(one.delivery is not None for one in mine),
            refused=sum(one.refusal is not None for one in mine),
            unavailable=sum(one.tries.unavailable for one in mine),
            unanswered=sum(one.tries.unanswered for one in mine),
            pause=_longest(self._accepted, moment),
            slowest=self._slowest,
            recovered=recovered,
        )
        self._site.print(f"{label}: nothing was accepted for {cell.pause:.1f} s at most, well after {recovered:.1f} s")
        return cell

    async def _chosen(self, kind: str) -> tuple[str, str]:
        """Return the name of the next one, and what it is by now: who led and was away leads no more."""
        if kind == "primary":
            number = (self._site.place / "data" / "postgres-primary").read_text("ascii")
            return f"postgres-{number}", kind
        leader, others = await self._members()
        name = leader if kind == "leader" else next(one for one in (*others, leader) if one not in self._had)
        self._had.add(name)
        return name, "leader" if name == leader else "follower"

    async def _flow(self, cell: str, stopped: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            async for number in paced(_until(stopped), self._plan.rate):
                group.create_task(self._send(cell, number))

    async def _send(self, cell: str, number: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        event = NOOP if number % COUNTED_EVERY else COUNTED
        sent = await self._sender.send(cell, self._addresses[number % len(self._addresses)], event)
        self._slowest = max(self._slowest, loop.time() - began)
        if sent.delivery is not None:
            self._accepted.append(loop.time())

    # -- whether all is there ----------------------------------------------------------------------------------------

    async def _members(self) -> tuple[str, list[str]]:
        """Return which broker leads the stream of webhooks, and the others, all of which follow. Raises `Unavailable`."""
        ready = self._site.installation.ready()
        async with administrator(ready["nats_url"]) as client:
            for stream in STREAMS:
                found = (await api_request(client, f"$JS.API.STREAM.INFO.{stream.name}", None))["cluster"]
                if not found.get("leader") or not all(one["current"] for one in found.get("replicas", ())):
                    raise Unavailable(f"{stream.name} is not on every broker")
                if stream.name == "WEBHOOKS":
                    members = found
        return _node(members["leader"]), sorted(_node(one["name"]) for one in members["replicas"])

    async def _all_is_well(self) -> None:
        """Wait until every service is ready, every stream is on every broker, and the standby has every commit."""
        await self._site.installation.all_ready(self._site.session)
        said = "nothing"
        try:
            async with asyncio.timeout(START_WITHIN):
                while True:
                    try:
                        await self._members()
                        await self._standby_follows()
                    except (Unavailable, StreamError, StartError, OSError, asyncpg.PostgresError) as error:
                        said = str(error)
                        await asyncio.sleep(ASKED_EVERY)  # nothing tells of it
                    else:
                        return
        except TimeoutError as error:
            raise DrillError(f"not all was well within {START_WITHIN:.0f} s: {said}") from error

    async def _standby_follows(self) -> None:
        if "postgres-2" not in self._site.installation.ready()["stores"]:
            return
        connection = await asyncpg.connect(self._site.installation.ready()["database_url"], timeout=5)
        try:
            if await connection.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != 1:
                raise Unavailable("the standby does not follow")
        finally:
            await connection.close()


def killed(site: Site) -> Away:
    """Return how a broker or database is killed; its supervisor starts it again."""

    @asynccontextmanager
    async def away(name: str) -> AsyncIterator[None]:
        before = await site.installation.kill(name)
        yield
        await site.installation.running(name, other_than=before)

    return away


def _until(stopped: asyncio.Event) -> Iterator[int]:
    number = 0
    while not stopped.is_set():
        yield number
        number += 1


def _longest(accepted: list[float], since: float) -> float:
    """Return the longest time without an acceptance from `since` on."""
    times = [since, *sorted(at for at in accepted if at > since)]
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=float("inf"))


def _node(server: str) -> str:
    """Return the name of a broker's process: the server `millrace-2` is `nats-2`."""
    return f"nats-{server.rpartition('-')[2]}"
