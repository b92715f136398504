"""What one run may ask for, bound to the run: nothing that its child says names a run or an organization."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Protocol

import msgspec

from services.executor.claim import Claim
from services.executor.egress import Reached
from services.executor.life import Recorded, StepId
from services.executor.output import Output
from services.executor.sandbox import jail
from services.executor.sandbox.egress.network import Network
from services.executor.sandbox.egress.policy import Rules
from services.executor.sandbox.egress.resolver import Resolver
from services.executor.sandbox.jail import StepRecord
from shared.bus import Bus
from shared.encryption import CannotOpen, Keyring
from shared.envelope import derived_id
from shared.errors import Unavailable
from shared.messages import Audited, LineChunk, RunStepCompleted
from shared.questions.oauth import GetToken, Token

# While the broker is away lines are offered again after so many seconds.
PAUSE = 1.0


class Deps(Protocol):
    """What answering a run needs."""

    bus: Bus
    egress: Rules
    resolver: Resolver
    keyring: Keyring


class Allowed:
    """What one run may ask for; its organization and name are fixed here, never taken from the child."""

    def __init__(self, deps: Deps, mine: Claim, steps: dict[StepId, Recorded]) -> None:
        self._deps = deps
        self._claim = mine
        self._org = org = mine.state.org
        self._run = mine.run
        self._steps = steps
        self.lines = Output(mine.run, mine.state.workflow, mine.attempt, self._publish_lines)
        self.reached = Reached(mine.run, org, self._audit, self.lines)
        self.network = Network(deps.egress.of(org), deps.resolver.of(org), self.reached.note)

    async def log(self, level: jail.Level, event: str, fields: dict[str, Any]) -> None:
        """See `jail.Capabilities`, as for all that follows."""
        await self.lines.log(level, event, fields)

    async def output(self, stream: jail.Stream, text: str) -> None:
        """Keep what was printed."""
        await self.lines.text(stream, text)

    async def step_get(self, name: str, ordinal: int) -> StepRecord | None:
        """Answer what the stream told when the run was claimed, and what was kept since."""
        found = self._steps.get(("step", name, ordinal))
        return None if found is None else StepRecord(msgspec.Raw(msgspec.json.encode(found.result)))

    async def step_put(self, name: str, ordinal: int, result: msgspec.Raw) -> None:
        """Append the step to the run's messages."""
        kept = msgspec.json.decode(result)
        await self._claim.step(
            RunStepCompleted(run=self._run, attempt=self._claim.attempt, name=name, ordinal=ordinal, result=kept)
        )
        self._steps["step", name, ordinal] = Recorded(kept)

    async def connection(self, name: str) -> dict[str, Any]:
        """Ask the oauth service for a live token."""
        nonce = secrets.token_urlsafe(16)
        correlation = self._claim.started.correlationid
        question = GetToken(org=self._org, name=name, run=self._run, nonce=nonce, correlation_id=correlation)
        token: Token = await self._deps.bus.ask(question)
        return {"name": token.name, "token": self._opened(token.sealed, nonce, "token"), "expires_at": token.expires_at}

    def _opened(self, sealed: str, nonce: str, field: str) -> str:
        """Open what was sealed as the answer to one question of this run."""
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
