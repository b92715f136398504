"""Capabilities of one run, bound to the run: a child's request names neither a run nor an organization."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from services.executor.runs import awaiting
from services.executor.runs.approvals import link_of
from services.executor.runs.claim import Claim, outlasting
from services.executor.runs.durable import Durable, check_size
from services.executor.runs.egress_trail import EgressTrail
from services.executor.runs.held_locks import HeldLocks
from services.executor.runs.kept_state import KeptState
from services.executor.runs.looks import Looks
from services.executor.runs.output import RunOutput
from services.executor.runs.run_state import RecordedCall, StepId
from services.executor.runs.signals import signal_run
from services.executor.runs.traced import AttemptSpans
from services.executor.sandbox import interface
from services.executor.sandbox.egress.network import Network, Record
from services.executor.sandbox.interface import LARGEST_RESULT, KeptResult, Kind, StartedRun, StepRecord
from services.executor.state import States
from services.executor.store import ExecutorStore
from services.executor.workspaces import registration
from services.executor.workspaces.files import Files
from shared.blobs import Blobs
from shared.bus import Bus
from shared.egress.policy import EgressRules
from shared.egress.resolver import Resolver
from shared.encryption import CannotOpen, Keyring
from shared.envelope import derived_id
from shared.errors import TooLarge, TooMany, Unavailable
from shared.locks import Locks
from shared.messages import Audited, LineChunk, Wait
from shared.questions.events import EmitEvent, Emitted, GetMapping
from shared.questions.oauth import GetSecret, GetToken, GetVariable
from shared.questions.runs import SignalRun

# While the broker is away lines are published again after so many seconds.
PAUSE = 1.0
# Seconds after which a result that is there already is stored again, lest it go with the run that had it first.
RENEWED = 24 * 3600.0
# A command without an answer is given again after so many seconds.
AGAIN = (0.5, 2.0)
# Events that one attempt may be about to emit: where the owner wants them to come later, so many ask again.
EMITTING = 8
# Credentials of one attempt: each that is given, or is not, is a record in the audit trail.
CREDENTIALS = 1000
# Events of one attempt: each is kept, and may start runs.
EVENTS = 1000
# Everything else that a service or the database is asked for one attempt's sake.
QUESTIONS = 10_000


class CapabilityDeps(registration.RegistrationDeps, Protocol):
    """Dependencies of a run's capabilities."""

    bus: Bus
    egress: EgressRules
    resolver: Resolver
    keyring: Keyring
    results: Blobs
    store: ExecutorStore
    states: States
    locks: Locks
    looks: Looks
    engine: AsyncEngine
    longest_chain: int


