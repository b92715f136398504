"""Floods of webhooks are accepted first: while they come and cores are short, what they leave in the bulk lanes waits to be parsed.

Nobody waits for the webhooks of a flood, and its senders wait for their answers. What is accepted is safe, so it can be worked off
afterwards. The prompt lane is parsed all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client

from shared.durables import backlog_of, count_for_ever
from shared.messages.declaration import declaration_of
from shared.messages.webhook import WebhookReceived
from shared.pull import api_request
from shared.streams import BULK_LANES, WORK, Work

HELD_BACK = {work.name: work for work in WORK if work.name in {f"events-parse-{lane}" for lane in BULK_LANES}}
COUNTED_EVERY = 0.5
# Webhooks a second that are a flood: fewer are worked off as they come, also by two cores.
FLOOD = 1000
# Seconds for which a flood is held back in all, until nothing of it waits any more: one that lasts is worked off while it comes.
HELD_FOR = 12.0
# Part of the backlog's bound from which nothing is held back: who sends too much is refused no sooner for it.
ROOM = 0.5
# Cores are short where this process waits for one for such a part of the time in which it would run.
SHORT = 0.2

_log = structlog.get_logger()


class CoreTime(msgspec.Struct, frozen=True):
    """Seconds for which this process has run, and for which it has waited for a core, since it began."""

    ran: float
    waited: float


def core_time() -> CoreTime | None:
    """Return the time of this process as the kernel counts it, None where it does not."""
    try:
        ran, waited, _ = Path("/proc/self/schedstat").read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return CoreTime(int(ran) / 1e9, int(waited) / 1e9)


class Floods:
    """Says whether bulk lanes are parsed. `max_backlog` is the gateway's bound, in messages."""

    def __init__(self, max_backlog: int, *, now: Callable[[], float] = monotonic) -> None:
        self._most = max_backlog * ROOM
        self._now = now
        self._stored: int | None = None
        self._time: CoreTime | None = None
        self._counted_at = 0.0
        self._pace = 0.0
        self._held_for = 0.0
        self._holds_back = False

    @property
    def holds_back(self) -> bool:
        """Return whether bulk lanes are held back. A count that is older than a few others holds nothing back."""
        return self._holds_back and self._now() - self._counted_at < 4 * COUNTED_EVERY

    @property
    def matters(self) -> bool:
        """Return whether it counts how many webhooks wait in the bulk lanes."""
        return self._held_for > 0 or self._pace >= FLOOD

    def admits(self, work: Work) -> bool:
        """Return whether more of some work may be taken."""
        return work.name not in HELD_BACK or not self.holds_back

    def fact(self) -> dict[str, Any]:
        """Return the flood as `/readyz` and `/metrics` show it."""
        return {"webhooks_per_s": round(self._pace), "held_s": round(self._held_for, 1), "holds_back": self.holds_back}

    def counted(self, stored: int, waiting: int, time: CoreTime | None) -> None:
        """Take how many webhooks were ever stored, how many wait in bulk lanes, and the time of this process."""
        now = self._now()
        passed = now - self._counted_at
        known = self._stored is not None and passed > 0
        self._pace = max(0, stored - (self._stored or 0)) / passed if known else 0.0
        # Held back it does less, and waits less: cores that were short are so for as long as the flood goes on.
        short = self._holds_back or (known and _is_short(self._time, time))
        self._held_for = (self._held_for + passed if self._holds_back else self._held_for) if waiting else 0.0
        self._stored, self._time, self._counted_at = stored, time, now
        before = self._holds_back
        self._holds_back = self._pace >= FLOOD and short and self._held_for < HELD_FOR and waiting < self._most
        if before != self._holds_back:
            _log.info("flood.held_back" if self._holds_back else "flood.goes_on", per_s=round(self._pace), waiting=waiting)

    async def watch(self, client: Client) -> None:
        """Have the broker count for ever."""
        stream = declaration_of(WebhookReceived).stream

        async def count() -> None:
            answers = [backlog_of(client, work, since=False) for work in HELD_BACK.values()] if self.matters else []
            info, *found = await asyncio.gather(api_request(client, f"$JS.API.STREAM.INFO.{stream}", None), *answers)
            self.counted(int(info["state"]["last_seq"]), sum(one.undelivered for one in found), core_time())

        await count_for_ever(count, lambda: asyncio.sleep(COUNTED_EVERY), failed="flood.not_counted")


def _is_short(before: CoreTime | None, after: CoreTime | None) -> bool:
    if before is None or after is None:
        return False
    waited, ran = after.waited - before.waited, after.ran - before.ran
    return waited > SHORT * (waited + ran)
