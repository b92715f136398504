"""What both stores, the replicas and the workflows' own file hold about a drill of runs, read past every service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import nats
from nats.aio.client import Client

from deploy.chaos.installation import READS_WITHIN
from deploy.chaos.runs.asker import Asked
from deploy.chaos.runs.verdict import PASSING, TERMINAL, BusFacts, Finding, Mark, RowFacts, RunFacts, findings, overlaps
from shared.envelope import Envelope, open_envelope, open_message
from shared.errors import Unavailable
from shared.messages import RunRequested, RunStarted, RunStepCompleted, RunWaiting
from shared.pull import Delivered, OrderedReader, api_request

STREAM = "RUNS"
ASKED_EVERY = 2.0
# Health of both executors: their names, and what they answer.
Pools = Callable[[], Awaitable[dict[str, dict[str, Any] | None]]]


class Evidence(msgspec.Struct, frozen=True):
    """All that is known at the end, and what is wrong. `pools` is what each executor says of its slots and children."""

    found: list[Finding]
    bus: BusFacts
    rows: RowFacts
    marks: list[Mark]
    pools: dict[str, dict[str, Any] | None]


class Bus:
    """Follows the stream of a drill; `facts` is what it has said so far."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._read = 0
        self._dead = 0
        self.facts = BusFacts()

    async def catch_up(self) -> None:
        """Read what has come since the last time. Raises `Unavailable`."""
        info = await api_request(self._client, f"$JS.API.STREAM.INFO.{STREAM}", None)
        last = int(info["state"]["last_seq"])
        if last > self._read:
            reader = OrderedReader(self._client, STREAM, after=self._read).batches()
            try:
                async for batch in reader:
                    for delivered in batch:
                        note(self.facts, open_envelope(delivered.data), delivered)
                        self._read = delivered.sequence
                    if self._read >= last:
                        break
            finally:
                await reader.aclose()
        dead = await api_request(self._client, "$JS.API.STREAM.INFO.DEAD", None)
        self.facts.dead = int(dead["state"]["messages"])


def note(facts: BusFacts, envelope: Envelope, at: Delivered) -> None:
    """Add what one message of the stream says."""
    facts.stored += 1
    run = facts.runs.setdefault(envelope.subject, RunFacts())
    verb = envelope.type.partition(".")[2]
    if run.ends:
        run.after_end.append(verb)
    if envelope.causationid in run.claims and envelope.causationid != run.claims[-1]:
        run.zombies.append(verb)
    match open_message(envelope):
        case RunRequested() as asked:
            run.requested += 1
            run.workflow = asked.workflow
            run.parent = asked.parent
            if isinstance(asked.input, dict):
                run.token = asked.input.get("token")
        case RunStarted():
            run.lost_in_a_row = run.lost_in_a_row + 1 if run.is_held else 0
            run.is_held = True
            run.claims.append(envelope.id)
            run.began = run.began or round(at.time.timestamp() * 1e9)
        case RunStepCompleted() as step:
            place = f"{step.kind}/{step.name}/{step.ordinal}"
            run.recorded.setdefault(place, []).append(round(at.time.timestamp() * 1e9))
        case RunWaiting() as waiting:
            run.is_held = False
            run.failures += waiting.blocked_on == "retry"
        case message if verb in TERMINAL:
            run.ends.append(verb)
            run.result = getattr(message, "result", None)
            run.reason = getattr(message, "reason", None)
            error = getattr(message, "error", None)
            run.error = None if error is None else f"{error.type}: {error.message}"[:300]
            run.is_held = False
        case _:
            run.is_held = run.is_held and verb != "resumed"


async def rows_of(url: str) -> RowFacts:
    """Read what the executor and the archive keep in Postgres."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        states = {row["id"]: row["status"] for row in await connection.fetch("SELECT id, status FROM executor.run")}
        turns = [row["run"] for row in await connection.fetch("SELECT run FROM executor.turn")]
        archived = await connection.fetchval(
            "SELECT count(DISTINCT (incarnation, seq)) FROM logs.message WHERE stream = $1", STREAM
        )
        return RowFacts(states=states, turns=turns, archived=archived)
    finally:
        await connection.close()


def marks_of(path: Path) -> list[Mark]:
    """Read what the executions left behind."""
    lines = (line.split() for line in path.read_text("ascii").splitlines())
    return [Mark(what, token, name, int(at)) for what, token, name, at in lines]


async def settled(nats_url: str, database_url: str, asked: Sequence[Asked], marks: Path, pools: Pools, bound: float) -> Evidence:
    """Wait up to `bound` seconds for all to have ended, everywhere, with nothing held any more; return what is known then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bound
    client = await nats.connect(nats_url)
    try:
        bus = Bus(client)
        while True:
            is_late = loop.time() > deadline
            try:
                async with asyncio.timeout(READS_WITHIN):
                    await bus.catch_up()
                    rows = await rows_of(database_url)
            except (Unavailable, OSError, asyncpg.PostgresError):
                if is_late:
                    raise
            else:
                made = await asyncio.to_thread(marks_of, marks)
                held = await pools()
                found = [*findings(asked, bus.facts, rows, made), *overlaps(made), *busy(held)]
                if is_late or not any(one.kind in PASSING for one in found):
                    return Evidence(found, bus.facts, rows, made, held)
            await asyncio.sleep(ASKED_EVERY)  # the rows follow in their own time
    finally:
        await client.close()


def busy(pools: dict[str, dict[str, Any] | None]) -> list[Finding]:
    """Return which executors still hold slots or children although no run goes on."""
    found = []
    for name, pool in pools.items():
        if pool is None:
            found.append(Finding("executors", "leaked", name, "it does not answer"))
        elif kept := {part: pool[part] for part in ("taken", "serving", "ending") if pool.get(part)}:
            found.append(Finding("executors", "leaked", name, f"no run goes on, and it holds {kept}"))
    return found
