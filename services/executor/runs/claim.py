"""A run's messages as its supervisor appends them: one append in flight, each expecting the one before, conflicts folded."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog

from services.executor.runs import run_state
from services.executor.runs.run_state import RecordedCall, RunState, StepId
from services.executor.sandbox.interface import Cancellation
from services.executor.store import ExecutorStore
from shared import aggregate, tracing
from shared.bus import Bus
from shared.envelope import Envelope, caused_id, open_message, rfc3339
from shared.errors import Conflict, Unavailable
from shared.messages import (
    Message,
    RunAsked,
    RunCancelled,
    RunCancelRequested,
    RunResumed,
    RunSignalled,
    RunStarted,
    RunStepCompleted,
    RunSucceeded,
    RunWaiting,
)
from shared.messages.run import RunCrashed, RunFailed, RunTimedOut
from shared.runs import RunEnd

# While the broker is away an outcome is appended again after so many seconds; the run is ours until a newer claim.
PAUSE = 0.25
# A claim held so many seconds ago is held still: signs of life go out every 10 s and count for 30, so that no other worker gets the
# run within 20 of any moment in which this process was awake. After more it may have stood still, and lost the run.
LEASE = 15.0

# Ends of a claim: the run has ended, waits for something, or is given back to the workers.
Outcome = RunSucceeded | RunFailed | RunTimedOut | RunCrashed | RunCancelled | RunWaiting | RunResumed
_log = structlog.get_logger()
T = TypeVar("T")


class Fenced(Exception):
    """A newer claim fences this one off: its child is to be killed, nothing written, the message not acknowledged."""


class AlreadyEnded(Exception):
    """The run has its end: there is nothing left to do but to acknowledge."""


class Folded(msgspec.Struct, frozen=True):
    """A run as the stream has it now: its state, its completed steps and the waits that are over."""

    state: RunState
    steps: dict[StepId, RecordedCall]


class Read(msgspec.Struct):
    """A run's messages folded up to `last_seq`: those that could not be folded are left out, the first for `error`."""

    state: RunState | None = None
    steps: dict[StepId, RecordedCall] = msgspec.field(default_factory=dict)
    org: str | None = None
    last_seq: int = 0
    error: Exception | None = None


async def fold(bus: Bus, run: str) -> Folded | None:
    """Read a run's messages; None when the stream has none. Raises `Unavailable`.

    An error in folding one of them is raised as well, unless the run has ended all the same.
    """
    read = await read_all(bus, run)
    state = sound(read)
    return None if state is None else Folded(state, read.steps)


async def read_all(bus: Bus, run: str, since: RunState | None = None) -> Read:
    """Read a run's messages as far as they make sense, those after the state `since` if it is given. Raises `Unavailable`."""
    read = Read() if since is None else Read(since, org=since.org, last_seq=since.last_seq)
    async for stored in aggregate.history(bus.client, "run", run, after=read.last_seq):
        read.last_seq = stored.sequence
        read.org = read.org or stored.envelope.org or None
        try:
            message: Message = open_message(stored.envelope)
            attempt = read.state.attempt if read.state is not None else 0
            read.steps.update(run_state.recorded(message, rfc3339(stored.envelope.time), attempt))
            read.state = run_state.evolve(read.state, stored.envelope, message, stored.sequence)
        except Exception as error:
            read.error = read.error or error
            if read.state is not None:
                read.state = msgspec.structs.replace(read.state, last_seq=stored.sequence)
    return read


async def read_since(bus: Bus, state: RunState) -> Read:
    """Read a run's messages after a known state of it: the earlier ones, which may be many, are not read again."""
    newest = await aggregate.last(bus.client, "run", state.id)
    if newest is not None and newest.sequence == state.last_seq:
        return Read(state, org=state.org, last_seq=state.last_seq)
    if newest is None or newest.sequence < state.last_seq:
        # Purged, or the stream was made anew: then there is little to read, or nothing.
        return await read_all(bus, state.id)
    return await read_all(bus, state.id, state)


async def read_now(bus: Bus, store: ExecutorStore, run: str) -> Read:
    """Read a run's present state: its row, and later messages. `steps` are those of the later messages. Raises `Unavailable`."""
    row = await store.run(None, run)
    if row is None:
        return await read_all(bus, run)
    return Read(row, org=row.org, last_seq=row.last_seq) if row.ended else await read_since(bus, row)


def sound(read: Read) -> RunState | None:
    """Return the state that was read. Raises the error of folding a message, unless the run has ended all the same."""
    if read.error is not None and (read.state is None or not read.state.ended):
        raise read.error
    return read.state


async def children_outcomes(state: RunState, bus: Bus, store: ExecutorStore) -> dict[str, Any]:
    """Return the outcomes of the ended child runs that a run waits for, by id. Raises `Unavailable`."""
    told: dict[str, Any] = {}
    for wait in state.waits:
        if wait.kind == "run":
            child = (await read_now(bus, store, wait.name)).state
            if child is not None and child.ended:
                told[wait.name] = run_state.outcome_for_parent(child)
    return told


