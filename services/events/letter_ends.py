"""Ends of dead letters on record: each is replayed or discarded once."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import RowMapping

from shared import aggregate
from shared.bus import Bus
from shared.envelope import derived_id
from shared.errors import Conflict
from shared.messages import LetterDiscarded, LetterReplayed, Message

_log = structlog.get_logger()


async def end_letter(
    row: RowMapping, wanted: LetterReplayed | LetterDiscarded, bus: Bus, *, command: str
) -> aggregate.Changed[Message]:
    """Record the end of an open letter, once. Raises `Conflict` for one that has its end; one that died again has none."""

    async def decide(before: aggregate.Stored | None) -> Message:
        if before is not None and before.sequence > row["position"]:
            verb = before.envelope.type.partition(".")[2]
            advice = ""
            if isinstance(wanted, LetterReplayed):
                advice = f": `millrace deliveries retry {wanted.delivery}` routes its delivery again, with --all to all"
            raise Conflict(f"dead letter {row['id']} was {verb} already{advice}")
        return wanted

    return await aggregate.change(bus, "letter", row["id"], decide, org=row["org"], command=command)


async def end_repaired(letters: Sequence[RowMapping], bus: Bus, *, retry: str, actor: str) -> None:
    """Record of the open letters of a delivery that `retry` has made its events."""
    for row in letters:
        replayed = LetterReplayed(letter=row["id"], actor=actor, delivery=row["delivery"], retry=retry)
        try:
            await end_letter(row, replayed, bus, command=derived_id(retry, "letter", row["id"]))
        except Conflict:
            _log.info("letter.ended_meanwhile", letter=row["id"])
