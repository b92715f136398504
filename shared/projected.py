"""The declaration of a projection: rows made of messages."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from shared.db import Connection
from shared.envelope import Envelope, open_envelope, open_message
from shared.messages.declaration import Message, class_of
from shared.messages.shards import in_shard, subject_in
from shared.pull import Delivered
from shared.runs import RUN_STREAMS, RUNS
from shared.statements import Copy, Statement


class Recorded(msgspec.Struct, frozen=True):
    """A message as a projection gets it: decoded, with its place in the stream. `message` is None for an unknown type."""

    delivered: Delivered
    envelope: Envelope
    message: Message | None
    incarnation: str


# The statements of a batch, as the stream holds it (incarnation second): to be run in this order together with the checkpoint's
# move. The connection is for reading rows that they depend on, which have no other writer.
Apply = Callable[[Sequence[Delivered], str, Connection], Awaitable[Sequence[Statement | Copy]]]
# Keeps the bytes of a message, as the stream holds it, of which nothing else can be made, in the transaction of the checkpoint.
Keep = Callable[[Delivered, str, Connection], Awaitable[None]]
# Whether a document is of an organization that was removed, and was written before that.
IsPast = Callable[[bytes], Awaitable[bool]]
# An item of a service's PROJECTIONS map: a message class and the statements for one message.
PerMessage = Callable[[Any, Recorded], Awaitable[Statement]]
Projections = Mapping[type[Message], PerMessage]


class Projected(msgspec.Struct, frozen=True, kw_only=True):
    """A projection, independent of its place: the messages that it reads, their effect, and the rows that follow.

    `name` is unique within the service. `rows` narrows `tables` to this projection's own rows where it has a part of a table:
    a condition over `:stream`, `:incarnation` and `:first`, the first sequence that the stream still holds. `born` is for rows
    that go on when their messages are purged: the filter of the first message of each, whose key is the row's `id`; `rows` then
    are those of which nothing was purged. Messages within `linger` seconds are written together; one of a type in
    `prompt`, the last of its key, is written at once while none is expected of others.
    """

    name: str
    stream: str
    apply: Apply
    tables: tuple[str, ...]
    rows: str | None = None
    born: str | None = None
    filters: tuple[str, ...] = ()
    batch: int = 500
    keep: Keep | None = None
    linger: float = 0.0
    prompt: frozenset[str] = frozenset()


def one_by_one(projections: Projections) -> Apply:
    """Return an `Apply` that gives each message to the function of its class; others are passed over."""

    async def apply(batch: Sequence[Delivered], incarnation: str, _connection: Connection) -> Sequence[Statement]:
        statements: list[Statement] = []
        for delivered in batch:
            recorded = recorded_of(delivered, incarnation)
            function = projections.get(type(recorded.message)) if recorded.message is not None else None
            if function is not None:
                statements.append(await function(recorded.message, recorded))
        return statements

    return apply


def in_batches(function: Callable[[Sequence[Recorded], Connection], Awaitable[Sequence[Statement]]]) -> Apply:
    """Return an `Apply` that gives a whole batch, decoded, to `function`; types that are unknown here are passed over."""

    async def apply(batch: Sequence[Delivered], incarnation: str, connection: Connection) -> Sequence[Statement]:
        recorded = [recorded_of(delivered, incarnation) for delivered in batch]
        return await function([one for one in recorded if one.message is not None], connection)

    return apply


def without(apply: Apply, is_past: IsPast) -> Apply:
    """Return an `Apply` that passes over what is past; bytes that are no envelope are not, and met by what follows."""

    async def present(batch: Sequence[Delivered], incarnation: str, connection: Connection) -> Sequence[Statement | Copy]:
        kept = [one for one in batch if not await is_past(one.data)]
        return await apply(kept, incarnation, connection) if kept else ()

    return present


def in_shards(one: Projected) -> list[Projected]:
    """Return the projection of each shard of a stream, declared as that of the first one: each has a name of its own.

    What `apply` keeps in memory is shared by them.
    """
    shards = len(RUN_STREAMS) if one.stream == RUNS else 1
    return [
        msgspec.structs.replace(
            one,
            name=in_shard(one.name, shard),
            stream=in_shard(one.stream, shard),
            filters=tuple(subject_in(subjects, shard) for subjects in one.filters),
            born=None if one.born is None else subject_in(one.born, shard),
        )
        for shard in range(shards)
    ]


def recorded_of(delivered: Delivered, incarnation: str) -> Recorded:
    """Decode a delivered message. Raises `Invalid` for bytes that are no envelope, or hold no message of its type."""
    envelope = open_envelope(delivered.data)
    message: Message | None = None if class_of(envelope.type) is None else open_message(envelope)
    return Recorded(delivered, envelope, message, incarnation)


class _Traced(msgspec.Struct):
    type: str = ""
    traceparent: str | None = None


_traced = msgspec.json.Decoder(_Traced)


def traces_of(batch: Sequence[Delivered], since: datetime) -> Iterator[tuple[str, str]]:
    """Yield the type and the `traceparent` of each message, stored after a moment, that is part of a trace."""
    for one in batch:
        if one.time < since or b'"traceparent"' not in one.data:
            continue
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = _traced.decode(one.data)
            if found.traceparent is not None and class_of(found.type) is not None:
                yield found.type, found.traceparent
