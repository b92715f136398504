"""What the gateway knows of each adapter: how its sender signs, names its deliveries, and what it may send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from services.gateway.domain import REDACTED_HEADERS
from services.gateway.schemes import GITHUB, STANDARD_WEBHOOKS, Scheme, key_of
from shared.errors import Unavailable
from shared.questions.events import SourceEntry

# The settings that hold keys: the present one, and the one before it while a sender changes over.
SECRETS = ("secret", "previous_secret")


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter's way of sending. `delivery_header` names the sender's own id of a delivery; `content_types` None: any."""

    scheme: Scheme
    delivery_header: str | None = None
    content_types: frozenset[str] | None = None


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """A source, ready to admit: `keys` are its secrets as the scheme wants them, `redacted` the headers not to keep."""

    source: str
    org: str
    adapter: str
    enabled: bool
    sender: Sender
    keys: tuple[bytes, ...]
    redacted: frozenset[str]
    methods: tuple[str, ...] = ("POST",)


_JSON_OR_FORM = frozenset({"application/json", "application/x-www-form-urlencoded"})


def _github(_settings: Mapping[str, Any]) -> Sender:
    return Sender(scheme=GITHUB, delivery_header="x-github-delivery", content_types=_JSON_OR_FORM)


def _standard_webhooks(_settings: Mapping[str, Any]) -> Sender:
    return Sender(scheme=STANDARD_WEBHOOKS, delivery_header="webhook-id")


def _hmac(settings: Mapping[str, Any]) -> Sender:
    scheme = Scheme(
        header=str(settings.get("header") or "X-Signature").lower(),
        algorithm=settings.get("algorithm") or "sha256",
        encoding=settings.get("encoding") or "hex",
        prefix=settings.get("prefix") or "",
    )
    delivery = settings.get("delivery_header")
    return Sender(scheme=scheme, delivery_header=str(delivery).lower() if delivery else None)


SENDERS: dict[str, Callable[[Mapping[str, Any]], Sender]] = {
    "github": _github,
    "hmac": _hmac,
    "standard-webhooks": _standard_webhooks,
}


def door_of(entry: SourceEntry, open_secret: Callable[[str], str]) -> Door:
    """Return the door of a source; `open_secret` answers the plaintext of one of its sealed settings.

    A source that this gateway cannot verify is `Unavailable`, never open: an unknown adapter, settings that make no scheme,
    a secret in the wrong form.
    """
    make = SENDERS.get(entry.adapter)
    if make is None:
        raise Unavailable(f"this gateway cannot verify senders of the adapter {entry.adapter!r}", retry_after=60)
    try:
        sender = msgspec.convert(msgspec.to_builtins(make(entry.settings)), Sender)
        keys = tuple(key_of(sender.scheme, open_secret(name)) for name in SECRETS if name in entry.sealed)
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise Unavailable(f"the settings of this source make no verification: {error}", retry_after=60) from error
    return Door(
        source=entry.id,
        org=entry.org,
        adapter=entry.adapter,
        enabled=entry.enabled,
        sender=sender,
        keys=keys,
        redacted=REDACTED_HEADERS | sender.scheme.headers,
    )
