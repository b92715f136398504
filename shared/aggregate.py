"""Aggregates: entities whose truth is their messages on the stream."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar, overload

import msgspec
from nats.aio.client import Client

from shared.batching import MOST_BYTES_TOGETHER, MOST_TOGETHER
from shared.commit import HEADERS_BYTES, Ack, Journal, Stale, outgoing_of
from shared.envelope import Envelope, Sealed, derived_id, open_envelope, open_message
from shared.errors import Conflict, Invalid, PreconditionFailed, TooLarge
from shared.messages.declaration import STREAM_OF_NOUN, Message, checked_key, declaration_of, stream_of
from shared.messages.shards import noun_of
from shared.ordered_reader import OrderedReader
from shared.pull import NO_MESSAGE, StreamError, api_request
from shared.sending import send_batch

# A reader costs as much as some messages that are asked for one by one; most aggregates have fewer.
ONE_BY_ONE = 8
# Each conflict is another writer's success: only an aggregate with as many writers at once takes more tries.
TRIES = 20

M = TypeVar("M", bound=Message)
S = TypeVar("S")


# The type of a stored document under an aggregate's subjects that is no message.
UNREADABLE = "unreadable"


_NEVER = datetime.fromtimestamp(0, UTC)


class Stored(msgspec.Struct, frozen=True):
    """One message of an aggregate: its stream sequence, subject and envelope, whose type is `UNREADABLE` where there is none.

    `document` are its bytes, where it was read from the stream.
    """

    sequence: int
    subject: str
    envelope: Envelope
    document: bytes = b""
    at: datetime = _NEVER
    """When the stream has stored it, where it was asked for by itself."""

    def message(self) -> Message | None:
        """Return the message within; None for an unreadable one, which must not block later ones."""
        try:
            return open_message(self.envelope)
        except Invalid:
            return None


async def history(client: Client, noun: str, key: str, *, after: int = 0) -> AsyncIterator[Stored]:
    """Yield the messages of the aggregate `noun`/`key` after sequence `after`, in order, read from the stream's leader.

    Raises `Unavailable` when the broker does not answer.
    """
    stream, subjects = _place(noun, key)
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


async def since(client: Client, noun: str, key: str, moment: datetime) -> AsyncIterator[Stored]:
    """Yield the messages of the aggregate `noun`/`key` that the stream holds since a moment, in order, up to now.

    Raises `Unavailable` when the broker does not answer.
    """
    stream, subjects = _place(noun, key)
    newest = await _get(client, stream, {"last_by_subj": subjects})
    if newest is None or newest.at < moment:
        return
    batches = OrderedReader(client, stream, filters=(subjects,), since=moment, heartbeats=True).batches()
    async with contextlib.aclosing(batches):
        async for batch in batches:
            if not batch:
                return  # the newest is gone by now
            for delivered in batch:
                yield _stored(delivered.sequence, delivered.subject, delivered.data)
                if delivered.sequence >= newest.sequence:
                    return


async def stored_at(client: Client, stream: str, sequence: int) -> Stored | None:
    """Return the message of a stream at a sequence, or None when the stream no longer holds it."""
    return await _get(client, stream, {"seq": sequence})


async def first(client: Client, noun: str, key: str) -> Stored | None:
    """Return the first message of an aggregate that the stream still has, or None when it has none."""
    stream, subjects = _place(noun, key)
    return await _get(client, stream, {"seq": 1, "next_by_subj": subjects})


async def last(client: Client, noun: str, key: str, verbed: str = ">") -> Stored | None:
    """Return the last message of an aggregate, of one type if it is named, or None when it has none."""
    stream, subjects = _place(noun, key, verbed)
    return await _get(client, stream, {"last_by_subj": subjects})


async def newest(client: Client, *nouns: str, verbed: str = ">") -> int:
    """Return the sequence of the last message, of one type if it is named, of nouns that share a whole stream; 0 for none."""
    found = [await _get(client, STREAM_OF_NOUN[noun], {"last_by_subj": f"{noun}.*.{verbed}"}) for noun in nouns]
    return max((stored.sequence for stored in found if stored is not None), default=0)


def _place(noun: str, key: str, verbed: str = ">") -> tuple[str, str]:
    """Return the stream of an aggregate, and its subjects."""
    return stream_of(noun, checked_key(key)), f"{noun_of(noun, key)}.{key}.{verbed}"


async def _get(client: Client, stream: str, request: dict[str, Any]) -> Stored | None:
    try:
        answer = await api_request(client, f"$JS.API.STREAM.MSG.GET.{stream}", request)
    except StreamError as error:
        if error.code == NO_MESSAGE:
            return None
        raise
    found = answer["message"]
    stored = _stored(int(found["seq"]), found["subject"], base64.b64decode(found.get("data", "")))
    return msgspec.structs.replace(stored, at=datetime.fromisoformat(found["time"]))


def _stored(sequence: int, subject: str, document: bytes) -> Stored:
    """Return the stored message; foreign bytes count as well, because the next append has to expect their sequence."""
    try:
        return Stored(sequence, subject, open_envelope(document), document)
    except Invalid:
        nothing = Envelope(
            id="",
            type=UNREADABLE,
            source="",
            subject=subject.split(".")[1],
            time=_NEVER,
            org="",
            correlationid="",
            data=msgspec.Raw(b"null"),
        )
        return Stored(sequence, subject, nothing)


async def append(client: Client, journal: Journal, sealed: Sealed[Any], expected: int, *, since: int = 0) -> Ack:
    """Append to an aggregate, deciding a conflict by reading: my id is there -> success, else `Conflict`.

    `since` is a sequence up to which the id cannot be: reading starts after it. Raises `Conflict`, `Unavailable`.
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


