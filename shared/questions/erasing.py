"""Commands that erase messages for good: for a person's right to it."""

from __future__ import annotations

import msgspec

from shared.questions.declaration import Command, command
from shared.values import Expression, Instant, Name, Opaque, Sequence, Words


class KeptMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was not erased, and why."""

    stream: str
    seq: int
    type: str
    reason: str


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages were erased, and those that were not; `next_cursor` is where to go on, None at the end."""

    erased: int
    kept: list[KeptMessage]
    next_cursor: str | None


@command("logs.erase", by="gateway", timeout=120.0)
class EraseMessages(Command[Erased], frozen=True, kw_only=True):
    """Erase the messages that `q` matches, oldest first, a part of them from `cursor` on; `everything`: of all organizations.

    What is erased: the bytes on the broker, in the archive and in the object store, the salt of the digest's entry and its copies,
    and what the rows of other services repeat. Raises Invalid as a search does.
    """

    q: Expression
    reason: Words
    everything: bool = False
    since: Instant | None = None
    until: Instant | None = None
    cursor: Opaque | None = None


class ErasedMessage(msgspec.Struct, frozen=True):
    """A message by its sequence, and whose it is: the id of its run, its delivery or its dead letter, if it has one."""

    seq: Sequence
    of: Name | None = None


class Needed(msgspec.Struct, frozen=True):
    """Messages that are still needed, by sequence, each with a sentence that says for what."""

    reasons: dict[int, str]


class EraseOwned(Command[Needed], frozen=True, kw_only=True):
    """Erase messages of a stream, with what the owner's rows repeat of them, unless they are needed; and blobs of its bucket.

    May be repeated.
    """

    stream: Name
    incarnation: Name
    messages: list[ErasedMessage] = msgspec.field(default_factory=list)
    blobs: list[Name] = msgspec.field(default_factory=list)


@command("events.erase", by="logs", timeout=30.0)
class EraseInEvents(EraseOwned, frozen=True, kw_only=True):
    """Of WEBHOOKS, EVENTS and DEAD, and the bucket `bodies`; of RUNS what deliveries show of runs."""


@command("executor.erase", by="logs", timeout=30.0)
class EraseInExecutor(EraseOwned, frozen=True, kw_only=True):
    """Of RUNS and LINES, and the bucket `results`."""
