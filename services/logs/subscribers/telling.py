"""Tells subscribers what is archived, as it is archived: each message on its subject, and on one of its organization.

So they are told what is stored, and nothing else that was said; in the order of each stream; and a search finds it. After a crash
some are told again, with the same id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from nats.aio.client import Client

from shared.envelope import CONTENT_TYPE, utc_now
from shared.errors import Unavailable
from shared.messages.shards import plain
from shared.organizations import PLATFORM
from shared.pull import Delivered
from shared.subscribers import TOLD, TOLD_ORG

# Older messages are history, as when an archive is made anew, and no news.
NEWS = timedelta(hours=1)


class _Of(msgspec.Struct):
    org: str


_decoder = msgspec.json.Decoder(_Of)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Telling:
    """Publishes messages for the organizations that want them: by `wanted` the first parts of subjects.

    What `is_past`, of an organization that was removed, is not told to another one of its name.
    """

    def __init__(
        self,
        client: Client,
        wanted: Callable[[], Mapping[str, frozenset[str]]],
        is_past: Callable[[bytes], Awaitable[bool]],
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._is_past = is_past
        self._clock = clock
        self._last: dict[tuple[str, str], int] = {}
        self.told = 0

    async def tell(self, stream: str, batch: Sequence[Delivered], incarnation: str) -> None:
        """Tell a batch that is about to be archived; what was told before is passed over. Raises `Unavailable`."""
        wanted = self._wanted()
        if not wanted:
            return
        if not self._client.is_connected:
            raise Unavailable("the broker is not connected")
        place, since = (stream, incarnation), self._clock() - NEWS
        for one in batch:
            if one.sequence <= self._last.get(place, 0):
                continue
            if one.time >= since:
                for subject in await self._subjects(one, wanted):
                    headers = {"Content-Type": CONTENT_TYPE, "Nats-Stream": stream, "Nats-Sequence": str(one.sequence)}
                    await self._client.publish(subject, one.data, headers=headers)
                    self.told += 1
            self._last[place] = one.sequence

    async def _subjects(self, one: Delivered, wanted: Mapping[str, frozenset[str]]) -> list[str]:
        shard, _, rest = one.subject.partition(".")
        noun = plain(shard)
        told = f"{noun}.{rest}"
        found = [f"{TOLD}.{told}"] if noun in wanted.get(PLATFORM, ()) else []
        if any(noun in nouns for org, nouns in wanted.items() if org != PLATFORM):
            try:
                org = _decoder.decode(one.data).org
            except _UNREADABLE:
                return found
            if org != PLATFORM and noun in wanted.get(org, ()) and not await self._is_past(one.data):
                found.append(f"{TOLD_ORG}.{org}.{told}")
        return found
