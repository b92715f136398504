"""Commands in: an organization is removed with its sources, deliveries, schedules, replays and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.replays import ReplayDeps, cancel_replay
from services.events.tables import metadata, registration, replay
from shared.asking import Questions
from shared.blobs import Blobs
from shared.db import transaction
from shared.envelope import derived_id, utc_now
from shared.errors import Conflict, NotFound
from shared.owners.answering import Keepers
from shared.owners.removing import Deadline, Rows, are_level, erase_of_organization, remove_resources, resources_of
from shared.projection import Projection
from shared.questions.removing import EraseInEventsOf, Left, RemoveInEvents
from shared.questions.replays import CancelReplay
from shared.values import moment_of

# Seconds from the beginning of a removal for which senders may be asked to end what they send: one that does not answer keeps
# nothing for ever, and its webhooks are answered 410.
UNSUBSCRIBED_WITHIN = timedelta(seconds=120)
_OF_DELIVERY = "delivery IN (SELECT id FROM delivery WHERE org = :org)"
_OF_SUBSCRIPTION = "subscription IN (SELECT id FROM resource WHERE org = :org AND noun = 'subscription')"
BESIDES = {
    "delivery_event": _OF_DELIVERY,
    "delivery_outcome": _OF_DELIVERY,
    "delivery_run": _OF_DELIVERY,
    "held": "org = :org OR run_org = :org",
    "held_group": _OF_SUBSCRIPTION,
    "schedule_state": "id IN (SELECT id FROM resource WHERE org = :org AND noun = 'schedule')",
}
COUNTED = ("delivery", "dead_letter", "held")


class EventsRemovingDeps(ReplayDeps, Keepers, Protocol):
    """Dependencies of removing."""

    engine: AsyncEngine
    bodies: Blobs
    projections: Mapping[str, Projection]


async def remove(command: RemoveInEvents, deps: EventsRemovingDeps) -> Left:
    """Do a part of a step. Raises `Unavailable`."""
    org, deadline = command.organization, Deadline()
    rows = Rows(deps.engine, metadata, BESIDES)
    if command.step == "count":
        return Left(await rows.count(org, COUNTED))
    if command.step == "stop":
        return Left(await _stop(command, deps, deadline))
    # Timers make no rows, and of their stream single messages are not looked up.
    behind = await are_level([one for one in deps.projections.values() if one.stream != "TIMERS"])
    return Left(behind or await rows.delete(org, deadline))


async def _stop(command: RemoveInEvents, deps: EventsRemovingDeps, deadline: Deadline) -> dict[str, int]:
    org = command.organization
    left = await remove_resources(command, deps.keepers, await resources_of(deps.engine, org), deadline)
    async with transaction(deps.engine) as connection:
        running = (await connection.execute(select(replay.c.id).where(replay.c.org == org, replay.c.status == "running"))).scalars()
        wanted = select(func.count()).select_from(registration).where(registration.c.org == org)
        registered = int((await connection.execute(wanted)).scalar_one())
        replays = list(running)
    for id_ in replays:
        cancelling = CancelReplay(id=derived_id(command.id, "replay", id_), org=org, actor=command.actor, replay=id_)
        try:
            await cancel_replay(cancelling, deps)
        except (Conflict, NotFound):
            continue
    if replays:
        left["replay"] = len(replays)
    if registered and utc_now() < moment_of(command.began_at) + UNSUBSCRIBED_WITHIN:
        left["registration"] = registered
    return left


async def erase(command: EraseInEventsOf, deps: EventsRemovingDeps) -> Left:
    """Erase messages and bodies. Raises `Unavailable`."""
    return await erase_of_organization(deps.bus.client, command, deps.bodies)


QUESTIONS: Questions = {RemoveInEvents: remove, EraseInEventsOf: erase}
