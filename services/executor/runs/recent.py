"""Runs that ended here a moment ago: callers that wait for a run's end ask for all of it at once, before it is in any row."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from services.executor.runs.run_state import RunState

# Most states kept, and the bytes up to which one is: input, result and attempts may be long.
MOST = 256
LARGEST = 32 * 1024


class Recent:
    """The last of them. An end is final: the stream holds the same, and in a moment the rows."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, RunState] = OrderedDict()

    def keep(self, state: RunState) -> None:
        """Keep a run that has ended, unless it is large."""
        if not state.ended or len(msgspec.json.encode(state)) > LARGEST:
            return
        self._kept[state.id] = state
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def of(self, org: str, run: str) -> RunState | None:
        """Return a run of the organization."""
        state = self._kept.get(run)
        return state if state is not None and state.org == org else None

    def forget(self, run: str) -> None:
        """Keep a run no longer."""
        self._kept.pop(run, None)
