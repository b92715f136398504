"""Signals: data that users send to a run that waits for it, or will."""

from __future__ import annotations

from typing import Protocol

import msgspec

from services.executor.runs.looks import Looks
from services.executor.runs.run_state import MOST_SIGNALS, RunState
from shared import aggregate
from shared.bus import Bus
from shared.envelope import Sealed, derived_id
from shared.errors import Conflict, Invalid, NotFound, Problem, TooLarge
from shared.messages import RunSignalled
from shared.questions.runs import Signalled, SignalRun
from shared.streams import INLINE_BYTES

LONGEST_NAME = 200
# Bytes of signals that no wait has taken yet: they are part of the run's state.
MOST_WAITING = 1024 * 1024


class SignalDeps(Protocol):
    """Dependencies of signals."""

    bus: Bus
    looks: Looks


async def signal_run(command: SignalRun, deps: SignalDeps) -> Signalled:
    """Append the signal to the run's messages, once for each command."""
    if not 0 < len(command.name) <= LONGEST_NAME:
        raise Invalid(f"a signal has a name of 1 to {LONGEST_NAME} characters", errors=(Problem("name", "its length"),))
    size = len(msgspec.json.encode(command.data))
    if size > INLINE_BYTES:
        raise TooLarge(f"the data of a signal has {size} bytes as JSON; at most {INLINE_BYTES} are kept")
    async with deps.looks.alone(command.run):
        await _append(command, size, deps)
    return Signalled(command.run, command.name)


async def _append(command: SignalRun, size: int, deps: SignalDeps) -> None:
    async def read() -> tuple[RunState, int]:
        state = await deps.looks.state(command.run)
        if state is None or state.org != command.org:
            raise NotFound(f"there is no run {command.run[:80]!r}")
        return state, state.last_seq

    async def signalled(state: RunState) -> Sealed[RunSignalled]:
        if state.ended:
            raise Conflict(f"the run has ended already: {state.status}")
        waiting = sum(len(msgspec.json.encode(signal.data)) for signal in state.signals)
        if len(state.signals) >= MOST_SIGNALS or waiting + size > MOST_WAITING:
            raise Conflict(
                f"{len(state.signals)} signals of {waiting} bytes wait for the run already: it takes no more than {MOST_SIGNALS} "
                f"of {MOST_WAITING} bytes together before it waits for them"
            )
        message = RunSignalled(run=command.run, name=command.name, data=command.data, signalled_by=command.actor)
        id_ = derived_id(command.id, "run.signalled")
        return deps.bus.seal(message, org=command.org, correlation=state.correlation_id, id=id_)

    await aggregate.advance(deps.bus, read, signalled)
