"""A sender of webhooks as GitHub is one, and stubborn: what was not accepted is sent again under the same delivery id."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from collections import Counter
from collections.abc import Iterator

import aiohttp
import msgspec

# GitHub hangs up after so many seconds.
ANSWER_WITHIN = 10.0
# Between tries, in seconds; the last one goes on for ever.
DELAYS = (0.25, 0.5, 1.0, 2.0)
# A Retry-After beyond this is not waited for: the matrix wants to know when things work again.
LONGEST_DELAY = 5.0
ACCEPTED = (200, 202)


class Sent(msgspec.Struct, kw_only=True):
    """One webhook: the cell it belongs to, and what became of it. `delivery` is the id it was accepted under, once it was."""

    cell: str
    event: str
    sender_delivery: str
    delivery: str | None = None
    refusal: str | None = None
    unavailable: int = 0
    unanswered: int = 0


class Address(msgspec.Struct, frozen=True):
    """Where webhooks go: a source's URL and its secret."""

    url: str
    secret: str


class Sender:
    """Sends webhooks and remembers every one."""

    def __init__(self, session: aiohttp.ClientSession, patience: float) -> None:
        """`patience` is for how many seconds one webhook is tried."""
        self._session = session
        self._patience = patience
        self.sent: list[Sent] = []

    async def stream(self, cell: str, address: Address, events: Iterator[str], rate: float) -> None:
        """Send one webhook per event, `rate` a second whatever becomes of the others; returns when each has its answer."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number, event in enumerate(events):
                # A steady flow is made by the clock: nothing else says when the next one is due.
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
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
        tries: Counter[str] = Counter()
        try:
            async with asyncio.timeout(self._patience):
                while not await self._tried(sent, address.url, headers, body, tries):
                    pass
        except TimeoutError:
            sent.refusal = f"not accepted within {self._patience:.0f} s: {dict(tries)}"
        return sent

    async def _tried(self, sent: Sent, url: str, headers: dict[str, str], body: bytes, tries: Counter[str]) -> bool:
        """Send once; False when it is to be sent again, after the wait that was asked for."""
        delay = DELAYS[min(sum(tries.values()), len(DELAYS) - 1)]
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN)
            ) as response:
                answer = await response.read()
                if response.status in ACCEPTED:
                    sent.delivery = msgspec.json.decode(answer)["id"]
                    return True
                tries[str(response.status)] += 1
                if response.status < 500 and response.status != 429:
                    sent.refusal = f"{response.status} {answer.decode(errors='replace')[:300]}"
                    return True
                sent.unavailable += 1
                asked = response.headers.get("Retry-After", "")
                if asked.isdecimal():
                    delay = max(delay, min(float(asked), LONGEST_DELAY))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            tries[type(error).__name__] += 1
            sent.unanswered += 1
        await asyncio.sleep(delay)
        return False
