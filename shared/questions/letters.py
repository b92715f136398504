"""Questions and commands to the events service about dead letters."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shared.questions.declaration import Command, Page, Question, command, question
from shared.values import Key, Name

LetterStatus = Literal["open", "replayed", "discarded"]


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a consumer gave up: `message` is its id and `type` its type, `stream` and `sequence` are its place.

    `status` is open until `changed_by` replayed or discarded the letter. `delivery` is the message's delivery, if it has one.
    `document` is the message as it was, in a list None; where that is no JSON `document_base64` has its bytes.
    """

    id: str
    org: str
    service: str
    consumer: str
    type: str
    status: LetterStatus
    error: str
    reason: str
    tries: int
    received_at: str
    stream: str
    sequence: int
    key: str
    message: str | None
    delivery: str | None
    correlation_id: str
    changed_by: str | None
    changed_at: str | None
    document: Any = None
    document_base64: str | None = None


class DeadLetterPage(msgspec.Struct, frozen=True):
    """A page of dead letters, newest first."""

    items: list[DeadLetterView]
    next_cursor: str | None


@question("events.dead_letters", by="gateway")
class ListDeadLetters(Question[DeadLetterPage], frozen=True, kw_only=True):
    """Dead letters of an organization (`*`: of all), newest first; `status`, `service` and how the `id` begins narrow them."""

    page: Page = Page()
    status: Name | None = None
    service: Name | None = None
    id: Name | None = None


@question("events.dead_letter", by="gateway")
class GetDeadLetter(Question[DeadLetterView], frozen=True, kw_only=True):
    """One dead letter, with its document. Raises NotFound."""

    id: Key


@command("events.replay_letter", by="gateway")
class ReplayDeadLetter(Command[DeadLetterView], frozen=True, kw_only=True):
    """Handle the message of a dead letter again, as events of its delivery that is retried.

    Raises NotFound; Conflict where that was done, where it was discarded, or where its message is of no delivery; Invalid where it
    still cannot be handled.
    """

    letter: Key


@command("events.discard_letter", by="gateway")
class DiscardDeadLetter(Command[DeadLetterView], frozen=True, kw_only=True):
    """Put a dead letter aside for good; it stays listed as discarded. Raises NotFound, Conflict where it is not open."""

    letter: Key
