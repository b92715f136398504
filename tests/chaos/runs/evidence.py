"""What both stores, the replicas and the workflows' own file hold about a drill of runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from shared.envelope import Envelope, open_message
from shared.messages import RunRequested, RunStarted, RunStepCompleted, RunWaiting
from shared.pull import Delivered
from shared.runs import RUN_STREAMS
from tests.chaos.evidence import archived
from tests.chaos.runs.asker import Asked
from tests.chaos.runs.verdict import PASSING, BusFacts, RowFacts, RunFacts, findings, overlaps
from tests.chaos.verdict import TERMINAL, Finding, Mark

# Health of both executors: their names, and what they answer.
Pools = Callable[[], Awaitable[dict[str, dict[str, Any] | None]]]


class Evidence:
    """All that is known of the runs that were asked for, and what is wrong (`found`).

    `pools` is what each executor says of its slots and children.
    """

    streams = (*RUN_STREAMS, "DEAD")

    def __init__(self, asked: Sequence[Asked], pools: Pools) -> None:
        self._asked = asked
        self._pools = pools
        self.bus = BusFacts()
        self.pools: dict[str, dict[str, Any] | None] = {}
        self.found: list[Finding] = []

    def note(self, stream: str, envelope: Envelope, delivered: Delivered) -> None:
        """Add what one message says."""
        if stream in RUN_STREAMS:
            note(self.bus, envelope, delivered)
        else:
            self.bus.dead += 1

    def has_ended(self) -> bool:
        """Let rows be read always: runs that nobody asked for, and what is held, count too."""
        return True

    async def judge(self, database: asyncpg.Connection[Any], marks: list[Mark]) -> bool:
        """Read what the executor and the archive keep, ask the executors, and judge; False when time may still heal something."""
        rows = RowFacts(
            states={row["id"]: row["status"] for row in await database.fetch("SELECT id, status FROM executor.run")},
            turns=[row["run"] for row in await database.fetch("SELECT run FROM executor.concurrency_slot")],
            archived=sum((await archived(database, RUN_STREAMS)).values()),
        )
        self.pools = await self._pools()
        self.found = [*findings(self._asked, self.bus, rows, marks), *overlaps(marks), *busy(self.pools)]
        return not any(one.kind in PASSING for one in self.found)


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


def busy(pools: dict[str, dict[str, Any] | None]) -> list[Finding]:
    """Return which executors still hold slots or children although no run goes on."""
    found = []
    for name, pool in pools.items():
        if pool is None:
            found.append(Finding("executors", "leaked", name, "it does not answer"))
        elif kept := {part: pool[part] for part in ("taken", "serving", "ending") if pool.get(part)}:
            found.append(Finding("executors", "leaked", name, f"no run goes on, and it holds {kept}"))
    return found
