"""Commands in: messages of ended runs are erased, with what rows repeat of them."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from services.executor import store
from services.executor.domain import LEAST_KEPT
from services.executor.runs import asked
from services.executor.runs.purge import PurgeDeps, passed, purge
from services.executor.runs.recent import Recent
from services.executor.runs.run_state import RunState
from services.executor.workspaces.upkeep import UpkeepDeps, erase_artifacts
from shared.blobs import Blobs
from shared.db import transaction
from shared.envelope import utc_now
from shared.erasing import erase_messages
from shared.errors import Invalid, Problem
from shared.messages import RunError
from shared.questions.erasing import EraseInExecutor, Needed
from shared.runs import RUN_STREAMS

_STREAMS = frozenset({*RUN_STREAMS, "LINES"})


class RunErasingDeps(PurgeDeps, UpkeepDeps, Protocol):
    """Dependencies of erasing."""

    results: Blobs
    recent: Recent


async def erase(command: EraseInExecutor, deps: RunErasingDeps) -> Needed:
    """Erase messages of runs that ended, results and artifacts. Raises `Invalid`, `Unavailable`.

    Of a run one of whose messages is erased the others leave the bus as well: rows that are made anew of a part would be others.
    """
    if command.stream not in _STREAMS:
        raise Invalid(
            f"{command.stream[:80]!r} is no stream whose messages are erased here", errors=(Problem("stream", "unknown"),)
        )
    runs = {one.of for one in command.messages if one.of is not None}
    async with transaction(deps.engine) as connection:
        found = await store.states_to_erase(connection, runs)
        parents = await store.unended(connection, {state.parent for state, _ in found.values() if state.parent is not None})
    states = {id_: state for id_, (state, _) in found.items()}
    reached = await passed(deps, command.stream) if command.stream in RUN_STREAMS else None
    lately = utc_now() - LEAST_KEPT
    needed: dict[int, str] = {}
    for one in command.messages:
        state, ended_at = (None, None) if one.of is None else found.get(one.of, (None, None))
        if reached is not None and max(one.seq, 0 if state is None else state.last_seq) > reached:
            needed[one.seq] = "it has not been read by all who read it: try again"
        elif state is not None and ended_at is None:
            needed[one.seq] = f"the run {state.id} has not ended"
        elif state is not None and ended_at is not None and ended_at > lately and command.stream in RUN_STREAMS:
            needed[one.seq] = f"the run {state.id} ended within the last hour: a repetition of its request would not be known"
        elif state is not None and state.parent in parents:
            needed[one.seq] = f"the run {state.parent}, which asked for its run, has not ended"
    kept = {one.of for one in command.messages if one.of is not None and one.seq in needed}
    erased = [state for id_, state in states.items() if id_ not in kept]
    sequences = [one.seq for one in command.messages if one.seq not in needed and one.of not in kept]
    async with transaction(deps.engine) as connection:
        if command.stream in RUN_STREAMS:
            await store.erase_runs(connection, [bare(state) for state in erased])
        elif command.stream == "LINES":
            await store.erase_lines(connection, [state.id for state in erased])
    for state in erased:
        deps.recent.forget(state.id)
    await erase_messages(deps.bus.client, command.stream, command.incarnation, sequences)
    if command.stream in RUN_STREAMS and erased:
        for state in erased:
            await purge(deps.bus.client, state.id, state.last_seq)
        async with transaction(deps.engine) as connection:
            await store.end_purge(connection, [(state.id, state.last_seq) for state in erased])
        for state in erased:
            await erase_artifacts(state.org, state.id, deps)
    for blob in command.blobs:
        await deps.results.remove(blob)
    return Needed({one.seq: "another message of its run is needed" for one in command.messages if one.of in kept} | needed)


def bare(state: RunState) -> RunState:
    """Return an ended run without anything that it was given, did or gave back."""

    def shown(error: RunError | None) -> RunError | None:
        return None if error is None else RunError(type=error.type, message="erased")

    attempts = [msgspec.structs.replace(one, reason=None, error=shown(one.error)) for one in state.attempts]
    nothing: dict[str, Any] = dict.fromkeys(("input", "input_ref", "result", "result_ref", "fingerprint"))
    nothing |= {"attempts": attempts, "signals": [], "waits": [], "matched": [], "asks": asked.erased(state.asks)}
    return msgspec.structs.replace(state, **nothing, error=shown(state.error), erased=True)
