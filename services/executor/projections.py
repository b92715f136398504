"""Messages into rows, and workflows and adapters into their registries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from nats.aio.client import Client

from services.executor import store
from services.executor.runs import approval_rows, run_state
from services.executor.runs.steps import Step, steps_of
from services.executor.workspaces.history import history
from services.executor.workspaces.views import adapter_entry, workflow_entry
from shared.db import Connection
from shared.envelope import rfc3339
from shared.messages import (
    AdapterChanged,
    AdapterRemoved,
    FileChanged,
    FileRemoved,
    LineChunk,
    RunRequested,
    WorkflowChanged,
    WorkflowRemoved,
    declaration_of,
)
from shared.messages.shards import shard_in_sql
from shared.projected import Projected, Projections, Recorded, in_batches, in_shards, one_by_one
from shared.questions.adapters import AdapterEntry
from shared.questions.workflows import WorkflowEntry
from shared.registry import RegistryWriter
from shared.runs import END_TYPES, RUN_SHARDS, RUNS
from shared.statements import Statement

# Seconds in which messages are written together: those of a run until its end, for which a caller may wait, and under load those of
# many runs. Lines come in chunks as they are printed, and their readers read many.
LINGER = 0.02
# By shard: the rows of its runs of which nothing was purged.
_OF_SHARD = [f" AND {shard_in_sql('id', RUN_SHARDS)} = {shard}" if RUN_SHARDS > 1 else "" for shard in range(RUN_SHARDS)]
_WHOLE = [f"id IN (SELECT id FROM executor.run WHERE on_bus = 'whole'{own})" for own in _OF_SHARD]  # noqa: S608 - all ours


# Told of each run that ends, in the order of the stream, and when its end was stored.
Ended = Callable[[run_state.RunState, datetime], None]


def _unheard(_state: run_state.RunState, _at: datetime) -> None:
    """Nobody listens."""


def projected(client: Client, ended: Ended = _unheard) -> list[Projected]:
    """Return every projection of this service; that of runs tells `ended` of each that ends."""
    followed = one_by_one(catalog(client))
    return [
        Projected(
            name="catalog",
            stream="CATALOG",
            apply=followed,
            tables=("file", "workflow", "adapter"),
            filters=("file.>", "workflow.>", "adapter.>"),
        ),
        Projected(
            name="history",
            stream="CATALOG",
            apply=in_batches(history),
            tables=("file_version", "file_commit", "file_history"),
            filters=("file.>", "history.>"),
        ),
        *(
            msgspec.structs.replace(one, rows=_WHOLE[shard])
            for shard, one in enumerate(
                in_shards(
                    Projected(
                        name="runs",
                        stream=RUNS,
                        apply=in_batches(partial(runs, ended=ended)),
                        # Steps first: the rows of runs show which are whole.
                        tables=("step", "approval", "run"),
                        born=declaration_of(RunRequested).pattern(),
                        linger=LINGER,
                        prompt=END_TYPES,
                    )
                )
            )
        ),
        Projected(name="lines", stream="LINES", apply=in_batches(lines), tables=("line",), linger=LINGER),
    ]


async def runs(batch: Sequence[Recorded], connection: Connection, *, ended: Ended = _unheard) -> list[Statement]:
    """Fold a batch of a shard of RUNS into its runs, in two statements, one more each for steps and for questions to people."""
    ids = list(dict.fromkeys(recorded.envelope.subject for recorded in batch))
    known = await store.states(connection, ids)
    changed: dict[str, run_state.RunState] = {}
    done: list[Step] = []
    for recorded in batch:
        if recorded.message is None:
            continue
        key = recorded.envelope.subject
        before = known.get(key)
        after = run_state.evolve(before, recorded.envelope, recorded.message, recorded.delivered.sequence)
        if after is not None and after is not before:
            known[key] = changed[key] = after
            if after.ended and (before is None or not before.ended):
                ended(after, recorded.delivered.time)
            done += steps_of(after, recorded.envelope, recorded.message, recorded.delivered.sequence)
    written = [store.put_states(list(changed.values()))] if changed else []
    if asking := [state for state in changed.values() if state.asks]:
        written.append(approval_rows.put(asking))
    return [*written, store.put_steps(done)] if done else written


async def lines(batch: Sequence[Recorded], connection: Connection) -> list[Statement]:
    """Number the lines of runs in the order of the stream."""
    chunks = [recorded.message for recorded in batch if isinstance(recorded.message, LineChunk)]
    last = await store.last_lines(connection, list({chunk.run for chunk in chunks}))
    rows: list[tuple[str, int, int, Any]] = []
    for chunk in chunks:
        for line in chunk.lines:
            number = last[chunk.run] = last.get(chunk.run, 0) + 1
            rows.append((chunk.run, number, chunk.attempt, line))
    return [store.put_lines(rows)] if rows else []


def catalog(client: Client) -> Projections:
    """Return the projection of the catalog; it also repairs the registries after a writer died between stream and KV."""
    workflows = RegistryWriter(client, "workflows", WorkflowEntry)
    adapters = RegistryWriter(client, "adapters", AdapterEntry)

    async def file_changed(message: FileChanged, at: Recorded) -> Statement:
        org, time, version = at.envelope.org, at.envelope.time, at.delivered.sequence
        return store.put_file(org, message.path, message.sha256, message.size, time, version)

    async def file_removed(message: FileRemoved, at: Recorded) -> Statement:
        return store.remove_file(at.envelope.org, message.path)

    async def workflow_changed(message: WorkflowChanged, at: Recorded) -> Statement:
        entry = workflow_entry(message, at.envelope.org, rfc3339(at.envelope.time))
        await workflows.put(message.key, at.delivered.sequence, entry)
        return store.put_workflow(entry, at.delivered.sequence)

    async def workflow_removed(message: WorkflowRemoved, at: Recorded) -> Statement:
        await workflows.put(message.key, at.delivered.sequence, None)
        return store.remove_workflow(at.envelope.org, message.name)

    async def adapter_changed(message: AdapterChanged, at: Recorded) -> Statement:
        entry = adapter_entry(message, at.envelope.org, rfc3339(at.envelope.time))
        await adapters.put(message.key, at.delivered.sequence, entry)
        return store.put_adapter(entry, at.delivered.sequence)

    async def adapter_removed(message: AdapterRemoved, at: Recorded) -> Statement:
        await adapters.put(message.key, at.delivered.sequence, None)
        return store.remove_adapter(at.envelope.org, message.name)

    return {
        AdapterChanged: adapter_changed,
        AdapterRemoved: adapter_removed,
        FileChanged: file_changed,
        FileRemoved: file_removed,
        WorkflowChanged: workflow_changed,
        WorkflowRemoved: workflow_removed,
    }
