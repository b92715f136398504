"""The secrets of a source that its sender is told, and the one that a sender tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from services.events.adapters.graph_content import Certified, certified
from services.events.adapters.registering import Given, Registering, SenderResource, secrets_in
from shared.encryption import CannotOpen, Keyring, stem_of
from shared.envelope import new_id
from shared.errors import Unavailable
from shared.owners.keeper import Keeper
from shared.questions.resources import PutResource, of
from shared.resources.source import SourceEntry

# Who puts a secret that a sender made up.
ACTOR = "registration"


class TellingDeps(Protocol):
    """Dependencies of telling."""

    keyring: Keyring
    keepers: Mapping[str, Keeper[Any]]


class SourceSecrets:
    """The secrets that one registration of a source is made of, opened.

    `secret` is empty where the sender makes it up (`handed`) and has not told it yet. `stems` stand for the secrets that the sender
    is told, whichever key seals them, and so do `sealed`, while that key is the same.
    """

    def __init__(self, keyring: Keyring, source: SourceEntry, registering: Registering, resource: SenderResource) -> None:
        """Raise `Unavailable` for a secret that cannot be opened."""
        self._keyring = keyring
        self._source = source
        self.handed = bool(registering.secret)
        known = not self.handed or "secret" in source.sealed
        self.secret = self._opened("secret") if known else ""
        told = secrets_in(resource.created) - {"secret"}
        self._certified: Certified | None = certified(self._opened("certificate")) if "certificate" in told else None
        self.sealed = [source.sealed[name] for name in (*(() if self.handed else ("secret",)), *sorted(told))]
        self.stems = [stem_of(one) for one in self.sealed]

    def given(self) -> dict[Given, str]:
        """Return the values that stand in the bodies of requests."""
        found = {Given.SECRET: self.secret}
        if self._certified is not None:
            found |= {Given.CERTIFICATE: self._certified.certificate, Given.CERTIFICATE_ID: self._certified.id}
        return found

    def _opened(self, name: str) -> str:
        source = self._source
        try:
            return self._keyring.open(source.sealed[name], source.org, source.id, name)
        except (KeyError, CannotOpen) as error:
            raise Unavailable(f"the source's {name} cannot be opened: {error}") from error


async def keep_secret(deps: TellingDeps, source: SourceEntry, told: str | None, before: str) -> int:
    """Put the secret that a sender made up into its source; return the source's version. The one before signs what is on its way.

    Raises `Unavailable` where the sender told none, and as `put` does, also where the source was changed meanwhile.
    """
    if told is None:
        raise Unavailable("the sender's answer has no secret, by which its webhooks would be verified", retry_after=None)
    id_, org = new_id(), source.org
    settings = {"secret": told} | ({"previous_secret": before} if before else {})
    sealed = {"settings": deps.keyring.seal(msgspec.json.encode(settings).decode(), org, id_, "settings")}
    given = {"name": source.name, "fields": {}, "sealed": sealed, "patch": True, "expected": source.version}
    return (await deps.keepers["source"].put(of(PutResource, "source", id=id_, org=org, actor=ACTOR, **given))).version
