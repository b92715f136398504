"""Questions and commands in: dead letters of every service, which are listed, replayed and discarded here."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from services.events.deliveries import DeliveryDeps
from services.events.letter_ends import end_letter
from services.events.retries import again, catch_up, publish_again
from shared import aggregate
from shared.asking import Questions
from shared.envelope import derived_id, open_envelope, open_message, rfc3339
from shared.errors import Conflict, Invalid, NotFound
from shared.messages import DeadLettered, LetterDiscarded, LetterReplayed
from shared.questions.declaration import MOST_ITEMS, fitting
from shared.questions.letters import (
    DeadLetterPage,
    DeadLetterView,
    DiscardDeadLetter,
    GetDeadLetter,
    ListDeadLetters,
    ReplayDeadLetter,
)
from shared.runs import RUN_STREAMS


async def list_letters(asked: ListDeadLetters, deps: DeliveryDeps) -> DeadLetterPage:
    """Return a page of dead letters, newest first."""
    limit = asked.page.within(MOST_ITEMS)
    rows = await deps.letters.page(asked.org, asked.status, asked.service, asked.id, asked.page.before(), limit + 1)
    items = fitting([letter_view(row) for row in rows[:limit]])
    more = f"{items[-1].received_at}|{items[-1].id}" if len(rows) > len(items) else None
    return DeadLetterPage(items, more)


async def get_letter(asked: GetDeadLetter, deps: DeliveryDeps) -> DeadLetterView:
    """Return one dead letter with its document. Raises `NotFound`."""
    row = await _row(asked.org, asked.id, deps)
    document = await _document(row, deps)
    try:
        shown: dict[str, Any] = {"document": msgspec.json.decode(document)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        shown = {"document_base64": base64.b64encode(document).decode()}
    return msgspec.structs.replace(letter_view(row), **shown)


async def replay_letter(command: ReplayDeadLetter, deps: DeliveryDeps) -> DeadLetterView:
    """Retry the delivery of a letter's message by the message that is in the letter, however long ago it came."""
    await catch_up(deps)
    row = await _row(command.org, command.letter, deps)
    if row["delivery"] is None:
        raise Conflict(_advice(row))
    # The same for every sender of this command: two at once make one event.
    retry = derived_id(row["id"], "replay", str(row["position"]))
    replayed = LetterReplayed(letter=row["id"], actor=command.actor, delivery=row["delivery"], retry=retry)
    if row["status"] != "open":
        return await _record(command, row, replayed, deps)
    document = await _document(row, deps)
    if not document:
        raise Conflict("its message was too large to be kept within the letter; `millrace deliveries retry` repeats its delivery")
    first = open_envelope(document)
    delivery = await deps.store.delivery(row["org"], row["delivery"])
    events = [event async for event in again(first, deps, retry=retry, row=delivery)]
    await publish_again(events, first, deps)
    return await _record(command, row, replayed, deps)


async def discard_letter(command: DiscardDeadLetter, deps: DeliveryDeps) -> DeadLetterView:
    """Record that nothing more is to come of a dead letter."""
    row = await _row(command.org, command.letter, deps)
    return await _record(command, row, LetterDiscarded(letter=row["id"], actor=command.actor), deps)


async def _record(
    command: ReplayDeadLetter | DiscardDeadLetter, row: RowMapping, wanted: LetterReplayed | LetterDiscarded, deps: DeliveryDeps
) -> DeadLetterView:
    """Record the end of a letter and return it. Raises `Conflict` for one that has its end."""
    changed = await end_letter(row, wanted, deps.bus, command=command.id)
    ended: Any = changed.message
    status = "replayed" if isinstance(ended, LetterReplayed) else "discarded"
    at = rfc3339(changed.envelope.time)
    return msgspec.structs.replace(letter_view(row), status=status, changed_by=ended.actor, changed_at=at)


async def _row(org: str, id_: str, deps: DeliveryDeps) -> RowMapping:
    row = await deps.letters.get(org, id_)
    if row is None:
        raise NotFound(f"there is no dead letter {id_}")
    return row


async def _document(row: RowMapping, deps: DeliveryDeps) -> bytes:
    """Return the message of a letter as it was; empty where it was too large to be kept."""
    stored = await aggregate.stored_at(deps.bus.client, "DEAD", row["position"])
    if stored is None:
        raise NotFound(f"dead letter {row['id']} is no longer on the bus")
    try:
        return base64.b64decode(open_message(stored.envelope, DeadLettered).document_base64)
    except (Invalid, ValueError) as error:
        raise Conflict(f"dead letter {row['id']} cannot be read: {error}") from error


def _advice(row: RowMapping) -> str:
    if row["stream"] in RUN_STREAMS and row["consumer"].startswith("executor-runs"):
        return f"a run is not handled again: `millrace runs rerun {row['key']}` asks for another one"
    if row["consumer"].startswith(f"{row['service']}."):
        return "no row could be made of this message, and nothing but rows: `millrace rebuild` makes them anew"
    return f"no delivery is known for this message ({row['type']}); only those of deliveries can be handled again"


def letter_view(row: RowMapping) -> DeadLetterView:
    """Return a dead letter without its document."""
    names = ("id", "org", "service", "consumer", "type", "status", "error", "reason", "tries", "stream", "sequence", "key")
    return DeadLetterView(
        **{name: row[name] for name in (*names, "message", "delivery", "correlation_id", "changed_by")},
        received_at=rfc3339(row["received_at"]),
        changed_at=None if row["changed_at"] is None else rfc3339(row["changed_at"]),
    )


QUESTIONS: Questions = {
    ListDeadLetters: list_letters,
    GetDeadLetter: get_letter,
    ReplayDeadLetter: replay_letter,
    DiscardDeadLetter: discard_letter,
}
