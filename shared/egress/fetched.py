"""Documents that are fetched (keys, metadata), kept for an hour, and fetched by one request for all that wait.

One is waited for only where there is none yet, and not for long: whoever needs it comes again. Strangers may name addresses here
(the certificate of a message that is not verified yet), so that everything is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from shared.errors import Unavailable

# Seconds: a document is fetched anew after an hour, in the background, and used for a day where that fails.
FRESH, USABLE = 3600.0, 86_400.0
# Seconds within which one is not fetched anew for something that it does not have, and an address not again that failed.
UNKNOWN, FAILED = 30.0, 10.0
# Seconds that anybody waits, and that a fetch takes at most.
WAIT, LONGEST = 2.5, 8.0
MOST_KEPT = 1000
# Fetches at a time, in all and of one organization.
MOST, EACH = 16, 4

Get = Callable[[str, str, float], Awaitable[bytes]]
Read = Callable[[bytes], Any]
_Place = tuple[str, str]

_log = structlog.get_logger()


class _Kept:
    """A fetched value, and when; or when fetching failed, why, and by which error."""

    __slots__ = ("at", "error", "failed_at", "reason", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.at = float("-inf")
        self.failed_at = float("-inf")
        self.reason = ""
        self.error: type[Unavailable] = Unavailable


class FetchedDocuments:
    """What addresses answered, read, by organization and address: each is asked under its organization's egress policy."""

    def __init__(self, get: Get, now: Callable[[], float] = time.monotonic) -> None:
        self._get = get
        self._now = now
        self._kept: OrderedDict[_Place, _Kept] = OrderedDict()
        self._fetching: dict[_Place, asyncio.Task[None]] = {}

    def of(self, org: str) -> OrganizationDocuments:
        """Return the documents of one organization."""
        return OrganizationDocuments(self, org)

    async def close(self) -> None:
        """Stop fetching."""
        for task in self._fetching.values():
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)

    def known(self, place: _Place) -> Any:
        """Return what is at an address, None where it is not known or too old."""
        kept = self._kept.get(place)
        return None if kept is None or self._now() - kept.at > USABLE else kept.value

    def failure(self, place: _Place) -> str | None:
        """Return why an address could not be fetched within the last hour; None where it could be, or nobody has tried."""
        kept = self._kept.get(place)
        if kept is None or self.known(place) is not None or self._now() - kept.failed_at > FRESH:
            return None
        return kept.reason

    async def load(self, place: _Place, read: Read, *, anew: bool) -> None:
        """Have what is at an address known, if it can be; `anew`: what is known lacks something. Raises `Unavailable`."""
        now, kept, known = self._now(), self._kept.get(place), self.known(place)
        age = float("inf") if kept is None else now - kept.at
        if known is not None and (age < UNKNOWN if anew else age < FRESH):
            return
        if kept is not None and now - kept.failed_at < FAILED:
            if known is None:
                raise kept.error(kept.reason, retry_after=FAILED)
            return
        task = self._fetching.get(place) or self._begin(place, read)
        if task is None:
            if known is None:
                raise Unavailable("too many addresses are being fetched from", retry_after=5)
            return
        if known is not None and not anew:
            return
        try:
            async with asyncio.timeout(WAIT):
                await asyncio.shield(task)
        except TimeoutError:
            if known is None:
                raise Unavailable(f"{place[1]} is still being fetched", retry_after=5) from None
        if self.known(place) is None:
            if (kept := self._kept.get(place)) is not None:
                raise kept.error(kept.reason, retry_after=FAILED)
            raise Unavailable("it is gone", retry_after=FAILED)

    def _begin(self, place: _Place, read: Read) -> asyncio.Task[None] | None:
        if len(self._fetching) >= MOST or sum(one[0] == place[0] for one in self._fetching) >= EACH:
            return None
        task = self._fetching[place] = asyncio.create_task(self._fetch(place, read))
        task.add_done_callback(lambda _: self._fetching.pop(place, None))
        return task

    async def _fetch(self, place: _Place, read: Read) -> None:
        org, url = place
        failed: type[Unavailable] = Unavailable
        try:
            value, reason = read(await self._get(org, url, LONGEST)), ""
        except Unavailable as error:
            value, reason, failed = None, error.detail, type(error)
        except (ValueError, RecursionError) as error:
            value, reason = None, f"what {url} answers cannot be read: {error}"
        kept = self._kept.pop(place, None) or _Kept()
        self._kept[place] = kept
        while len(self._kept) > MOST_KEPT:
            del self._kept[self._dispensable()]
        if value is None:
            kept.failed_at, kept.reason, kept.error = self._now(), reason, failed
            _log.warning("document.unfetched", org=org, url=url, reason=reason)
        else:
            kept.value, kept.at = value, self._now()

    def _dispensable(self) -> _Place:
        """Return the one fetched longest ago of the organization that has most: whoever names many pushes out no others'."""
        ((most, _),) = Counter(org for org, _ in self._kept).most_common(1)
        return next(place for place in self._kept if place[0] == most)


class OrganizationDocuments:
    """The documents of one organization, by their address."""

    def __init__(self, documents: FetchedDocuments, org: str) -> None:
        self._documents = documents
        self._org = org

    def known(self, url: str) -> Any:
        """Return what is at an address, None where it is not known."""
        return self._documents.known((self._org, url))

    def failure(self, url: str) -> str | None:
        """Return why an address could not be fetched lately, None where nothing is known of that."""
        return self._documents.failure((self._org, url))

    async def load(self, url: str, read: Read, *, anew: bool = False) -> None:
        """Have what is at an address known; `anew`: what is known lacks something. Raises `Unavailable`."""
        await self._documents.load((self._org, url), read, anew=anew)
