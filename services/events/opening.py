"""Has a webhook read by its adapter. What is encrypted costs milliseconds an item, and one webhook has a thousand of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

from services.events.adapters import Parse, ParsedEvent, Webhook
from services.events.adapters.webhook import checked_event
from shared.values import aside

# In a thread of its own: large webhooks of others, which hold nothing encrypted, do not wait for it.
_OPENER = ThreadPoolExecutor(1, "millrace-opening")
# Of each organization one webhook stands in line there: others wait for that one, and not for all that it has.
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


async def read(parser: Parse, request: Webhook, org: str) -> list[ParsedEvent]:
    """Return the events of a request of an organization's source. Raises `Invalid`."""

    def events() -> list[ParsedEvent]:
        return [checked_event(event) for event in parser(request)]

    return await (_opened(events, org) if request.secrets else aside(events, size=len(request.body)))


async def _opened(events: Callable[[], list[ParsedEvent]], org: str) -> list[ParsedEvent]:
    turn = _turns.setdefault(org, asyncio.Lock())
    async with turn:
        return await asyncio.get_running_loop().run_in_executor(_OPENER, events)
