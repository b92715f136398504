"""Aggregates: entities whose truth is their messages on the stream."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.client import Client

from shared.commit import Ack, Journal, Stale
from shared.envelope import Envelope, Sealed, open_envelope, open_message
from shared.errors import Conflict, Invalid
from shared.messages.declaration import STREAM_OF_NOUN, Message, checked_key, declaration_of
from shared.pull import OrderedReader, StreamError, api_request

# A reader costs as much as some messages that are asked for one by one; most aggregates have fewer.
ONE_BY_ONE = 8
_NO_MESSAGE = 10037  # nats-server server/errors.json: no message found


# The type of what is stored under an aggregate's subjects and is no message at all.
UNREADABLE = "unreadable"


class Stored(msgspec.Struct, frozen=True):
    """One message of an aggregate: its stream sequence, subject and envelope, whose type is `UNREADABLE` where there is none."""

    sequence: int
    subject: str
    envelope: Envelope

    def message(self) -> Message | None:
        """Return the message within; None for what cannot be read, which is to stand in the way of nothing that comes after it."""
        try:
            return open_message(self.envelope)
        except Invalid:
            return None


async def history(client: Client, noun: str, key: str, *, after: int = 0) -> AsyncIterator[Stored]:
    """Yield the messages of the aggregate `noun`/`key` after sequence `after`, in order, read from the stream's leader.

    Raises `Unavailable` when the broker does not answer.
    """
    stream = STREAM_OF_NOUN[noun]
    subjects = f"{noun}.{checked_key(key)}.>"
    sequence = after
    for _ in range(ONE_BY_ONE):
        found = await _get(client, stream, {"seq": sequence + 1, "next_by_subj": subjects})
        if found is None:
            return
        sequence = found.sequence
        yield found
    newest = await _get(client, stream, {"last_by_subj": subjects})
    if newest is None or newest.sequence <= sequence:
        return
    batches = OrderedReader(client, stream, filters=(subjects,), after=sequence).batches()
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for delivered in batch:
                yield _stored(delivered.sequence, delivered.subject, delivered.data)
                if delivered.sequence >= newest.sequence:
                    return


async def stored_at(client: Client, stream: str, sequence: int) -> Stored | None:
    """Return the message of a stream at a sequence, or None when the stream no longer holds it."""
    return await _get(client, stream, {"seq": sequence})


async def first(client: Client, noun: str, key: str) -> Stored | None:
    """Return the first message of an aggregate that the stream still has, or None when it has none."""
    return await _get(client, STREAM_OF_NOUN[noun], {"seq": 1, "next_by_subj": f"{noun}.{checked_key(key)}.>"})


async def last(client: Client, noun: str, key: str, verbed: str = ">") -> Stored | None:
    """Return the last message of an aggregate, of one type if it is named, or None when it has none."""
    return await _get(client, STREAM_OF_NOUN[noun], {"last_by_subj": f"{noun}.{checked_key(key)}.{verbed}"})


async def _get(client: Client, stream: str, request: dict[str, Any]) -> Stored | None:
    try:
        answer = await api_request(client, f"$JS.API.STREAM.MSG.GET.{stream}", request)
    except StreamError as error:
        if error.code == _NO_MESSAGE:
            return None
        raise
    found = answer["message"]
    return _stored(int(found["seq"]), found["subject"], base64.b64decode(found.get("data", "")))


def _stored(sequence: int, subject: str, document: bytes) -> Stored:
    """Return what stands there; what no service of ours wrote has a place all the same, which the next one has to expect."""
    try:
        return Stored(sequence, subject, open_envelope(document))
    except Invalid:
        nothing = Envelope(
            id="",
            type=UNREADABLE,
            source="",
            subject=subject.split(".")[1],
            time=datetime.fromtimestamp(0, UTC),
            org="",
            correlationid="",
            data=msgspec.Raw(b"null"),
        )
        return Stored(sequence, subject, nothing)


async def append(client: Client, journal: Journal, sealed: Sealed[Any], expected: int, *, since: int = 0) -> Ack:
    """Append to an aggregate, deciding a conflict by reading: my id is there -> success, else `Conflict`.

    `since` is a sequence up to which the id cannot be: what is before it is not read. Raises `Conflict`, `Unavailable`.
    """
    try:
        return await journal.append(sealed, expected)
    except Stale:
        pass
    declared = declaration_of(sealed.message)
    async for stored in history(client, declared.noun, declared.key(sealed.message), after=since):
        if stored.envelope.id == sealed.envelope.id:
            return Ack(stored.sequence, duplicate=True)
    raise Conflict(f"{declared.noun} {sealed.envelope.subject} has changed since: {sealed.envelope.type} was not recorded")
