"""Who is calling, by the key of a request: all keys are in memory, and each is found by its digest."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec
from nats.aio.client import Client

from shared.errors import Unavailable
from shared.health import Health
from shared.organizations import PLATFORM
from shared.registry import Entry, RegistryView
from shared.resources.declaration import Role
from shared.resources.key import KeyEntry

# Bytes of randomness in a key, and characters of it that are shown: those left are more than can be guessed.
RANDOM = 32
SHOWN = len("mr_") + 6
# Seconds for which a change of a key is waited for here, before it is answered.
KNOWN_WITHIN = 2.0


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller by its key: as audits name it, the organization of the key (`global`: it acts in every one), what it may do.

    `id` is that of the key, None for the platform key, and `digest` that of its value; from `until` on, in epoch seconds, it
    counts no more.
    """

    actor: str
    org: str
    role: Role
    scopes: tuple[str, ...] = ()
    id: str | None = None
    digest: bytes = b""
    until: float | None = None

    @property
    def is_platform(self) -> bool:
        """Return whether the key is one of the platform."""
        return self.org == PLATFORM


PLATFORM_KEY = Principal(actor="platform-key", org=PLATFORM, role="admin")


class NewKey(msgspec.Struct, frozen=True):
    """A new key: its text, which is shown once, and what is kept of it."""

    text: str
    digest: str
    prefix: str

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "NewKey(...)"


def new_key() -> NewKey:
    """Return a key of 256 random bits."""
    text = "mr_" + secrets.token_urlsafe(RANDOM)
    return NewKey(text, digest_of(text).hex(), text[:SHOWN])


def digest_of(text: str) -> bytes:
    """Return the digest by which a key is known.

    One round of SHA-256: what it hides is 256 random bits, and no password that a slow hash would have to protect from guessing.
    """
    return hashlib.sha256(text.encode(errors="replace")).digest()


class Keys(RegistryView[KeyEntry]):
    """All keys that count, by digest. What a stranger sends is remembered nowhere."""

    def __init__(self, client: Client, health: Health, platform_key: str, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(client, "keys", KeyEntry, health)
        self._platform = digest_of(platform_key)
        self._clock = clock
        self._known: dict[bytes, Principal] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}
        self._open: defaultdict[Principal, set[asyncio.Transport]] = defaultdict(set)
        self._learned = asyncio.Event()
        # By id of the key: when it was used, in epoch seconds; taken out by whoever writes it down.
        self.used: dict[str, float] = {}

    def identify(self, text: str) -> Principal | None:
        """Return whose key this is, None where it counts for nobody; one that has expired is returned all the same.

        Raises `Unavailable` while not all keys are known: it may be one of the others.
        """
        digest = digest_of(text)
        if hmac.compare_digest(digest, self._platform):
            return PLATFORM_KEY
        # Nobody can choose the first bits of a digest: how long the search takes tells nothing of the keys that are there.
        found = self._known.get(digest)
        if found is None and not self.is_complete:
            raise Unavailable("not all keys are known here yet", retry_after=1.0)
        if found is not None and found.id is not None and not self.is_over(found):
            self.used[found.id] = self._clock()
        return found

    def is_over(self, principal: Principal) -> bool:
        """Return whether a key has expired."""
        return principal.until is not None and principal.until <= self._clock()

    @contextlib.contextmanager
    def streaming(self, principal: Principal, transport: asyncio.Transport | None) -> Iterator[None]:
        """Cut a connection if its key ceases to count, or comes to mean something else, within the block."""
        if principal.id is None or transport is None:
            yield
            return
        ending = None
        if principal.until is not None:
            ending = asyncio.get_running_loop().call_later(max(0.0, principal.until - self._clock()), transport.abort)
        streams = self._open[principal]
        streams.add(transport)
        try:
            yield
        finally:
            streams.discard(transport)
            if not streams and self._open.get(principal) is streams:
                del self._open[principal]
            if ending is not None:
                ending.cancel()

    async def reflect(self, id_: str, version: int | None) -> None:
        """Wait until a version of a key is known here, None: that it was removed; at most for some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_WITHIN):
                while not self._reflects(id_, version):
                    await self._learned.wait()

    def learn(self, key: str, entry: Entry[KeyEntry]) -> None:
        """Take an entry over, as every view does, and know its key from then on, or no more."""
        super().learn(key, entry)
        if self.get(key) is entry:
            self._know(key, entry.value)
            self._learned.set()
            self._learned = asyncio.Event()

    def _reflects(self, id_: str, version: int | None) -> bool:
        found = self.get(id_)
        return found is not None and (found.value is None if version is None else found.seq >= version)

    def _know(self, id_: str, entry: KeyEntry | None) -> None:
        before = {digest: self._known.pop(digest) for digest in self._digests.pop(id_, ())}
        after = {} if entry is None else principals_of(entry)
        self._known |= after
        if after:
            self._digests[id_] = tuple(after)
        else:
            self.used.pop(id_, None)
        for digest, principal in before.items():
            if after.get(digest) != principal:
                for transport in self._open.pop(principal, ()):
                    transport.abort()


def principals_of(entry: KeyEntry) -> dict[bytes, Principal]:
    """Return by digest whom a key stands for: its present value, and the one before while that still counts."""
    spec = entry.spec
    fields: dict[str, Any] = {
        # A key of the platform acts in organizations which may have one of the same name.
        "actor": f"key:{entry.name}" if entry.org != PLATFORM else f"key:{PLATFORM}/{entry.name}",
        "org": entry.org,
        "role": spec.role,
        "scopes": tuple(spec.scopes),
        "id": entry.id,
    }
    until = _epoch(spec.expires_at)
    ends = {spec.digest: until}
    if spec.previous is not None and spec.previous_until is not None:
        ends[spec.previous] = min(one for one in (until, _epoch(spec.previous_until)) if one is not None)
    return {(digest := bytes.fromhex(text)): Principal(**fields, digest=digest, until=end) for text, end in ends.items()}


def _epoch(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
