"""Ends runs that the executor cannot carry: the errors that they raise in it are reported of them, and harm no other."""

from __future__ import annotations

from collections import OrderedDict

import structlog

from services.executor.runs import run_state
from services.executor.runs.claim import Read, read_all
from shared import aggregate
from shared.bus import Bus
from shared.envelope import Sealed, caused_id
from shared.messages import RunCrashed, RunError, RunUsage
from shared.values import storable

# Tries with a run that makes us raise: a bug of ours may be one of the moment.
TRIES = 3
# Runs whose tries are counted.
COUNTED = 10_000
# Characters of a reported error.
LONGEST = 2000
_log = structlog.get_logger()


class Poison:
    """Counts, for this process, how often each run has made it raise."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tries: OrderedDict[str, int] = OrderedDict()

    async def record(self, run: str, error: Exception) -> bool:
        """Count a failure of ours to do something with a run; the last one ends it. Returns whether that was the last one.

        To be called where the error is handled. Raises `Unavailable`, `Conflict`.
        """
        tries = self._tries[run] = self._tries.pop(run, 0) + 1
        _log.error("run.supervisor_failed", run=run, tries=tries, exc_info=error)
        if tries < TRIES:
            if len(self._tries) > COUNTED:
                self._tries.popitem(last=False)
            return False
        await self._end(run, error)
        # Another one may have ended it meanwhile: the resumer and dispatches fail with the same run.
        self._tries.pop(run, None)
        return True

    async def _end(self, run: str, error: Exception) -> None:
        """Append that the run has crashed; the holder of its claim learns of that by its next append."""
        failure = RunError("Poison", storable(f"{TRIES} tries to go on with it failed: {type(error).__name__}: {error}"[:LONGEST]))

        async def now() -> tuple[Read, int]:
            read = await read_all(self._bus, run)
            return read, read.last_seq

        async def crash(read: Read) -> Sealed[RunCrashed] | None:
            state = read.state
            if not read.last_seq or (state is not None and state.ended):
                return None
            attempt = 0 if state is None else state.attempt
            crashed = RunCrashed(run=run, attempt=attempt, reason="poison", error=failure, duration_ms=0.0, usage=RunUsage())
            message = crashed if state is None else run_state.labelled(crashed, state)
            return self._bus.seal(
                message,
                org=read.org or "global",
                correlation=None if state is None else state.correlation_id,
                id=caused_id(run, message, f"poison {read.last_seq}"),
            )

        await aggregate.advance(self._bus, now, crash)
