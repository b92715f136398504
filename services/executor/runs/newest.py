"""The policy `cancel_older`: of the runs with one concurrency key the newest is left, however their dispatches meet."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from services.executor.runs.claim import read_now
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.run_state import RunState
from services.executor.store import ExecutorStore
from shared import aggregate
from shared.bus import Bus
from shared.envelope import Sealed, caused_id
from shared.errors import Unavailable
from shared.messages import RunCancelRequested
from shared.projection import Shards
from shared.runs import ENDING


class NewestDeps(Protocol):
    """Dependencies of the policy."""

    bus: Bus
    store: ExecutorStore
    concurrency: ConcurrencySlots
    rows: Shards


async def keep_newest(run: RunState, deps: NewestDeps, *, has_slot: bool = False) -> int | None:
    """Ask the older runs of this run's key to stop, and this run itself where a newer one waits or has a slot.

    Returns the sequence of this run's own request to stop, None where it goes on. The run has its slot (`has_slot`), or waits for
    one on the bus, before: of two runs that look at the same time one then sees the other. To be done again when it raised
    `Unavailable`.
    """
    if run.slot is None or run.slot.policy != "cancel_older":
        return None
    # Rows are written somewhat later than their messages: it is to be seen by others as waiting before it looks.
    if not has_slot and not await deps.rows.of(run.id).caught_up(run.last_seq):
        raise Unavailable("the rows of runs are behind")
    newer: list[tuple[datetime, str]] = []
    mine = (datetime.fromisoformat(run.requested_at), run.id)
    for other, requested_at in await deps.concurrency.others(run.slot.key, run.id):
        if requested_at is not None and (requested_at, other) > mine:
            newer.append((requested_at, other))
        else:
            await _cancel(other, run, deps)
    for _, other in sorted(newer, reverse=True):
        state = (await read_now(deps.bus, deps.store, other)).state
        # The slot of one that has just ended is freed a moment later.
        if state is not None and state.status not in ENDING:
            return await _cancel(run.id, state, deps)
    return None


async def _cancel(run: str, newer: RunState, deps: NewestDeps) -> int | None:
    """Ask a run to stop if it is older; returns the sequence of the request, None where there is nothing to be asked."""

    async def read() -> tuple[RunState | None, int]:
        found = await read_now(deps.bus, deps.store, run)
        return found.state, found.last_seq

    async def request(older: RunState | None) -> Sealed[RunCancelRequested] | None:
        if older is None or older.status in ENDING or (older.requested_at, older.id) > (newer.requested_at, newer.id):
            return None
        message = RunCancelRequested(run=run, requested_by=f"run:{newer.id}")
        return deps.bus.seal(message, org=older.org, correlation=older.correlation_id, id=caused_id(newer.id, message, "older"))

    requested = await aggregate.advance(deps.bus, read, request)
    return None if requested is None else requested.sequence
