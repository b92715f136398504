"""A run's messages as its supervisor says them: one append in flight, each expecting the one before, conflicts folded."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog

from services.executor import domain
from services.executor.domain import RunState
from shared import aggregate
from shared.bus import Bus
from shared.envelope import Envelope, caused_id, open_message
from shared.errors import Conflict, Unavailable
from shared.messages import Message, RunCancelled, RunStarted, RunStepCompleted, RunSucceeded
from shared.messages.run import RunCrashed, RunFailed, RunTimedOut

# While the broker is away an outcome is offered again after so many seconds; the run is ours until somebody newer claims it.
PAUSE = 0.25
# A claim that conflicts is folded and tried again; more often than this somebody else is winning.
CLAIM_TRIES = 5

Outcome = RunSucceeded | RunFailed | RunTimedOut | RunCrashed | RunCancelled
_log = structlog.get_logger()


class Superseded(Exception):
    """A newer claim owns the run: its child is to be killed, nothing written, the message not acknowledged."""


class AlreadyEnded(Exception):
    """The run has its end: there is nothing left to do but to acknowledge."""


class Folded(msgspec.Struct, frozen=True):
    """A run as the stream tells it now: its state and the results of its completed steps by (name, ordinal)."""

    state: RunState
    steps: dict[tuple[str, int], Any]


async def fold(bus: Bus, run: str) -> Folded | None:
    """Read a run's messages; None when the stream has none. Raises `Unavailable`."""
    state: RunState | None = None
    steps: dict[tuple[str, int], Any] = {}
    async for stored in aggregate.history(bus.client, "run", run):
        message: Message = open_message(stored.envelope)
        if isinstance(message, RunStepCompleted):
            steps[message.name, message.ordinal] = message.result
        state = domain.evolve(state, stored.envelope, message, stored.sequence)
    return None if state is None else Folded(state, steps)


class Claim:
    """This process' hold on a run from its `run.started` on. `cancel` is set when somebody wants the run to stop."""

    def __init__(self, bus: Bus, run: str, org: str, started: Envelope, attempt: int, sequence: int) -> None:
        self._bus = bus
        self.run = run
        self._org = org
        self.started = started
        self.attempt = attempt
        self._sequence = sequence
        self._saying = asyncio.Lock()
        self.cancel = asyncio.Event()

    async def step(self, message: RunStepCompleted) -> None:
        """Record a step. Raises `Superseded`, `AlreadyEnded`; waits while the broker is away."""
        async with self._saying:
            await self._append(message, f"{message.name}/{message.ordinal}")

    async def end(self, outcome: Outcome) -> Outcome:
        """Record the one end of the run; returns what was recorded: `cancelled` when that was asked for in the meantime.

        Raises `Superseded`, `AlreadyEnded`; waits while the broker is away.
        """
        async with self._saying:
            while True:
                try:
                    await self._append(outcome, "end")
                except _CancelRequested:
                    outcome = RunCancelled(
                        run=self.run,
                        attempt=self.attempt,
                        duration_ms=outcome.duration_ms,
                        usage=outcome.usage,
                    )
                    continue
                return outcome

    async def _append(self, message: Message, discriminator: str) -> None:
        sealed = self._bus.seal(message, org=self._org, cause=self.started, id=caused_id(self.started.id, message, discriminator))
        while True:
            try:
                ack = await aggregate.append(self._bus.client, self._bus.journal, sealed, self._sequence)
            except Unavailable as error:
                # Unknown: the same message with the same id again, until the broker tells which.
                _log.warning("run.append_waits", run=self.run, type=sealed.envelope.type, reason=error.detail)
                await asyncio.sleep(PAUSE)
            except Conflict:
                await self._learn(message)
            else:
                self._sequence = ack.sequence
                return

    async def _learn(self, message: Message) -> None:
        """Fold after a conflict: raise what it means for us, or take over the sequence and let the append be tried again."""
        while True:
            try:
                folded = await fold(self._bus, self.run)
                break
            except Unavailable:
                await asyncio.sleep(PAUSE)
        if folded is None or folded.state.ended:
            raise AlreadyEnded
        if folded.state.claim != self.started.id:
            raise Superseded
        self._sequence = folded.state.last_seq
        if folded.state.status == "cancelling":
            self.cancel.set()
            if not isinstance(message, RunStepCompleted | RunCancelled):
                raise _CancelRequested


class _CancelRequested(Exception):
    """The outcome that was to be recorded gives way to a cancellation that came first."""


async def claim(
    bus: Bus, run: str, org: str, cause: Envelope, sequence: int, *, executor: str, tier: str, redelivered: bool
) -> tuple[Claim, dict[tuple[str, int], Any]]:
    """Claim a run whose work message was pulled at `sequence`; returns the claim and the results of completed steps.

    The first delivery reads nothing: it expects the very message that was pulled. A redelivered one is folded first. Raises
    `AlreadyEnded` (also after recording a cancellation that was asked for), `Conflict` when others win, `Unavailable`.
    """
    folded: Folded | None = None
    look = redelivered
    for _ in range(CLAIM_TRIES):
        if look:
            folded = await fold(bus, run)
            if folded is None or folded.state.ended:
                raise AlreadyEnded
            if folded.state.status == "cancelling":
                await _cancel(bus, run, org, cause, folded.state)
                raise AlreadyEnded
        attempt = folded.state.attempt + 1 if folded else 1
        # A fresh id per claim: attempt 2 must not be swallowed as a duplicate of attempt 1.
        started = bus.seal(RunStarted(run=run, attempt=attempt, executor=executor, tier=tier), org=org, cause=cause)
        try:
            ack = await aggregate.append(bus.client, bus.journal, started, folded.state.last_seq if folded else sequence)
        except Conflict:
            look = True
            continue
        made = Claim(bus, run, org, started.envelope, attempt, ack.sequence)
        return made, folded.steps if folded else {}
    raise Conflict(f"run {run} is claimed by others")


async def _cancel(bus: Bus, run: str, org: str, cause: Envelope, state: RunState) -> None:
    """Record that a run which nobody holds was cancelled."""
    message = RunCancelled(run=run, attempt=state.attempt)
    sealed = bus.seal(message, org=org, cause=cause, id=caused_id(cause.id, message, "unclaimed"))
    await aggregate.append(bus.client, bus.journal, sealed, state.last_seq)
