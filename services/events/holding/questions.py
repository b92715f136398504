"""Questions in: what subscriptions hold."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.holding import state
from shared.asking import Questions
from shared.envelope import rfc3339
from shared.errors import NotFound
from shared.owners.rows import ResourceRows
from shared.questions import MOST_ITEMS
from shared.questions.events import HeldKey, ListHeld


class HoldingDeps(Protocol):
    """Dependencies of the answers."""

    engine: AsyncEngine
    resources: ResourceRows


async def list_held(asked: ListHeld, deps: HoldingDeps) -> list[HeldKey]:
    """Return the keys of which a subscription holds events. Raises `NotFound`."""
    subscription = await deps.resources.named("subscription", asked.org, asked.name)
    if subscription is None:
        raise NotFound(f"there is no subscription {asked.name!r}")
    rows = await state.listed(deps.engine, subscription.id, MOST_ITEMS)
    return [HeldKey(**row | {"since": rfc3339(row["since"])}) for row in rows]


QUESTIONS: Questions = {ListHeld: list_held}
