"""Ends open dead letters of deliveries that were repaired by a retry which somebody, or the machine, cut off before it said so."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from time import monotonic

import structlog
from sqlalchemy import RowMapping

from services.events.deliveries import DeliveryDeps, begun
from services.events.letter_ends import end_repaired
from services.events.retries import catch_up, events_of, publish_again
from shared.envelope import derived_id, utc_now
from shared.errors import Invalid, MillraceError
from shared.pull import StreamError

# A retry that was begun so lately may go on.
GRACE = timedelta(seconds=60)
# Letters of one look, and those that were looked at and left, with the seconds until they are looked at again.
MOST, REMEMBERED, LEFT_FOR = 200, 10_000, 600.0
# Who ends them: the retry's message does not say who asked for it.
ACTOR = "events"

_log = structlog.get_logger()


class Repairs:
    """Looks for such letters; one replica at a time does it. Whatever is done twice is the same."""

    def __init__(self, deps: DeliveryDeps, *, now: Callable[[], float] = monotonic) -> None:
        self._deps = deps
        self._now = now
        self._left: OrderedDict[str, float] = OrderedDict()

    async def once(self) -> int:
        """End what was repaired; returns how many letters were looked at. Raises `Unavailable`."""
        self._left = OrderedDict((id_, until) for id_, until in self._left.items() if until > self._now())
        found = await self._deps.letters.retried(utc_now() - GRACE, MOST, besides=self._left)
        if found:
            await catch_up(self._deps)
        for row in found:
            try:
                await self._look_at(row)
            except (MillraceError, StreamError) as error:
                _log.warning("letter.not_ended", letter=row["id"], reason=str(error))
            # Ended, its row says so soon.
            self._left[row["id"]] = self._now() + LEFT_FOR
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        return len(found)

    async def _look_at(self, letter: RowMapping) -> None:
        """End a letter if the newest retry of its delivery has made all that it was about. Raises `Invalid`, `Unavailable`."""
        deps = self._deps
        row = await deps.store.delivery(letter["org"], letter["delivery"])
        if row is None or not row["events"]:
            return
        retry = row["retried_by"]
        if letter["stream"] == "EVENTS":
            # It is about one event, which has another id once it was made again.
            if letter["message"] in {derived_id(one["event"], "accepted") for one in row["events"].values()}:
                return
        else:
            first = await begun(row, deps)
            if first is None:
                return
            try:
                events = [event async for event in events_of(first, deps, retry=retry) if str(event.number) not in row["events"]]
            except Invalid:
                if row["edited_by"] is None:
                    raise
                events = []  # an edit stands for what cannot be made of it
            if events and row["edited_by"] is not None:
                return  # it was of one event, and the others have never been made
            await publish_again(events, first, deps)
        await end_repaired([letter], deps.bus, retry=retry, actor=ACTOR)
        _log.info("letter.ended", letter=letter["id"], delivery=row["id"], retry=retry)
