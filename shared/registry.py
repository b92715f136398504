"""Registries: the live view of small things, one writer, watched by the readers (NATS KV)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js.kv import KeyValue

from shared.errors import TooLarge, Unavailable
from shared.health import Health
from shared.messages.declaration import checked_key
from shared.ordered_reader import OrderedReader
from shared.projection import PAUSE
from shared.pull import StreamError

V = TypeVar("V", bound=msgspec.Struct)
# Entries that cannot be decoded that `/readyz` shows, and characters of the error of each.
MOST_TOLD, SHOWN = 100, 200
# Seconds for which a view waits to hear of a change that its own process has made.
KNOWN_WITHIN = 2.0
_log = structlog.get_logger()
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Entry(msgspec.Struct, Generic[V], frozen=True):
    """A value and the stream sequence that it reflects; `value` is None where the thing was removed."""

    seq: int
    value: V | None


class _Sequence(msgspec.Struct, frozen=True):
    """The part of an entry that its replacement depends on."""

    seq: int


_sequence_decoder = msgspec.json.Decoder(_Sequence)


class RegistryWriter(Generic[V]):
    """The owner's side: replaces an entry only by a compare-and-set with a higher sequence; one that cannot be decoded by any.

    Entries to `remake` are replaced at the same sequence too.
    """

    def __init__(self, client: Client, bucket: str, value: type[V]) -> None:
        self._client = client
        self._bucket = bucket
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Entry[value])  # type: ignore[valid-type]
        self._kv: KeyValue | None = None

    async def put(self, key: str, seq: int, value: V | None) -> bool:
        """Make `value` the entry if `seq` is higher than the stored one; False when a newer entry is there.

        Raises `Unavailable`; `TooLarge` for an entry that the broker does not carry.
        """
        return await self._replace(key, seq, value, below=seq)

    async def remake(self, key: str, seq: int, value: V) -> bool:
        """Make `value` the entry also in place of another one of the same `seq`; otherwise as `put`.

        For the derived part of an entry: another version of its owner may derive other values from the same message.
        """
        return await self._replace(key, seq, value, below=seq + 1)

    async def _replace(self, key: str, seq: int, value: V | None, *, below: int) -> bool:
        document = msgspec.json.encode(Entry(seq, value))
        try:
            kv = await self._bucket_of()
            while True:
                try:
                    found = await kv.get(checked_key(key))
                except nats.js.errors.KeyNotFoundError as absent:
                    # An operator's delete leaves a marker, whose revision the compare-and-set must expect.
                    revision = (absent.entry.revision or 0) if absent.entry else 0
                else:
                    if self._sequence_of(key, found.value or b"") >= below or found.value == document:
                        return False
                    revision = found.revision or 0
                try:
                    await kv.update(key, document, last=revision)
                except nats.js.errors.KeyWrongLastSequenceError:
                    continue
                return True
        except nats.errors.MaxPayloadError as error:
            raise TooLarge(f"an entry of {len(document)} bytes is more than the registry {self._bucket} takes") from error
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the registry {self._bucket} cannot be written: {type(error).__name__}") from error

    def _sequence_of(self, key: str, document: bytes) -> int:
        """Return the sequence that an entry reflects; -1 for an unreadable one, one less for one without a readable value."""
        try:
            seq = _sequence_decoder.decode(document).seq
        except _UNREADABLE as error:
            _log.error("registry.undecodable", bucket=self._bucket, key=key, reason=str(error))
            return -1
        try:
            self._decoder.decode(document)
        except _UNREADABLE:
            return seq - 1
        return seq

    async def _bucket_of(self) -> KeyValue:
        if self._kv is None:
            self._kv = await self._client.jetstream(timeout=2).key_value(self._bucket)
        return self._kv


class RegistryView(Generic[V]):
    """A reader's side: the whole registry in memory, kept up to date by a watch.

    An entry that cannot be decoded is passed over, and stands in `/readyz` until a readable one replaces it: the last readable
    value stays.
    """

    def __init__(self, client: Client, bucket: str, value: type[V], health: Health) -> None:
        self._client = client
        self._bucket = bucket
        self._health = health
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Entry[value])  # type: ignore[valid-type]
        self._entries: dict[str, Entry[V]] = {}
        self._complete = asyncio.Event()
        self._learned = asyncio.Event()
        self._undecodable: dict[str, str] = {}
        self.changes = 0
        health.state(f"registry_{bucket}", lambda: {"undecodable": len(self._undecodable), "keys": dict(self._undecodable)})

    def get(self, key: str) -> Entry[V] | None:
        """Return the entry; None means that this view does not know it, so that the owner is to be asked."""
        return self._entries.get(key)

    def values(self) -> Iterator[V]:
        """Iterate over the values that are there now."""
        return (entry.value for entry in self._entries.values() if entry.value is not None)

    def learn(self, key: str, entry: Entry[V]) -> None:
        """Take an entry over, from the watch or the owner's answer, unless a newer one is known; of equals the later counts."""
        known = self._entries.get(key)
        if known is None or known.seq < entry.seq or (known.seq == entry.seq and known != entry):
            self._entries[key] = entry
            self.changes += 1
            self._learned.set()
            self._learned = asyncio.Event()

    async def reflect(self, key: str, version: int | None) -> bool:
        """Wait until a version of an entry is known here, None: that it was removed; False where that takes some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_WITHIN):
                while not self._reflects(key, version):
                    await self.has_changed()
        return self._reflects(key, version)

    async def has_changed(self) -> None:
        """Wait until another entry is known than now."""
        await self._learned.wait()

    def _reflects(self, key: str, version: int | None) -> bool:
        found = self.get(key)
        return found is not None and (found.value is None if version is None else found.seq >= version)

    @property
    def is_complete(self) -> bool:
        """Whether everything that was in the registry at the start is in the view."""
        return self._complete.is_set()

    async def complete(self) -> None:
        """Wait until everything that was in the registry at the start is in the view."""
        await self._complete.wait()

    async def run(self) -> None:
        """Watch for ever."""
        part = f"registry {self._bucket}"
        prefix = f"$KV.{self._bucket}."
        reader = OrderedReader(self._client, f"KV_{self._bucket}", start="last_per_subject")
        while True:
            first = asyncio.create_task(self._mark_empty(reader))
            try:
                batches = reader.batches()
                async with contextlib.aclosing(batches):
                    async for batch in batches:
                        for delivered in batch:
                            self._take(delivered.subject.removeprefix(prefix), delivered.data)
                        self._health.report(part, None)
                        if batch[-1].pending == 0:
                            self._complete.set()
            except (Unavailable, StreamError) as error:
                self._health.report(part, str(error))
                _log.warning("registry.interrupted", bucket=self._bucket, reason=str(error))
            finally:
                first.cancel()
            await asyncio.sleep(PAUSE)

    def _take(self, key: str, document: bytes) -> None:
        self._undecodable.pop(key, None)
        if not document:
            return  # an operator's delete leaves a marker
        try:
            self.learn(key, self._decoder.decode(document))
        except Exception as error:  # of whatever was written there: it ends no service
            if len(self._undecodable) < MOST_TOLD:
                self._undecodable[key] = f"{type(error).__name__}: {error}"[:SHOWN]
            unread = isinstance(error, _UNREADABLE)
            _log.error("registry.undecodable", bucket=self._bucket, key=key, reason=str(error)[:SHOWN], exc_info=not unread)

    async def _mark_empty(self, reader: OrderedReader) -> None:
        """Notice a registry without entries, for which no batch ever comes."""
        await reader.created.wait()
        if reader.pending_at_start == 0:
            self._health.report(f"registry {self._bucket}", None)
            self._complete.set()
