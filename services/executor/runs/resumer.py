"""Re-checks waiting runs when a message may satisfy them, and resumes them, or ends those that no worker holds.

Followers, which are projections without rows: one writer each, in order, from a checkpoint. They decide only from the run's
own messages, read anew, and append with an expectation: looking twice, or too often, does no harm. Now and then the rows are
searched for changes without a message: a timer that the broker lost, a deadline that has no timer.

A run whose check raises is tried again, then ended (`poison`): those after it are re-checked all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.executor import store
from services.executor.runs import approvals, decide, end_messages, run_state, traced
from services.executor.runs.claim import Read, children_outcomes, read_now, sound
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.looks import Looks
from services.executor.runs.poison import TRIES as POISONED_AFTER
from services.executor.runs.poison import Poison
from services.executor.runs.run_state import RunState, StepId
from services.executor.store import ExecutorStore
from shared import aggregate, db, tracing
from shared.bus import Bus
from shared.db import Connection
from shared.envelope import Envelope, Sealed, caused_id, utc_now
from shared.errors import Conflict, Unavailable
from shared.leader import lead
from shared.messages import (
    Message,
    RunAnswered,
    RunCancelled,
    RunCancelRequested,
    RunEventMatched,
    RunResumed,
    RunSignalled,
    RunWaiting,
    TimerFired,
    declaration_of,
)
from shared.messages.timer import fired_for, is_foreign
from shared.projected import Projected, Recorded, in_batches, in_shards
from shared.projection import Shards
from shared.pull import StreamError
from shared.questions.runs import resumed
from shared.runs import END_SUBJECTS, RESUMABLE, RUNS, RunEnd
from shared.statements import Statement
from shared.values import moment_of, storable

# Seconds between searches for changes without a message.
PAUSE = 2.0
# Timers are fired up to a quarter of a second late; one due for longer was lost.
LATE = 1.0
# Seconds between two tries with a run whose check raises: the runs after it wait that long.
PAUSE_AFTER_A_BUG = 0.05
LOCK = "executor.sweep"
# Rows per search.
ROUND = 500
# Runs that resume each other, one after the other, of which the last may wait for a run that an earlier one has asked for.
MOST_RESUMED = 32
_FOLLOWED = (
    *(declaration_of(cls).pattern() for cls in (RunWaiting, RunCancelRequested, RunSignalled, RunEventMatched, RunAnswered)),
    *END_SUBJECTS,
)
_log = structlog.get_logger()


class ResumerDeps(Protocol):
    """Dependencies of the resumer."""

    bus: Bus
    engine: AsyncEngine
    store: ExecutorStore
    concurrency: ConcurrencySlots
    looks: Looks
    poison: Poison
    rows: Shards
    database_url: str


class Resumer:
    """Re-checks runs that wait. Safe to use from several replicas."""

    def __init__(self, deps: ResumerDeps, *, now: Callable[[], datetime] = utc_now) -> None:
        self._deps = deps
        self._now = now

    def followers(self) -> list[Projected]:
        """Return the projections that follow runs, one for each shard, and the timers."""
        return [
            *in_shards(Projected(name="resumer", stream=RUNS, apply=in_batches(self._follow), tables=(), filters=_FOLLOWED)),
            Projected(name="timers", stream="TIMERS", apply=in_batches(self._timers), tables=(), filters=(fired_for("executor"),)),
        ]

    async def _follow(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        for one in batch:
            message, envelope = one.message, one.envelope
            if isinstance(message, RunEnd):
                if message.parent is not None:
                    await self._look_at_parent(message.parent, envelope)
                if message.concurrency_key is not None:
                    await self._deps.concurrency.leave(message.run)
                    # Another shard's follower may have looked at a run that waits for the slot before it was free.
                    await self._deps.rows.caught_up(message.run, one.delivered.sequence)
                    await self._grant(storable(message.concurrency_key), envelope)
            elif not (isinstance(message, RunWaiting) and message.blocked_on == "worker"):
                # There may be thousands that were parked; the process that parked them looks after them.
                await self._look_at(envelope.subject, envelope)
        return []

    async def _look_at_parent(self, parent: str, cause: Envelope) -> None:
        """Look at the run that asked for one that has ended, or, where it has ended as well, at the one that resumes it."""
        for _ in range(MOST_RESUMED):
            if await self._look_at(parent, cause):
                return
            row = await self._deps.store.run(None, parent)
            if row is None or row.status not in RESUMABLE:
                return
            parent = resumed(parent)

    async def _timers(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        for one in batch:
            if not is_foreign(one.delivered.headers, "executor"):
                await self._look_at(one.envelope.subject, one.envelope, at=_time_of(one.envelope))
        return []

    async def _look_at(self, run: str, cause: Envelope | None, *, at: datetime | None = None, has_worker: bool = False) -> bool:
        """Do as `consider`; a run that makes us raise ends by it, and raises nothing here. Raises `Unavailable`."""
        for _ in range(POISONED_AFTER):
            try:
                return await self.consider(run, cause, at=at, has_worker=has_worker)
            except (Unavailable, StreamError):
                raise
            except Exception as error:
                if await self._is_over(run, error):
                    return True
            await asyncio.sleep(PAUSE_AFTER_A_BUG)
        return False

    async def _is_over(self, run: str, error: Exception) -> bool:
        try:
            return await self._deps.poison.record(run, error)
        except (Unavailable, StreamError):
            raise
        except Exception:
            _log.exception("run.not_ended", run=run)
            return False

    async def unpark(self, run: str) -> bool:
        """Resume a run that waits for a worker; returns whether anything was to be done with it. Raises `Unavailable`."""
        return await self._look_at(run, None, has_worker=True)

    async def consider(self, run: str, cause: Envelope | None, *, at: datetime | None = None, has_worker: bool = False) -> bool:
        """Resume a run whose wait is over by now, or end one that no worker holds; returns whether anything was to be done.

        `at` is the time by a timer, whose clock may be ahead of this one; `has_worker`: there is one for it by now. Raises
        `Unavailable`.
        """
        wait: tracing.Span | None = None

        async def read() -> tuple[Read, int]:
            found = await read_now(self._deps.bus, self._deps.store, run)
            return found, found.last_seq

        async def due(found: Read) -> Sealed[Message] | None:
            state = sound(found)
            if state is None:
                return None
            now = max(self._now(), at) if at is not None else self._now()
            message = await self._what_is_due(state, found.steps, now, has_worker=has_worker)
            if message is None:
                return None
            # It belongs to the run's own chain, whichever run's end caused this look.
            of_chain = cause if cause is not None and cause.correlationid == state.correlation_id else None
            nonlocal wait
            wait = traced.waited(state, of_chain) if isinstance(message, RunResumed) else None
            return self._sealed(message, state, None if of_chain is None else traced.below(wait, of_chain))

        try:
            done = await aggregate.advance(self._deps.bus, read, due) is not None
        except Conflict:
            _log.warning("run.changes_too_fast", run=run)
            return False
        if wait is not None:
            wait.finish()
        return done

    async def _what_is_due(self, state: RunState, steps: Iterable[StepId], now: datetime, *, has_worker: bool) -> Message | None:
        """Return the messages to append to a run; `steps` are recorded, whether its rows know that already or not."""
        if state.ended or state.held:
            return None
        if state.status == "cancelling":
            return run_state.labelled(RunCancelled(run=state.id, attempt=state.attempt), state)
        if not state.attempt and state.expires_at is not None and state.expires_at < now and state.status != "delayed":
            return run_state.labelled(end_messages.expired(state), state)
        if state.blocked_on == "concurrency":
            entered = state.slot is None or await self._deps.concurrency.enter(state.id, state.slot)
            return run_state.resumed(state) if entered else None
        if state.blocked_on == "worker" and has_worker:
            return run_state.resumed(state)
        # Asked after the state: any later message makes the append a conflict.
        recorded = {*steps, *(await self._deps.store.waits_over(state.id))} if state.waits else ()
        over = decide.resumption(state, recorded, await children_outcomes(state, self._deps.bus, self._deps.store), now)
        return None if over is None else run_state.resumed(state, over)

    def _sealed(self, message: Message, state: RunState, cause: Envelope | None) -> Sealed[Message]:
        # The id follows from the state: considered twice, it is appended once.
        id_ = caused_id(state.id, message, str(state.last_seq))
        return self._deps.bus.seal(message, org=state.org, cause=cause, correlation=state.correlation_id, id=id_)

    async def _grant(self, key: str, cause: Envelope | None) -> None:
        """Give free slots to the runs that wait for them longest, those of a higher priority first."""
        for run in await self._deps.concurrency.waiting(key):
            if not await self._look_at(run, cause):
                state = (await read_now(self._deps.bus, self._deps.store, run)).state
                if state is not None and state.status == "waiting" and state.blocked_on == "concurrency":
                    return  # no room is left

    # -- searching ------------------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Search for ever; an obstacle is logged, once, and waited out. Of several replicas one is active."""
        await lead(
            self.round,
            url=self._deps.database_url,
            service="executor",
            lock=LOCK,
            pause=PAUSE,
            interrupted="sweep.interrupted",
        )

    async def round(self) -> int:
        """Look at every run that is overdue; returns how many there were. Raises `Unavailable`."""
        async with db.transaction(self._deps.engine) as connection:
            overdue = await store.overdue(connection, self._now(), LATE, ROUND)
        for run in overdue:
            await self._look_at(run, None)
        await approvals.remind(self._deps, self._now)
        for key in {*await self._deps.concurrency.left_behind(), *await self._deps.concurrency.free()}:
            await self._grant(key, None)
        return len(overdue)


def _time_of(fired: Envelope) -> datetime | None:
    try:
        return moment_of(msgspec.json.decode(fired.data, type=TimerFired).at)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return None
