"""A sender of webhooks as GitHub is one, and stubborn: what was not accepted is sent again under the same delivery id."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from collections.abc import Iterator

import aiohttp
import msgspec

from tests.chaos.clients import PATIENCE, Tries, insist, paced

ACCEPTED = (200, 202)


class Sent(msgspec.Struct, kw_only=True):
    """One webhook: the cell it belongs to, and what became of it. `delivery` is the id it was accepted under, once it was."""

    cell: str
    event: str
    sender_delivery: str
    delivery: str | None = None
    refusal: str | None = None
    tries: Tries = msgspec.field(default_factory=Tries)


class Address(msgspec.Struct, frozen=True):
    """Where webhooks go: a source's URL and its secret."""

    url: str
    secret: str


class Sender:
    """Sends webhooks and remembers every one."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.sent: list[Sent] = []

    async def stream(self, cell: str, address: Address, events: Iterator[str], rate: float) -> None:
        """Send one webhook per event, `rate` a second whatever becomes of the others; returns when each has its answer."""
        async with asyncio.TaskGroup() as group:
            async for event in paced(events, rate):
                group.create_task(self.send(cell, address, event))

    async def send(self, cell: str, address: Address, event: str) -> Sent:
        """Send one webhook until it is accepted or refused, or patience ends; the last two are in its `refusal`."""
        sent = Sent(cell=cell, event=event, sender_delivery=str(uuid.uuid4()))
        self.sent.append(sent)
        body = msgspec.json.encode({"ref": "refs/heads/main", "after": sent.sender_delivery})
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": sent.sender_delivery,
            "X-Hub-Signature-256": "sha256=" + hmac.new(address.secret.encode(), body, hashlib.sha256).hexdigest(),
        }
        answer = await insist(self._session, address.url, body, headers, sent.tries)
        if answer is None:
            sent.refusal = f"not accepted within {PATIENCE:.0f} s: {sent.tries.met}"
        elif answer.status in ACCEPTED:
            sent.delivery = msgspec.json.decode(answer.body)["id"]
        else:
            sent.refusal = f"{answer.status} {answer.body.decode(errors='replace')[:300]}"
        return sent