async def outlasting(ask: Callable[[], Awaitable[T]], **what: Any) -> T:
    """Return the answer of `ask`, called again for as long as a store is away; `what` is for the log.

    For answers without which an attempt cannot go on: a store that is away for a moment is no error of the author's. The
    attempt's own time-out bounds it.
    """
    while True:
        try:
            return await ask()
        except Unavailable as error:
            _log.warning("run.waits_for_a_store", reason=error.detail, **what)
            await asyncio.sleep(PAUSE)


class Claim:
    """This process' hold on a run from its `run.started` on. `cancel` is set when a stop of the run is requested.

    `state` is the run before it, `message` and `started` are that message and its envelope, stored at `sequence`. `since` is when,
    by the loop's clock, the hold was last known to be exclusive; now unless given. `span`: of the attempt, if it is traced.
    """

    def __init__(
        self,
        bus: Bus,
        state: RunState,
        started: Envelope,
        message: RunStarted,
        sequence: int,
        since: float | None = None,
        span: tracing.Span | None = None,
    ) -> None:
        self._bus = bus
        self.run = state.id
        self.state = state
        """As it was when it was claimed."""
        self.current = run_state.evolve(state, started, message, sequence) or state
        """The state after the last append."""
        self.started = started
        self.attempt = message.attempt
        self.span = span
        self._sequence = sequence
        self._since = asyncio.get_running_loop().time() if since is None else since
        self._appending = asyncio.Lock()
        self.cancel = Cancellation()

    async def ask(self, message: RunAsked) -> None:
        """Record a question to people. Raises like `step`."""
        async with self._appending:
            await self._append(message, f"ask/{message.name}/{message.ordinal}")
        await self.check_lease()

    async def step(self, message: RunStepCompleted) -> None:
        """Record a step. Raises `Fenced`, `AlreadyEnded`; waits while the broker is away.

        When it returns the child may go on with the next one: no other worker has begun it in the meantime.
        """
        async with self._appending:
            how = "given_up/" if message.given_up else ""
            await self._append(message, f"{how}{message.kind}/{message.name}/{message.ordinal}")
        await self.check_lease()

    async def inherit(self, message: RunSignalled, discriminator: str) -> None:
        """Record a signal of the run that this one resumes. Raises like `step`."""
        async with self._appending:
            await self._append(message, discriminator)

    async def check_lease(self) -> None:
        """Return once the lease on the run is certain, which mostly nothing need be asked for. Raises like `step`."""
        now = asyncio.get_running_loop().time()
        if now - self._since < LEASE:
            return
        state = sound(await outlasting(lambda: read_since(self._bus, self.current), run=self.run))
        if state is None or state.ended:
            raise AlreadyEnded
        if state.claim != self.started.id:
            raise Fenced
        self._since = now

    async def ask_to_stop(self) -> None:
        """Record that the run asks for its own end, and have its child stopped. Raises like `step`."""
        async with self._appending:
            await self._append(RunCancelRequested(run=self.run, requested_by=f"run:{self.run}"), "itself")
        self.cancel.set()

    async def end(self, outcome: Outcome) -> Outcome:
        """Record the one end of the claim; returns the recorded message: `cancelled` when that was requested in the meantime.

        Raises `Fenced`, `AlreadyEnded`; waits while the broker is away.
        """
        async with self._appending:
            while True:
                try:
                    await self._append(outcome, "end")
                except _CancelRequested:
                    outcome = RunCancelled(run=self.run, attempt=self.attempt)
                    continue
                return outcome

    async def _append(self, message: Message, discriminator: str) -> None:
        if isinstance(message, RunEnd):
            message = run_state.labelled(message, self.current)
        id_ = caused_id(self.started.id, message, discriminator)
        sealed = self._bus.seal(message, org=self.state.org, cause=self.started, id=id_)
        while True:
            sent = asyncio.get_running_loop().time()
            try:
                ack = await aggregate.append(self._bus.client, self._bus.journal, sealed, self._sequence, since=self._sequence)
            except Unavailable as error:
                # Unknown: the same message with the same id again, until the broker answers.
                _log.warning("run.append_waits", run=self.run, type=sealed.envelope.type, reason=error.detail)
                await asyncio.sleep(PAUSE)
            except Conflict:
                await self._learn(message)
            else:
                self._sequence = ack.sequence
                self.current = run_state.evolve(self.current, sealed.envelope, message, ack.sequence) or self.current
                # A stored message shows that the claim was ours when it was sent; one that had been sent before, not even that.
                self._since = -math.inf if ack.duplicate else sent
                return

    async def _learn(self, message: Message) -> None:
        """Read on after a conflict: raise its meaning for this claim, or take over the sequence and have the append tried again."""
        read = await outlasting(lambda: read_since(self._bus, self.current), run=self.run, type=type(message).__name__)
        state = sound(read)
        if state is None or state.ended:
            raise AlreadyEnded
        if state.claim != self.started.id:
            raise Fenced
        self._sequence = state.last_seq
        self.current = state
        if state.status == "cancelling":
            self.cancel.set()
            if not isinstance(message, RunStepCompleted | RunSignalled | RunAsked | RunCancelled):
                raise _CancelRequested


class _CancelRequested(Exception):
    """The outcome that was to be recorded gives way to a cancellation that came first."""
