"""Signing a webhook as its sender would, by the declaration of its source's verification."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from millrace._adapters import Request
from millrace._schemes import Scheme
from millrace._signing import prepared, scheme_of, signed


@dataclass(frozen=True)
class Sending:
    """A body to send: the source's address, the sender's id of the delivery, the time (seconds since 1970), and given headers."""

    url: str
    body: bytes
    delivery: str
    now: int
    headers: tuple[tuple[str, str], ...] = ()


def new_delivery() -> str:
    """Return an id such as senders give each delivery."""
    return str(uuid.uuid4())


def request_of(source: dict[str, Any], sending: Sending, secret: str | None) -> Request:
    """Return the request that a source expects; without a secret, unsigned. Raises ValueError with what is missing."""
    kind = "application/json" if _is_json(sending.body) else "text/plain; charset=utf-8"
    given = {"content-type": kind} | {name.lower(): value for name, value in sending.headers}
    request = Request(url=sending.url, all_headers=tuple(given.items()), body=sending.body)
    verification = source.get("verification") or {}
    schemes: list[Scheme] = [scheme_of(one) for one in verification.get("schemes", ())]
    if secret is None:
        return prepared(schemes, request, sending.delivery)
    if source.get("verification") is None:
        raise ValueError(f"the adapter {source['adapter']} is not in service: no file of the workspace declares it now")
    try:
        return signed(schemes, request, secret, sending.now, sending.delivery)
    except ValueError as error:
        raise ValueError(
            f"this command cannot sign for the adapter {source['adapter']}: {error}; or leave out --sign, "
            "and give the sender's headers with --header"
        ) from error


def event_header(source: dict[str, Any], adapters: list[dict[str, Any]]) -> str | None:
    """Return the header in which a source's sender names the event, by its settings or its adapter's example, if it does."""
    if source["settings"].get("event_header"):
        return str(source["settings"]["event_header"])
    found = [one["example"] for one in adapters if one["name"] == source["adapter"] and one.get("example")]
    example: dict[str, Any] = found[0] if found else {}
    for name, value in example.get("headers", {}).items():
        if any(event["type"] == value or event["type"].startswith(f"{value}.") for event in example["events"]):
            return str(name)
    return None


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
