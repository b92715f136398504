"""Commands to rotate keys: the same to each service that keeps something sealed, which seals its own anew."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.questions.declaration import Command, command
from shared.values import Opaque, Words


class QuarantinedView(msgspec.Struct, frozen=True, kw_only=True):
    """What does not open, and why: a resource by its noun, the `token` of a connection, or an `authorization` of one."""

    noun: str
    org: str
    name: str
    reason: str


class RotationView(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of one service: what one part has come to.

    `key` is the id of the first key, `left` counts what another one still seals there. `next` is where the next part begins, None
    after the last one.
    """

    service: str
    key: str
    resealed: int
    left: int
    quarantined: list[QuarantinedView]
    next: str | None


class RotateKeys(Command[RotationView], frozen=True, kw_only=True):
    """Seal a part of what an older key seals with the first one: from `after` on, which an earlier answer has named.

    `key` is what the earlier parts were sealed with. Raises Conflict where the replica that answers has another first key.
    """

    key: Opaque | None = None
    after: Words = ""


@command("oauth.rotate_keys", by="gateway", timeout=25.0)
class RotateVault(RotateKeys, frozen=True, kw_only=True):
    """Seal connections, tokens, secrets, providers' client secrets and open authorizations anew, as `RotateKeys`."""


@command("events.rotate_keys", by="gateway", timeout=25.0)
class RotateSettings(RotateKeys, frozen=True, kw_only=True):
    """Seal secret settings of sources and of integrations' mappings anew, as `RotateKeys`."""


@command("gateway.rotate_keys", by="gateway", timeout=25.0)
class RotateCredentials(RotateKeys, frozen=True, kw_only=True):
    """Seal the secrets of users' authenticators anew, as `RotateKeys`."""


# In the order in which they are asked.
ROTATING: Mapping[str, type[RotateKeys]] = {"oauth": RotateVault, "events": RotateSettings, "gateway": RotateCredentials}
