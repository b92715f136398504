"""Commands in: messages of deliveries and dead letters are erased, with what rows repeat of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from sqlalchemy import case, literal_column, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.events.deliveries import DeliveryDeps
from services.events.retries import catch_up
from services.events.store import FORGOTTEN
from services.events.tables import dead_letter, delivery, delivery_outcome, delivery_run, held
from shared.asking import Questions
from shared.blobs import Blobs
from shared.db import transaction
from shared.envelope import utc_now
from shared.erasing import erase_messages
from shared.errors import Unavailable
from shared.questions.erasing import EraseInEvents, Needed
from shared.runs import RUN_STREAMS

# In place of what said why a delivery or a letter failed: that it did is still shown.
ERASED = "erased"
_STREAMS = frozenset({"WEBHOOKS", "EVENTS", "DEAD"})


class DeliveryErasingDeps(DeliveryDeps, Protocol):
    """Dependencies of erasing."""

    engine: AsyncEngine
    bodies: Blobs


async def erase(command: EraseInEvents, deps: DeliveryErasingDeps) -> Needed:
    """Erase messages, unless their delivery goes on or their letter is open, and bodies. Raises `Unavailable`."""
    whose = {one.of for one in command.messages if one.of is not None}
    reasons: dict[str, str] = {}
    if whose:
        if not await catch_up(deps, {command.stream}):
            raise Unavailable(f"the rows of {command.stream} are behind")
        async with transaction(deps.engine) as connection:
            reasons = await _needed(connection, command.stream, whose)
            await _forget(connection, command.stream, whose - set(reasons))
    needed = {one.seq: reasons[one.of] for one in command.messages if one.of in reasons}
    if command.stream in _STREAMS:
        sequences = [one.seq for one in command.messages if one.seq not in needed]
        await erase_messages(deps.bus.client, command.stream, command.incarnation, sequences)
    for blob in command.blobs:
        await deps.bodies.remove(blob)
    return Needed(needed)


async def _needed(connection: AsyncConnection, stream: str, whose: Collection[str]) -> dict[str, str]:
    """Return the deliveries or letters whose messages are needed, and for what."""
    if stream not in _STREAMS:
        return {}
    letter = dead_letter.c
    of = letter.id if stream == "DEAD" else letter.delivery
    found = await connection.execute(select(of).where(of.in_(whose), letter.status == "open"))
    reasons = dict.fromkeys(found.scalars(), "a dead letter of it is open: replay or discard it first")
    if stream != "DEAD":
        # A delivery whose events are held, or wait for another try, shows how far it is by now: as one that has ended.
        due = delivery.c.retry_at > utc_now() - FORGOTTEN
        for needing, why in (
            (select(held.c.delivery).where(held.c.delivery.in_(whose)), "a subscription holds an event of the delivery {}"),
            (select(delivery.c.id).where(delivery.c.id.in_(whose), due), "the delivery {} is to be tried again"),
            (
                select(delivery.c.id).where(delivery.c.id.in_(whose), ~delivery.c.ended, delivery.c.dead.is_(None)),
                "the delivery {} has not ended",
            ),
        ):
            reasons |= {id_: why.format(id_) for id_ in (await connection.execute(needing)).scalars()}
    return reasons


async def _forget(connection: AsyncConnection, stream: str, whose: Collection[str]) -> None:
    """Remove from rows what a message says of its reasons."""
    if stream in RUN_STREAMS:
        await connection.execute(update(delivery_run).where(delivery_run.c.run.in_(whose)).values(error=None, reason=None))
    elif stream == "DEAD":
        await connection.execute(update(dead_letter).where(dead_letter.c.id.in_(whose)).values(error=ERASED))
    else:
        dead = case((delivery.c.dead.is_not(None), literal_column(f"'{ERASED}'")), else_=null())
        await connection.execute(update(delivery).where(delivery.c.id.in_(whose)).values(reason=None, dead=dead))
        await connection.execute(update(delivery_outcome).where(delivery_outcome.c.delivery.in_(whose)).values(reason=None))


QUESTIONS: Questions = {EraseInEvents: erase}
