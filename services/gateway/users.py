"""All users in memory, by id, by name and by whom a provider knows them as."""

from __future__ import annotations

from collections.abc import Iterator

from nats.aio.client import Client

from services.gateway.principals import Principal, Streams
from shared.errors import Unavailable
from shared.health import Health
from shared.organizations import PLATFORM
from shared.registry import Entry, RegistryView
from shared.resources.declaration import Role
from shared.resources.user import UserEntry


class Users(RegistryView[UserEntry]):
    """The users that there are. `streams` are the connections of all callers: those for a user who has changed are cut."""

    def __init__(self, client: Client, health: Health) -> None:
        super().__init__(client, "users", UserEntry, health)
        self.streams = Streams()
        self._named: dict[str, str] = {}
        self._subjects: dict[tuple[str, str], str] = {}

    def by_id(self, id_: str) -> UserEntry | None:
        """Return a user. Raises `Unavailable` while not all are known: it may be one of the others."""
        return self._found(self.get(id_))

    def named(self, name: str) -> UserEntry | None:
        """Return the user with a login. Raises as `by_id`."""
        return self._found(self.get(self._named.get(name, "")))

    def known_as(self, issuer: str, subject: str) -> UserEntry | None:
        """Return the user whom a provider of OpenID Connect knows by a subject. Raises as `by_id`."""
        return self._found(self.get(self._subjects.get((issuer, subject), "")))

    def members(self, org: str) -> Iterator[tuple[UserEntry, Role]]:
        """Iterate over those with a role in an organization, by name. Raises `Unavailable` while not all are known."""
        self._check()
        for one in sorted(self.values(), key=lambda user: user.name):
            if (role := one.spec.roles.get(org)) is not None:
                yield one, role

    def principal(self, user: UserEntry, digest: bytes, until: float) -> Principal:
        """Return the caller that a session of a user stands for."""
        return Principal(
            actor=f"user:{user.name}",
            org=home_of(user),
            roles=tuple((org, role) for org, role in sorted(user.spec.roles.items()) if role is not None),
            id=user.id,
            digest=digest,
            until=until,
            is_user=True,
            generation=user.spec.generation,
        )

    def learn(self, key: str, entry: Entry[UserEntry]) -> None:
        """Take an entry over, as every view does, and cut what goes on in the name of what the user was before."""
        before = self.get(key)
        super().learn(key, entry)
        if self.get(key) is not entry:
            return
        if before is not None and before.value is not None:
            self._forget(before.value)
        if entry.value is not None:
            self._named[entry.value.name] = key
            if (subject := _subject_of(entry.value)) is not None:
                self._subjects[subject] = key
        generation = None if entry.value is None else entry.value.spec.generation
        self.streams.cut(lambda of: key in {of.id, of.user} and of.generation != generation)

    def _forget(self, user: UserEntry) -> None:
        # Another one may have the name by now.
        if self._named.get(user.name) == user.id:
            del self._named[user.name]
        subject = _subject_of(user)
        if subject is not None and self._subjects.get(subject) == user.id:
            del self._subjects[subject]

    def _found(self, entry: Entry[UserEntry] | None) -> UserEntry | None:
        if entry is None:
            self._check()
        return None if entry is None else entry.value

    def _check(self) -> None:
        if not self.is_complete:
            raise Unavailable("not all users are known here yet", retry_after=1.0)


def home_of(user: UserEntry) -> str:
    """Return the organization of a user: its only one, else `global`."""
    orgs = [org for org, role in user.spec.roles.items() if role is not None]
    return orgs[0] if len(orgs) == 1 else PLATFORM


def _subject_of(user: UserEntry) -> tuple[str, str] | None:
    spec = user.spec
    return None if spec.issuer is None or spec.subject is None else (spec.issuer, spec.subject)
