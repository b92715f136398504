"""Signing a webhook as its sender would: the three ways that sources know."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import uuid
from dataclasses import dataclass
from typing import Any

DIGESTS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


@dataclass(frozen=True)
class Sending:
    """A body to send: its event type, the sender's id of the delivery, and the time (seconds since 1970)."""

    body: bytes
    event: str | None
    delivery: str
    now: int


def new_delivery() -> str:
    """Return an id such as senders give each delivery."""
    return str(uuid.uuid4())


def headers_of(adapter: str, settings: dict[str, Any], sending: Sending, secret: str | None) -> dict[str, str]:
    """Return the headers that a source with this adapter and these settings expects; without a secret, unsigned.

    Raises ValueError that names a missing part, as a sentence.
    """
    made = {"Content-Type": "application/json" if _is_json(sending.body) else "text/plain; charset=utf-8"}
    if adapter == "github":
        made |= _github(sending, secret)
    elif adapter == "standard-webhooks":
        made |= _standard_webhooks(sending, secret)
    elif adapter == "hmac":
        made |= _hmac(settings, sending, secret)
    elif secret is not None:
        raise ValueError(
            f"this command cannot sign for the adapter {adapter}: leave out --sign, and give the sender's headers with --header"
        )
    return made


def _github(sending: Sending, secret: str | None) -> dict[str, str]:
    if not sending.event:
        raise ValueError("GitHub names the event in a header: say --event push")
    made = {"X-GitHub-Event": sending.event, "X-GitHub-Delivery": sending.delivery}
    if secret is not None:
        made["X-Hub-Signature-256"] = "sha256=" + hmac.new(secret.encode(), sending.body, hashlib.sha256).hexdigest()
    return made


def _standard_webhooks(sending: Sending, secret: str | None) -> dict[str, str]:
    made = {"webhook-id": sending.delivery, "webhook-timestamp": str(sending.now)}
    if secret is not None:
        encoded = secret.removeprefix("whsec_").rstrip("=")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError("a secret of Standard Webhooks is whsec_ and base64") from error
        signed = f"{sending.delivery}.{sending.now}.".encode() + sending.body
        made["webhook-signature"] = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return made


def _hmac(settings: dict[str, Any], sending: Sending, secret: str | None) -> dict[str, str]:
    further = sorted({"template", "timestamp", "query", "key_encoding", "suffix"} & settings.keys())
    if secret is not None and further:
        raise ValueError(f"this command signs the plain body, and this source has the setting {further[0]}")
    made: dict[str, str] = {}
    if settings.get("event_header"):
        if not sending.event:
            raise ValueError(f"this source takes the event from the header {settings['event_header']}: say --event NAME")
        made[settings["event_header"]] = sending.event
    if settings.get("delivery_header"):
        made[settings["delivery_header"]] = sending.delivery
    if secret is not None:
        digest = hmac.new(secret.encode(), sending.body, DIGESTS[settings.get("algorithm") or "sha256"]).digest()
        encoded = base64.b64encode(digest).decode() if settings.get("encoding") == "base64" else digest.hex()
        made[settings.get("header") or "X-Signature"] = (settings.get("prefix") or "") + encoded
    return made


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
