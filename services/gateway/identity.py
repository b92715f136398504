"""Who is calling, by the key of a request: all keys are in memory, and each is found by its digest."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec
from nats.aio.client import Client

from services.gateway.principals import Principal, lesser
from services.gateway.users import Users
from shared.errors import Unavailable
from shared.health import Health
from shared.organizations import PLATFORM
from shared.registry import Entry, RegistryView
from shared.resources.key import KeyEntry, digest_of, values_of

# Bytes of randomness in a key, and characters of it that are shown: those left are more than can be guessed.
RANDOM = 32
SHOWN = len("mr_") + 6


PLATFORM_KEY = Principal(actor="platform-key", org=PLATFORM, roles=((PLATFORM, "admin"),))


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
    return key_of("mr_" + secrets.token_urlsafe(RANDOM))


def key_of(text: str) -> NewKey:
    """Return a key of this text, with what is kept of it."""
    return NewKey(text, digest_of(text).hex(), text[:SHOWN])


class Keys(RegistryView[KeyEntry]):
    """All keys that count, by digest. What a stranger sends is remembered nowhere.

    A key that acts for a user has no more than the user has at the moment, and counts no more with the user.
    """

    def __init__(
        self, client: Client, health: Health, platform_key: str, users: Users, *, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(client, "keys", KeyEntry, health)
        self._platform = digest_of(platform_key)
        self._clock = clock
        self._known: dict[bytes, Principal] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}
        self._users = users
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
        if found is not None and found.user is not None:
            found = self._bound(found, found.user)
        if found is not None and found.id is not None and not self.is_over(found):
            self.used[found.id] = self._clock()
        return found

    def note_use(self, id_: str, at: float) -> None:
        """Take over when a key was used elsewhere, in epoch seconds; of one that is gone nothing."""
        if id_ in self._digests:
            self.used[id_] = max(at, self.used.get(id_, at))

    def is_over(self, principal: Principal) -> bool:
        """Return whether a key has expired."""
        return principal.until is not None and principal.until <= self._clock()

    def learn(self, key: str, entry: Entry[KeyEntry]) -> None:
        """Take an entry over, as every view does, and know its key from then on, or no more."""
        super().learn(key, entry)
        if self.get(key) is entry:
            self._know(key, entry.value)

    def _know(self, id_: str, entry: KeyEntry | None) -> None:
        before = {digest: self._known.pop(digest) for digest in self._digests.pop(id_, ())}
        after = {} if entry is None else principals_of(entry)
        self._known |= after
        if after:
            self._digests[id_] = tuple(after)
        else:
            self.used.pop(id_, None)
        ended = {digest for digest, principal in before.items() if after.get(digest) != principal}
        self._users.streams.cut(lambda of: of.digest in ended)

    def _bound(self, principal: Principal, user_id: str) -> Principal | None:
        """Return a key that acts for a user with no more than that user's role now, None where that is none.

        Raises `Unavailable` while not all users are known.
        """
        user = self._users.by_id(user_id)
        if user is None or not user.spec.enabled:
            return None
        role = self._users.principal(user, b"", 0.0).role_in(principal.org)
        if role is None:
            return None
        roles = tuple((org, lesser(role, own)) for org, own in principal.roles)
        return msgspec.structs.replace(principal, roles=roles, generation=user.spec.generation)


def principals_of(entry: KeyEntry) -> dict[bytes, Principal]:
    """Return by digest whom a key stands for: its present value, and the one before while that still counts."""
    spec = entry.spec
    fields: dict[str, Any] = {
        # A key of the platform acts in organizations which may have one of the same name.
        "actor": f"key:{entry.name}" if entry.org != PLATFORM else f"key:{PLATFORM}/{entry.name}",
        "org": entry.org,
        "roles": ((entry.org, spec.role),),
        "scopes": tuple(spec.scopes),
        "nats": spec.nats,
        "id": entry.id,
        "user": spec.user,
    }
    return {digest: Principal(**fields, digest=digest, until=until) for digest, until in values_of(spec).items()}
