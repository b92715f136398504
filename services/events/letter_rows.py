"""Rows of dead letters: made of the stream DEAD, read for questions."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.store import in_turns, texts
from services.events.tables import dead_letter, delivery
from shared.db import transaction
from shared.envelope import Envelope, open_envelope, open_message
from shared.errors import Invalid
from shared.messages import DeadLettered, EventAccepted, LetterDiscarded, LetterReplayed, WebhookReceived
from shared.messages.declaration import Message
from shared.projected import Recorded
from shared.statements import Compiled, Statement, given, inserted, overwriting

EVERY_ORG = "*"

_D, _L = delivery.c, dead_letter.c
_MADE = [column.name for column in _L if column.name not in {"changed_by", "changed_at"}]
# One that was replayed and died again is open again.
_PUT = Compiled(overwriting(inserted(dead_letter, *_MADE), *_MADE, changed_by=None, changed_at=None))
_ENDED = given(_L.id, _L.status, _L.changed_by, _L.changed_at)
_END = Compiled(
    update(dead_letter)
    .where(_L.id == _ENDED.c.id)
    .values(status=_ENDED.c.status, changed_by=_ENDED.c.changed_by, changed_at=_ENDED.c.changed_at)
)


class LetterRows:
    """Reads of dead letters. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, org: str, id_: str) -> RowMapping | None:
        """Return one dead letter of an organization, or of any."""
        statement = select(dead_letter).where(_L.id == id_)
        rows = await self._all(statement if org == EVERY_ORG else statement.where(_L.org == org))
        return rows[0] if rows else None

    async def open_of(self, org: str, delivery: str) -> list[RowMapping]:
        """Return the letters of a delivery that have no end yet."""
        return await self._all(select(dead_letter).where(_L.org == org, _L.delivery == delivery, _L.status == "open"))

    async def retried(self, before: datetime, limit: int, *, besides: Collection[str]) -> list[RowMapping]:
        """Return open letters of deliveries that were retried since, but before a time: those of each organization in turn."""
        of = and_(_D.id == _L.delivery, _D.retried_by.is_not(None), _D.accepted_at > _L.received_at, _D.accepted_at < before)
        found = in_turns(_L.id, _L.org, _L.received_at).join(delivery, of)
        found = found.where(_L.status == "open", _L.delivery.is_not(None), _L.id.not_in(texts(besides)))
        return await self._all(select(dead_letter).where(_L.id.in_(found.limit(limit))))

    async def page(
        self,
        org: str,
        status: str | None,
        service: str | None,
        prefix: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[RowMapping]:
        """Return dead letters, newest first, before (received_at, id)."""
        statement = select(dead_letter).order_by(_L.received_at.desc(), _L.id.desc()).limit(limit)
        for column, value in ((_L.org, None if org == EVERY_ORG else org), (_L.status, status), (_L.service, service)):
            if value is not None:
                statement = statement.where(column == value)
        if prefix is not None:
            statement = statement.where(func.starts_with(_L.id, prefix))
        if before is not None:
            statement = statement.where(tuple_(_L.received_at, _L.id) < before)
        return await self._all(statement)

    async def _all(self, statement: Any) -> list[RowMapping]:
        async with transaction(self._engine) as connection:
            return list((await connection.execute(statement)).mappings().all())


def original_of(letter: DeadLettered) -> tuple[Envelope | None, Message | None]:
    """Return the envelope and the message of a letter, as far as they can be read."""
    try:
        envelope = open_envelope(base64.b64decode(letter.document_base64))
    except (Invalid, ValueError):
        return None, None
    try:
        return envelope, open_message(envelope)
    except Invalid:
        return envelope, None


def letter_statement(at: Recorded) -> Statement | None:
    """Return the statement of a message of DEAD about its letter; None where it is about none."""
    message = at.message
    if isinstance(message, DeadLettered):
        return _PUT.of([_row(at, message)])
    if isinstance(message, LetterReplayed | LetterDiscarded):
        status = "replayed" if isinstance(message, LetterReplayed) else "discarded"
        row = {"id": message.letter, "status": status, "changed_by": message.actor, "changed_at": at.envelope.time}
        return _END.of([row])
    return None


def _row(at: Recorded, letter: DeadLettered) -> dict[str, Any]:
    envelope, original = original_of(letter)
    tokens = letter.subject.split(".")
    # A message that a projection could not make a row of was handled all the same: no delivery waits for it.
    handled = letter.place is not None or not isinstance(original, WebhookReceived | EventAccepted)
    return {
        "id": at.envelope.id,
        "org": at.envelope.org,
        "service": letter.service,
        "consumer": letter.consumer,
        "type": letter.verb,
        "status": "open",
        "error": letter.error,
        "reason": letter.reason,
        "tries": letter.tries,
        "received_at": at.envelope.time,
        "stream": letter.stream,
        "sequence": letter.sequence,
        "key": tokens[1] if len(tokens) > 1 else "",
        "message": None if envelope is None else envelope.id,
        "delivery": None if handled else getattr(original, "delivery", None),
        "correlation_id": at.envelope.correlationid,
        "position": at.delivered.sequence,
    }


def letter_statements(batch: Sequence[Recorded]) -> list[Statement]:
    """Return the statements of messages of DEAD about their letters, in order."""
    return [made for at in batch if (made := letter_statement(at)) is not None]
