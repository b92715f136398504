"""Putting messages on disk: the one small interface between what is said and the stream that keeps it.

`Journal.publish` for facts without expectations, `Journal.append` for an aggregate's. What returns is on disk; what raises
`Unavailable` may or may not be: sending the same message again is safe, because its id is the same.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from shared.envelope import CONTENT_TYPE, Sealed
from shared.errors import Unavailable
from shared.messages.declaration import Message, declaration_of

# nats-server server/errors.json: a stale expectation on one server, and the same found by the leader of a replicated stream.
WRONG_LAST_SEQUENCE = (10071, 10164)
# "duplicate id in flight" on a replicated stream: its first sending is not decided yet.
IN_FLIGHT = 10158
IN_FLIGHT_PAUSE = 0.05
# Below the 2 s within which a sender of webhooks is told 503.
ACK_TIMEOUT = 1.8


class Ack(msgspec.Struct, frozen=True):
    """A message is on disk at `sequence`; `duplicate` when the stream knew its id already."""

    sequence: int
    duplicate: bool = False


class Stale(Exception):
    """The aggregate has moved on since the expected sequence; nothing was stored."""


class Refused(Exception):
    """The broker refused a message for a reason that trying again does not change."""


class Journal:
    """Writes messages to their streams, each in a commit of its own."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self, sealed: Sealed[Any], *, timeout: float = ACK_TIMEOUT) -> Ack:
        """Store a message whose id is all that it needs. Raises `Unavailable` (unknown or not stored), `Refused`."""
        return await self._store(sealed, {}, timeout)

    async def append(self, sealed: Sealed[Any], expected: int, *, timeout: float = ACK_TIMEOUT) -> Ack:
        """Store a message of an aggregate if its last message is at `expected` (0: has none).

        Raises `Stale` when it is not, `Unavailable` when unknown, `Refused`. Callers want `shared.aggregate.append`, which
        folds on `Stale`.
        """
        declared = declaration_of(sealed.message)
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "Nats-Expected-Last-Subject-Sequence-Subject": aggregate_filter(sealed.message),
            "Nats-Expected-Stream": declared.stream,
        }
        return await self._store(sealed, headers, timeout)

    async def _store(self, sealed: Sealed[Any], headers: dict[str, str], timeout: float) -> Ack:
        subject = declaration_of(sealed.message).subject(sealed.message)
        all_headers = {"Nats-Msg-Id": sealed.envelope.id, "Content-Type": CONTENT_TYPE, **headers}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            if not self._client.is_connected:
                # The client would buffer and store it later, after we said that we could not.
                raise Unavailable("the broker is not connected")
            try:
                answer = await self._client.request(
                    subject, sealed.document, timeout=max(0.01, deadline - loop.time()), headers=all_headers
                )
            except (nats.errors.Error, TimeoutError, OSError) as error:
                raise Unavailable(f"the broker did not confirm the message: {type(error).__name__}") from error
            ack = json.loads(answer.data)
            refusal = ack.get("error")
            if refusal is None:
                return Ack(int(ack["seq"]), bool(ack.get("duplicate", False)))
            code = refusal.get("err_code", 0)
            if code in WRONG_LAST_SEQUENCE:
                raise Stale(refusal.get("description", ""))
            if code == IN_FLIGHT:
                await asyncio.sleep(IN_FLIGHT_PAUSE)
                continue
            if int(refusal.get("code", 500)) >= 500:
                raise Unavailable(f"the broker cannot take messages now: {refusal.get('description', code)}")
            raise Refused(f"the broker refused {sealed.envelope.type}: {refusal.get('description', code)}")


def aggregate_filter(message: Message) -> str:
    """Return the filter of all expectations of the message's aggregate: always this one, never a narrower."""
    declared = declaration_of(message)
    return f"{declared.noun}.{declared.key(message)}.>"