async def append_together(client: Client, appends: Sequence[tuple[Sealed[Any], int]]) -> int:
    """Append to several aggregates of one stream, or shard, all or nothing; each message comes with the sequence that it expects.

    Returns the sequence of the last one. No aggregate may come twice, nor may this process append to them elsewhere meanwhile.
    Raises `Conflict` when nothing was stored, `Unavailable` when that is unknown, `TooLarge` for more than one batch takes.
    """
    batch = [outgoing_of(client, sealed, expected) for sealed, expected in appends]
    if len(batch) > MOST_TOGETHER or sum(len(one.document) + HEADERS_BYTES for one in batch) > MOST_BYTES_TOGETHER:
        raise TooLarge(f"{len(batch)} messages are more than what the broker stores at once")
    first_sequence = await send_batch(client, batch)
    for sealed, _ in appends:
        if sealed.span is not None:
            sealed.span.finish()
    if first_sequence is None:
        raise Conflict("something of it has changed since: nothing was recorded")
    return first_sequence + len(batch) - 1


def batches(appends: Sequence[tuple[Sealed[Any], int]]) -> Iterator[list[tuple[Sealed[Any], int]]]:
    """Yield messages in their order, as many at a time as `append_together` takes: mostly all."""
    batch: list[tuple[Sealed[Any], int]] = []
    room = MOST_BYTES_TOGETHER
    for one in appends:
        room -= len(one[0].document) + HEADERS_BYTES
        if batch and (room < 0 or len(batch) == MOST_TOGETHER):
            yield batch
            batch, room = [], MOST_BYTES_TOGETHER - len(one[0].document) - HEADERS_BYTES
        batch.append(one)
    if batch:
        yield batch


class Writer(Protocol):
    """The bus as changing an aggregate needs it; `shared.bus.Bus` is one."""

    client: Client
    journal: Journal

    def seal(self, message: M, *, org: str, id: str | None = None) -> Sealed[M]:  # noqa: A002 - the CloudEvents attribute
        """Put a message of this service into its envelope."""


class Changed(msgspec.Struct, Generic[M], frozen=True):
    """A message that is on disk at `sequence`, recorded now or by an earlier sending of the same command."""

    sequence: int
    envelope: Envelope
    message: M