class RunCapabilities:
    """Serves one run's requests; its organization and name are fixed here, never taken from the child."""

    def __init__(self, deps: CapabilityDeps, mine: Claim, steps: dict[StepId, RecordedCall]) -> None:
        self._deps = deps
        self._claim = mine
        self._org = org = mine.state.org
        self._run = mine.run
        self._durable = Durable(deps, mine, steps)
        self._emitting = asyncio.Semaphore(EMITTING)
        self._credentials = self._events = self._questions = self._signals = 0
        self._state = KeptState(deps.states, mine)
        self.held = HeldLocks(deps.locks, org)
        self._files = Files(deps, org, mine.run, mine.started.id)
        self.lines = RunOutput(mine.run, mine.state.workflow, mine.attempt, self._publish_lines)
        self.trail = EgressTrail(mine.run, org, self._audit, self.lines)
        self._spans = None if mine.span is None else AttemptSpans(mine.span)
        self.network = Network(deps.egress.of(org), deps.resolver.of(org), self._connected)

    @property
    def waits(self) -> list[Wait]:
        """The waits of the run: requests whose answer was not there yet."""
        return list(self._durable.waits.values())

    async def begin(self) -> None:
        """See `interface.Capabilities`, as for all that follows. Raises `Fenced`, `AlreadyEnded`.

        Code, input and a child may have taken long, or this process stood still meanwhile: by now another may have the run.
        """
        await self._claim.check_lease()

    async def log(self, level: interface.Level, event: str, fields: dict[str, Any]) -> None:
        """Keep a structured line."""
        await self.lines.log(level, event, fields)

    async def output(self, stream: interface.Stream, text: str) -> None:
        """Keep printed text."""
        await self.lines.text(stream, text)

    async def span(self, told: interface.ToldSpan) -> None:
        """Trace what the author's code tells, where the run is traced."""
        if self._spans is not None:
            self._spans.authored(told)

    async def keep_result(self, parts: AsyncIterator[bytes]) -> KeptResult:
        """Store it in the bucket `results`, by its hash. Raises `Unavailable`."""
        blob = await self._deps.results.put(parts, limit=LARGEST_RESULT, renew_after=RENEWED)
        return KeptResult(blob.sha256, blob.size)

    async def step_get(self, name: str, ordinal: int, of: Kind) -> StepRecord | None:
        """Answer the records of the run."""
        return self._durable.get((of, name, ordinal))

    async def step_put(self, name: str, ordinal: int, position: int | None, result: msgspec.Raw) -> None:
        """Append the step to the run's messages. Raises `TooLarge`."""
        await self._durable.put(name, ordinal, position, result)

    async def wait(self, of: Kind, name: str, ordinal: int, position: int | None, seconds: float | None) -> StepRecord | None:
        """Look whether the wait is over by now; else record that the run is to wait for it."""
        return await self._durable.wait(of, name, ordinal, position, seconds)

    async def wait_for_event(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, asked: msgspec.Raw
    ) -> StepRecord | None:
        """Look whether an event has come by now; else record that the run is to wait for it. Raises what does not fit."""
        return await awaiting.wait(self._durable, self._deps.bus, self._org, self._run, name, ordinal, position, seconds, asked)

    async def give_up(self, of: Kind, name: str, ordinal: int, position: int | None) -> None:
        """Keep that the run does not wait for it any more."""
        await self._durable.give_up(of, name, ordinal, position)

    async def ask(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, question: msgspec.Raw
    ) -> StepRecord | None:
        """Append the question to the run's messages; look whether it is answered."""
        return await self._durable.ask(name, ordinal, position, seconds, question)

    async def approval_link(self, approval: str, name: str) -> dict[str, Any]:
        """Have the gateway make it."""
        self._count_credential()
        made = await link_of(approval, name, self._org, self._deps)
        return {"url": made.url, "ends_at": made.ends_at}

    async def signal_run(self, run: str, name: str, data: msgspec.Raw) -> None:
        """Append the signal to that run's messages. The command's id derives from the claim."""
        self._signals += 1
        command = SignalRun(
            id=derived_id(self._claim.started.id, "signal", str(self._signals)),
            org=self._org,
            actor=f"run:{self._run}",
            run=run,
            name=name,
            data=msgspec.json.decode(data),
        )
        self._count_question()
        await outlasting(lambda: signal_run(command, self._deps), run=self._run, signalled=run)

    async def start_run(self, asked: StartedRun) -> str:
        """Ask for a run in the organization of this one."""
        return await self._durable.start(asked)

    async def cancel_run(self) -> None:
        """Append that the run asks for its own end."""
        await self._claim.ask_to_stop()

    async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
        """Ask the oauth service for a live token."""
        self._count_credential()
        nonce = secrets.token_urlsafe(16)
        correlation = self._claim.started.correlationid
        question = GetToken(org=self._org, name=name, run=self._run, nonce=nonce, correlation_id=correlation, rejected=rejected)
        token = await self._deps.bus.ask(question)
        answer = {"name": token.name, "token": self._opened(token.sealed, nonce, "token"), "expires_at": token.expires_at}
        if token.request is not None:
            answer |= msgspec.json.decode(self._opened(token.request, nonce, "request"))
        return answer | {"base_url": token.base_url, "version": token.version, "unreplaced": token.unreplaced}

    async def variable(self, name: str) -> dict[str, Any]:
        """Ask the oauth service for the variable."""
        self._count_question()
        found = await self._deps.bus.ask(GetVariable(org=self._org, name=name))
        return {"value": found.value}

    async def secret(self, name: str) -> dict[str, Any]:
        """Ask the oauth service for the secret."""
        self._count_credential()
        nonce = secrets.token_urlsafe(16)
        correlation = self._claim.started.correlationid
        question = GetSecret(org=self._org, name=name, run=self._run, nonce=nonce, correlation_id=correlation)
        given = await self._deps.bus.ask(question)
        return {"value": self._opened(given.sealed, nonce, "secret")}

    async def integration(self, name: str) -> dict[str, Any]:
        """Ask the events service for the organization's mapping; the token of its connection is asked for when it is wanted."""
        self._count_question()
        nonce = secrets.token_urlsafe(16)
        correlation = self._claim.started.correlationid
        asked = GetMapping(org=self._org, integration=name, run=self._run, nonce=nonce, correlation_id=correlation)
        found = await self._deps.bus.ask(asked)
        given = {}
        if found.sealed is not None:
            self._count_credential()
            given = msgspec.json.decode(self._opened(found.sealed, nonce, "integration"))
        return {
            "name": found.integration,
            "config": found.config | given,
            "entity_id": found.entity_id,
            "connection": found.connection,
            "secrets": sorted(given),
        }

    async def emit(self, source: str, type_: str, data: msgspec.Raw) -> dict[str, Any]:
        """Send it to the events service. The command's id derives from the claim: sent again it is the same event."""
        check_size("the event's data", data)
        if self._events >= EVENTS:
            raise TooLarge(f"this attempt has emitted {EVENTS} events, the most that one may")
        self._events += 1
        started = self._claim.started
        command = EmitEvent(
            id=derived_id(started.id, "emit", str(self._events)),
            org=self._org,
            actor=f"run:{self._run}",
            source=source,
            type=type_,
            data=msgspec.json.decode(data),
            run=self._run,
            hops=self._claim.state.hops,
            correlation_id=started.correlationid,
            causation_id=started.id,
        )
        async with self._emitting:
            emitted: Emitted = await self._commanded(command)
        return {"id": emitted.event, "delivery": emitted.delivery}

    async def file_find(self, path: str) -> dict[str, Any]:
        """Answer from the workspace's rows."""
        self._count_question()
        return await self._files.find(path)

    async def file_list(self, prefix: str, after: str) -> dict[str, Any]:
        """Answer from the workspace's rows."""
        self._count_question()
        return await self._files.list(prefix, after)

    async def file_read(self, path: str, reading: int, at: int) -> dict[str, Any]:
        """Read from the object store."""
        self._count_question()
        return await self._files.read(path, reading, at)

    async def file_write(self, path: str, writing: int, at: int, data: bytes, *, is_last: bool) -> dict[str, Any] | None:
        """Gather the parts, then put the whole into the workspace."""
        self._count_question()
        return await self._files.write(path, writing, at, data, is_last=is_last)

    async def file_delete(self, path: str) -> None:
        """Delete from the workspace."""
        await self._files.delete(path)

    async def state_get(self, key: str) -> dict[str, Any] | None:
        """Answer from the organization's state."""
        self._count_question()
        return await self._state.get(key)

    async def state_put(self, key: str, value: msgspec.Raw, expected: int | None, ttl: float | None) -> dict[str, Any]:
        """Change the organization's state."""
        self._count_question()
        return await self._state.put(key, value, expected, ttl)

    async def state_increment(self, key: str, by: int, ttl: float | None) -> dict[str, Any]:
        """Change the organization's state."""
        self._count_question()
        return await self._state.increment(key, by, ttl)

    async def state_delete(self, key: str, expected: int | None) -> bool:
        """Change the organization's state."""
        self._count_question()
        return await self._state.delete(key, expected)

    async def state_list(self, prefix: str, after: str) -> dict[str, Any]:
        """Answer from the organization's state."""
        self._count_question()
        return await self._state.page(prefix, after)

    async def lock_hold(self, number: int, name: str, wait: float) -> dict[str, Any]:
        """Hold a lock among the organization's."""
        self._count_question()
        return await self.held.hold(number, name, wait)

    async def lock_free(self, number: int) -> None:
        """Give a lock back."""
        await self.held.free(number)

    async def finish(self) -> None:
        """Close everything that the attempt left open, and report its denied connections."""
        await self.held.close()
        await self._files.close()
        await self.trail.finish()
        if self._spans is not None:
            self._spans.finish()

    def _connected(self, record: Record) -> None:
        if self._spans is not None:
            self._spans.connection(record)
        self.trail.record(record)

    async def _commanded(self, command: EmitEvent) -> Emitted:
        """Give a command, again until an answer comes in time: its id makes that safe. Raises the owner's refusal.

        Where too many events of the organization wait already, the run waits as well: its time-out bounds that.
        """
        pauses = iter(AGAIN)
        while True:
            try:
                answer = await self._deps.bus.ask(command)
            except TooMany as error:
                pause = error.retry_after or AGAIN[0]
            except Unavailable:
                if (following := next(pauses, None)) is None:
                    raise
                pause = following
            else:
                return answer
            await asyncio.sleep(pause)

    def _count_credential(self) -> None:
        if self._credentials >= CREDENTIALS:
            raise TooLarge(f"this attempt has asked for credentials {CREDENTIALS} times: keep what you were given")
        self._credentials += 1

    def _count_question(self) -> None:
        if self._questions >= QUESTIONS:
            raise TooLarge(f"this attempt has asked the platform {QUESTIONS} times: keep what you were told")
        self._questions += 1

    def _opened(self, sealed: str, nonce: str, field: str) -> str:
        """Open the sealed answer to one question of this run."""
        try:
            return self._deps.keyring.open(sealed, self._org, nonce, field)
        except CannotOpen as error:
            # The keys of two services differ while they are being rotated.
            raise Unavailable(str(error)) from error

    async def _audit(self, audited: Audited) -> None:
        await self._deps.bus.publish(self._deps.bus.seal(audited, org=self._org, cause=self._claim.started))

    async def _publish_lines(self, chunk: LineChunk) -> None:
        started = self._claim.started
        sealed = self._deps.bus.seal(chunk, org=self._org, cause=started, id=derived_id(started.id, "lines", str(chunk.chunk)))
        while True:
            try:
                await self._deps.bus.publish(sealed)
            except Unavailable:
                await asyncio.sleep(PAUSE)
                continue
            return
