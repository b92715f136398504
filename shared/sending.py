"""Sends messages to JetStream, alone or as one atomic batch (NATS ADR-50)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from shared.batching import MAX_MESSAGES
from shared.client import unique_name, write
from shared.errors import TooLarge, Unavailable

# Time for a commit, after which its outcome counts as unknown. Longer than a caller waits: an ack that comes late is
# remembered, and the caller's next try is answered by it.
COMMIT_TIMEOUT = 5.0
# nats-server server/errors.json: "duplicate id in flight" on a replicated stream: its first sending is not decided yet.
IN_FLIGHT = 10158
IN_FLIGHT_PAUSE = 0.05
# Likewise: "atomic publish batch is too large". Nothing of it is stored.
TOO_LARGE = 10199

_ack_decoder = msgspec.json.Decoder()


class Outgoing(msgspec.Struct):
    """A message on its way: its subject, its bytes, and the headers that the broker checks."""

    subject: str
    document: bytes
    headers: dict[str, str]


async def send_batch(client: Client, batch: Sequence[Outgoing]) -> int | None:
    """Store messages in their order without anything in between; returns the first one's sequence, None when all were refused.

    Raises `Unavailable` when the outcome is unknown, `TooLarge` for more than every broker takes where this one does not take it.
    """
    name = unique_name()
    with _unconfirmed():
        _check_connected(client)
        # One write for all but the last, which asks for the answer: the client's own publish encodes each anew and costs
        # more than all the rest of a commit.
        leading = b"".join(_hpub(outgoing, name, number) for number, outgoing in enumerate(batch[:-1], start=1))
        await write(client, leading)
        last = batch[-1]
        headers = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(len(batch)), "Nats-Batch-Commit": "1"}
        msg = await client.request(last.subject, last.document, timeout=COMMIT_TIMEOUT, headers=last.headers | headers)
    answer = _ack_decoder.decode(msg.data)
    if len(batch) > MAX_MESSAGES and answer.get("error", {}).get("err_code") == TOO_LARGE:
        setting = "jetstream.limits.batch.max_msgs"
        raise TooLarge(f"the broker does not take {len(batch)} messages at once: raise {setting} in its configuration")
    if "error" in answer or answer.get("count") != len(batch):
        return None
    return int(answer["seq"]) - len(batch) + 1


async def send_one(client: Client, outgoing: Outgoing) -> dict[str, Any]:
    """Send a message and return the broker's answer, an ack or an `error`. Raises `Unavailable` when the outcome is unknown."""
    while True:
        with _unconfirmed():
            _check_connected(client)
            msg = await client.request(outgoing.subject, outgoing.document, timeout=COMMIT_TIMEOUT, headers=outgoing.headers)
        answer: dict[str, Any] = _ack_decoder.decode(msg.data)
        if answer.get("error", {}).get("err_code") != IN_FLIGHT:
            return answer
        await asyncio.sleep(IN_FLIGHT_PAUSE)


@contextlib.contextmanager
def _unconfirmed() -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Unavailable(f"the broker did not confirm the message: {type(error).__name__}") from error


def _check_connected(client: Client) -> None:
    if not client.is_connected:
        # The client would buffer and store it later, after this refusal.
        raise Unavailable("the broker is not connected")


def _hpub(outgoing: Outgoing, batch: str, number: int) -> bytes:
    """Return one HPUB of the NATS client protocol (docs.nats.io, "Client Protocol"); nothing within needs escaping."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in outgoing.headers.items())
    head = f"NATS/1.0\r\n{fields}Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n\r\n".encode()
    document = outgoing.document
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (outgoing.subject.encode(), len(head), len(head) + len(document), head, document)