async def advance(
    writer: Writer,
    read: Callable[[], Awaitable[tuple[S, int]]],
    decide: Callable[[S], Awaitable[Sealed[M] | None]],
    *,
    resent: bool = False,
    tries: int = TRIES,
) -> Changed[M] | None:
    """Fold, decide, append; after a conflict fold again. Returns the recorded message, None where `decide` found nothing to do.

    `read` returns the state of the aggregate and the sequence of its last message (0: it has none); `decide` returns the message
    that follows from that state. With `resent` the state read may already hold the message's id, because a command that timed
    out is sent again: then a conflict searches the whole history for it. Raises `Conflict` when others win `tries` times,
    `Unavailable`, and the errors of `read` and `decide`.
    """
    conflict: Conflict | None = None
    for _ in range(tries):
        state, sequence = await read()
        sealed = await decide(state)
        if sealed is None:
            return None
        try:
            ack = await append(writer.client, writer.journal, sealed, sequence, since=0 if resent else sequence)
        except Conflict as error:
            conflict = error
            continue
        return await _as_stored(writer.client, sealed, ack)
    raise Conflict("this is being changed by others faster than it can be changed here; try again") from conflict


@overload
async def change(
    writer: Writer,
    noun: str,
    key: str,
    decide: Callable[[Stored | None], Awaitable[M]],
    *,
    org: str,
    command: str,
    demanded: int | None = None,
) -> Changed[M]: ...


@overload
async def change(
    writer: Writer,
    noun: str,
    key: str,
    decide: Callable[[Stored | None], Awaitable[M | None]],
    *,
    org: str,
    command: str,
    demanded: int | None = None,
) -> Changed[M] | None: ...


async def change(
    writer: Writer,
    noun: str,
    key: str,
    decide: Callable[[Stored | None], Awaitable[M | None]],
    *,
    org: str,
    command: str,
    demanded: int | None = None,
) -> Changed[M] | None:
    """Change the entity `noun`/`key`, whose last message is its whole state, by the command with the id `command`, once.

    `decide` returns the next message for the last one (None: there was never any), or None where there is nothing to do; it is
    called again after a conflict, and not called when the same command recorded the last message: that one is returned.
    `demanded` is the version that must be there (If-Match): the sequence of the last message, 0 for an entity that is not there.
    Raises `PreconditionFailed` when it is another, `Conflict`, `Unavailable`, and the errors of `decide`.
    """
    done: Stored | None = None

    async def decided(before: Stored | None) -> Sealed[M] | None:
        nonlocal done
        if before is not None and before.envelope.id == derived_id(command, before.envelope.type):
            done = before
            return None
        found = version_of(before)
        if demanded not in {None, found}:
            raise PreconditionFailed(f"the {noun} is at version {found}, not {demanded}")
        message = await decide(before)
        if message is None:
            return None
        return writer.seal(message, org=org, id=derived_id(command, declaration_of(message).type_of(message)))

    changed = await advance(writer, lambda: present(writer.client, noun, key), decided, resent=True)
    return changed if done is None else Changed(done.sequence, done.envelope, open_message(done.envelope))


async def present(client: Client, noun: str, key: str) -> tuple[Stored | None, int]:
    """Return the last message of an aggregate and its sequence: for `advance`, where that message is the whole state."""
    stored = await last(client, noun, key)
    return stored, 0 if stored is None else stored.sequence


async def _as_stored(client: Client, sealed: Sealed[M], ack: Ack) -> Changed[M]:
    """Return the stored message with this id: an earlier sending may have recorded another decision than this one."""
    if ack.duplicate:
        stream = declaration_of(sealed.message).stream_of(sealed.envelope.subject)
        stored = await stored_at(client, stream, ack.sequence)
        if stored is not None and stored.envelope.id == sealed.envelope.id:
            return Changed(ack.sequence, stored.envelope, open_message(stored.envelope))
    return Changed(ack.sequence, sealed.envelope, sealed.message)


def version_of(stored: Stored | None) -> int:
    """Return the version of an entity by its last message: 0 where it was never there, is removed, or cannot be read."""
    if stored is None or stored.envelope.type.endswith(".removed") or stored.message() is None:
        return 0
    return stored.sequence
