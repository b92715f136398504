"""Runs that ended here a moment ago: callers that wait for a run's end ask for all of it at once, before it is in any row."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

import msgspec

from services.executor.runs.run_state import RunState

# Most states kept, and the bytes up to which one is: input, result and attempts may be long.
MOST = 256
LARGEST = 32 * 1024
# Seconds for which one is kept: erasures, which another replica may carry out, take only what ended longer ago.
KEPT_FOR = 60.0


class Recent:
    """The last of them. An end is final: the stream holds the same, and in a moment the rows.

    What `is_gone`, of an organization that is removed, or was, is told to nobody.
    """

    def __init__(self, is_gone: Callable[[str, datetime], bool]) -> None:
        self._is_gone = is_gone
        self._kept: OrderedDict[str, RunState] = OrderedDict()

    def keep(self, state: RunState) -> None:
        """Keep a run that has ended, unless it is large."""
        if not state.ended or len(msgspec.json.encode(state)) > LARGEST:
            return
        self._kept[state.id] = state
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
        asyncio.get_running_loop().call_later(KEPT_FOR, self.forget, state.id)

    def of(self, org: str, run: str) -> RunState | None:
        """Return a run of the organization."""
        state = self._kept.get(run)
        if state is None or state.org != org or self._is_gone(org, datetime.fromisoformat(state.requested_at)):
            return None
        return state

    def forget(self, run: str) -> None:
        """Keep a run no longer."""
        self._kept.pop(run, None)
