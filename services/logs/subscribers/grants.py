"""The keys for NATS that count: by digest, by the name of a connection, and what they want to be told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping

import msgspec
from nats.aio.client import Client

from shared.health import Health
from shared.organizations import PLATFORM
from shared.registry import Entry, RegistryView
from shared.resources.key import KeyEntry, values_of
from shared.subscribers import READABLE, TOLD_ORG


class Grant(msgspec.Struct, frozen=True):
    """What one value of a key allows: these subjects, until then in epoch seconds."""

    org: str
    key: str
    name: str
    digest: bytes
    subjects: tuple[str, ...]
    until: float | None

    @property
    def connection(self) -> str:
        """The name of its connections at the broker: of another value, or for other subjects, it is another one."""
        said = msgspec.json.encode((self.digest.hex(), self.subjects, self.until))
        return f"{self.org}/{self.key}/{hashlib.sha256(said).hexdigest()[:16]}"

    @property
    def allowed(self) -> list[str]:
        """The subjects at the broker that it may subscribe to: an organization's are its own, those of the platform all."""
        if self.org == PLATFORM:
            return list(self.subjects) or [f"{noun}.>" for noun in sorted(READABLE)]
        return [f"{TOLD_ORG}.{self.org}.{subject}" for subject in self.subjects or (">",)]

    def counts(self, now: float) -> bool:
        """Return whether it is not over."""
        return self.until is None or now < self.until


class Grants(RegistryView[KeyEntry]):
    """All grants, from the registry of keys; `changed` is set whenever one has come or gone."""

    def __init__(self, client: Client, health: Health) -> None:
        super().__init__(client, "keys", KeyEntry, health)
        self._of_key: dict[str, tuple[Grant, ...]] = {}
        self._by_digest: dict[bytes, Grant] = {}
        self._by_connection: dict[str, Grant] = {}
        self.wanted: Mapping[str, frozenset[str]] = {}
        self.changed = asyncio.Event()

    def by_digest(self, digest: bytes) -> Grant | None:
        """Return the grant of a value."""
        return self._by_digest.get(digest)

    def by_connection(self, name: str) -> Grant | None:
        """Return the grant by which a connection of this name was admitted, None where that counts no more."""
        return self._by_connection.get(name)

    def learn(self, key: str, entry: Entry[KeyEntry]) -> None:
        """Take an entry over, as every view does, and count its grants from then on, or no more."""
        super().learn(key, entry)
        if self.get(key) is not entry:
            return
        before, after = self._of_key.pop(key, ()), grants_of(entry.value)
        if after:
            self._of_key[key] = after
        if before == after:
            return
        for one in before:
            del self._by_digest[one.digest], self._by_connection[one.connection]
        for one in after:
            self._by_digest[one.digest] = self._by_connection[one.connection] = one
        self.wanted = wanted_by([one for grants in self._of_key.values() for one in grants])
        self.changed.set()


def grants_of(entry: KeyEntry | None) -> tuple[Grant, ...]:
    """Return the grants of a key: of one for NATS each value's."""
    if entry is None or not entry.spec.nats:
        return ()
    subjects = tuple(entry.spec.subjects)
    return tuple(Grant(entry.org, entry.id, entry.name, digest, subjects, until) for digest, until in values_of(entry.spec).items())


def wanted_by(grants: list[Grant]) -> dict[str, frozenset[str]]:
    """Return by organization the first parts of the subjects that somebody may read; `global`: of all organizations."""
    wanted: dict[str, frozenset[str]] = {}
    for one in grants:
        nouns = frozenset(subject.partition(".")[0] for subject in one.subjects) or READABLE
        wanted[one.org] = wanted.get(one.org, frozenset()) | nouns
    return wanted
