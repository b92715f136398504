"""What the gateway knows of each adapter: how its sender signs, names its deliveries, and what it may send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from services.gateway.domain import REDACTED_HEADERS
from services.gateway.rates import Bucket, bucket_of
from services.gateway.schemes import GITHUB, STANDARD_WEBHOOKS, SVIX, Scheme, key_of
from shared.errors import Unavailable
from shared.questions.events import SourceEntry

# The adapter of sources that nobody outside sends to: they have no address.
TOPIC = "topic"
# The settings that hold keys: the present one, and the one before it while a sender changes over.
SECRETS = ("secret", "previous_secret")


class Way(msgspec.Struct, frozen=True):
    """One way of signing; `delivery_header` names the sender's own id of a delivery, in lower case."""

    scheme: Scheme
    delivery_header: str | None = None


class Sender(msgspec.Struct, frozen=True):
    """What an adapter's senders do: `ways` are tried by which signature is there. `content_types` None: any."""

    ways: tuple[Way, ...]
    content_types: frozenset[str] | None = None


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """A source, ready to admit: `keys` are its secrets as the scheme wants them, `redacted` the headers not to keep.

    `bucket` counts what is admitted, in this process; None: as much as comes. A source that was changed begins with a full one.
    """

    source: str
    org: str
    adapter: str
    enabled: bool
    sender: Sender
    keys: tuple[bytes, ...]
    redacted: frozenset[str]
    methods: tuple[str, ...] = ("POST",)
    bucket: Bucket | None = None

    def way(self, headers: Mapping[str, str]) -> Way:
        """Return the way whose signature a request holds; the first one when it holds none."""
        ways = self.sender.ways
        if len(ways) > 1:
            for way in ways:
                if way.scheme.header in headers:
                    return way
        return ways[0]


_JSON_OR_FORM = frozenset({"application/json", "application/x-www-form-urlencoded"})


def _github(_settings: Mapping[str, Any]) -> Sender:
    return Sender((Way(GITHUB, "x-github-delivery"),), _JSON_OR_FORM)


def _standard_webhooks(_settings: Mapping[str, Any]) -> Sender:
    return Sender((Way(STANDARD_WEBHOOKS, "webhook-id"), Way(SVIX, "svix-id")))


def _hmac(settings: Mapping[str, Any]) -> Sender:
    scheme = Scheme(
        header=str(settings.get("header") or "X-Signature").lower(),
        algorithm=settings.get("algorithm") or "sha256",
        encoding=settings.get("encoding") or "hex",
        prefix=settings.get("prefix") or "",
    )
    delivery = settings.get("delivery_header")
    return Sender((Way(scheme, str(delivery).lower() if delivery else None),))


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
        bucket = bucket_of(entry.settings)
        keys = tuple(key_of(sender.ways[0].scheme, open_secret(name)) for name in SECRETS if name in entry.sealed)
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise Unavailable(f"the settings of this source make no verification: {error}", retry_after=60) from error
    return Door(
        source=entry.id,
        org=entry.org,
        adapter=entry.adapter,
        enabled=entry.enabled,
        sender=sender,
        keys=keys,
        redacted=REDACTED_HEADERS | {way.scheme.header for way in sender.ways},
        bucket=bucket,
    )
