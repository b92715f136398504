"""Messages that may have ended the process that handled them: such a death is counted on the bus, over restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from types import TracebackType

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.kv import KeyValue

from shared.errors import Unavailable
from shared.pull import deliveries_of, sequence_of
from shared.streams import SUSPECTS

# Deliveries that raise no suspicion: the tries of a message that meets a bug, or the orderly and disorderly ends of five processes.
UNSUSPICIOUS = 5
# Deaths of a process with the message as the only suspect in hand, one after the other, after which it is not handled any more.
DEATHS = 3
# Seconds that a suspect waits for its turn; less than the acknowledgement wait.
TURN = 10.0
# Messages that are remembered to have been handled here; the broker has at most a thousand of one consumer under way.
REMEMBERED = 10_000


class Deadly(Exception):
    """A message has ended the process that handled it too often; its mark stays, so that no process handles it again."""


class Suspects:
    """The suspects among the messages of one durable consumer.

    The broker counts deliveries, most of which were answered: put off while a store is away, or held back by a breaker. So a
    message that was delivered often is a suspect only to a process that has not handled it yet. Suspects are handled one at a
    time, each with its mark on the bus, which is removed after any outcome: a mark counts deaths.
    """

    def __init__(self, client: Client, consumer: str) -> None:
        self._client = client
        self._consumer = consumer
        self._survived: OrderedDict[int, None] = OrderedDict()
        self._turn = asyncio.Lock()
        self._kv: KeyValue | None = None

    def handling(self, msg: Msg) -> Handling:
        """Handle a message within the `async with` of what is returned.

        Raises `Deadly` for one that has ended too many processes, `Unavailable` where it has to wait for its turn or the broker.
        """
        sequence = sequence_of(msg)
        return Handling(self, sequence, is_suspect=deliveries_of(msg) > UNSUSPICIOUS and sequence not in self._survived)

    async def take_turn(self, sequence: int) -> None:
        """Wait for the turn of a suspect and count the death that this may be. Raises as `handling`."""
        try:
            async with asyncio.timeout(TURN):
                await self._turn.acquire()
        except TimeoutError as error:
            raise Unavailable("messages that were delivered often are handled one at a time") from error
        try:
            await self._begin(sequence)
        except BaseException:
            self._turn.release()
            raise

    async def end_turn(self, sequence: int) -> None:
        """Take back the death that was counted, and let the next suspect have its turn."""
        try:
            await self._end(sequence)
        finally:
            self._turn.release()

    def survived(self, sequence: int) -> None:
        """Remember a message that comes again and did not end this process."""
        self._survived[sequence] = None
        if len(self._survived) > REMEMBERED:
            self._survived.popitem(last=False)

    async def _begin(self, sequence: int) -> None:
        """Count the death that this may be."""
        key = f"{self._consumer}.{sequence}"
        try:
            if self._kv is None:
                self._kv = await self._client.jetstream(timeout=2).key_value(SUSPECTS)
            try:
                deaths = int((await self._kv.get(key)).value or b"0")
            except nats.js.errors.KeyNotFoundError:
                deaths = 0
            if deaths >= DEATHS:
                raise Deadly(f"the service ended {deaths} times in a row while this message was handled")
            await self._kv.put(key, b"%d" % (deaths + 1))
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the marks of suspects cannot be written: {type(error).__name__}") from error

    async def _end(self, sequence: int) -> None:
        # A mark that stays counts a death too many; it takes several in a row.
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError):
            if self._kv is not None:
                await self._kv.purge(f"{self._consumer}.{sequence}")


class Handling:
    """The time in which one message is handled. Entered for every message, so a class: a generator costs several times as much."""

    __slots__ = ("_is_suspect", "_sequence", "_suspects")

    def __init__(self, suspects: Suspects, sequence: int, *, is_suspect: bool) -> None:
        self._suspects = suspects
        self._sequence = sequence
        self._is_suspect = is_suspect

    async def __aenter__(self) -> None:
        if self._is_suspect:
            await self._suspects.take_turn(self._sequence)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._suspects.survived(self._sequence)
        if self._is_suspect:
            await self._suspects.end_turn(self._sequence)
