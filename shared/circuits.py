"""Circuit breakers of questions: a service that answers nobody costs its askers seconds once, and not each of them its deadline.

Whether a service is there is not read off the questions that failed: an organization's own may be slow, and others would pay for
it. Where one is not answered for a while, and no other was either, the service is asked for its health; the circuit opens when
that is not answered again and again, and closes with its first answer. So nobody's request is what a half-open circuit tries.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import structlog
from nats.aio.client import Client

from shared.asking import ask
from shared.errors import MillraceError, Unavailable
from shared.questions import Command, Question, asked_of
from shared.questions.health import HEALTH, HealthQuestion

# Seconds without any answer after which a service is in doubt, more than nearly all answers take.
DOUBTED_AFTER = 2.0
# Seconds that its health may take to be told, and between two questions for it; so many in a row open the circuit.
PROBED_FOR = 1.0
PROBES = 2
# Seconds after which a refused asker may try again.
AGAIN = 2.0

A = TypeVar("A")
_log = structlog.get_logger()


class Circuits:
    """The circuits from one service to all others."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._circuits = {service: _Circuit(client, service) for service in HEALTH}

    async def ask(self, asked: Question[A] | Command[A], *, timeout: float | None) -> A:
        """Ask as `shared.asking.ask` does. Raises `Unavailable` at once where the circuit is open, and when it opens meanwhile."""
        circuit = self._circuits.get(asked_of(asked).service)
        if circuit is None or isinstance(asked, HealthQuestion):
            return await ask(self._client, asked, timeout=timeout)
        return await circuit.ask(asked, timeout)

    def fact(self) -> dict[str, Any]:
        """Return how many circuits are open, of which services, and how often one was opened."""
        services = [name for name, circuit in self._circuits.items() if circuit.is_open]
        return {
            "open": len(services),
            "services": services,
            "opened": sum(circuit.opened for circuit in self._circuits.values()),
        }

    async def close(self) -> None:
        """Ask for nobody's health any more."""
        for circuit in self._circuits.values():
            circuit.stop()


class _Circuit:
    """The circuit to one service."""

    def __init__(self, client: Client, service: str) -> None:
        self._client = client
        self._service = service
        self._answered_at = 0.0
        self._waiting: set[asyncio.Timeout] = set()
        self._probing: asyncio.Task[None] | None = None
        self.is_open = False
        self.opened = 0

    async def ask(self, asked: Question[A] | Command[A], timeout: float | None) -> A:
        if self.is_open:
            raise self._refusal()
        loop = asyncio.get_running_loop()
        doubting = loop.call_later(DOUBTED_AFTER, self._doubt, loop.time())
        try:
            async with asyncio.timeout(None) as scope:
                self._waiting.add(scope)
                try:
                    answer = await ask(self._client, asked, timeout=timeout)
                finally:
                    self._waiting.discard(scope)
        except TimeoutError as error:
            raise self._refusal() from error
        except MillraceError as error:
            # This one may be of the asker, whom nobody has answered.
            if not isinstance(error, Unavailable):
                self._answered_at = loop.time()
            raise
        finally:
            doubting.cancel()
        self._answered_at = loop.time()
        return answer

    def stop(self) -> None:
        if self._probing is not None:
            self._probing.cancel()

    def _refusal(self) -> Unavailable:
        return Unavailable(f"the {self._service} service does not answer", retry_after=AGAIN)

    def _doubt(self, asked_at: float) -> None:
        if self._answered_at < asked_at and self._probing is None:
            self._probing = asyncio.create_task(self._probe(), name=f"circuit {self._service}")
            self._probing.add_done_callback(self._probed)

    def _probed(self, _probing: asyncio.Task[None]) -> None:
        self._probing = None
        self.is_open = False

    async def _probe(self) -> None:
        """Ask for the service's health until it is told. While the broker is away nobody can be asked, and nobody is in doubt."""
        loop = asyncio.get_running_loop()
        missed = 0
        while self._client.is_connected:
            at = loop.time()
            try:
                await ask(self._client, HEALTH[self._service](org="global"), timeout=PROBED_FOR)
            except Unavailable:
                missed += 1
            else:
                break
            if missed == PROBES:
                self._open()
            await asyncio.sleep(max(0.0, at + PROBED_FOR - loop.time()))
        if self.is_open:
            _log.info("circuit.closed", of=self._service)

    def _open(self) -> None:
        self.is_open = True
        self.opened += 1
        _log.warning("circuit.opened", of=self._service, waiting=len(self._waiting))
        now = asyncio.get_running_loop().time()
        for scope in self._waiting:
            scope.reschedule(now)
