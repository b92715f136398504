"""Adapters of workspaces as the gateway and the events service see them: the registry's view, and questions to their code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from shared.bounded import is_room
from shared.errors import NotFound, Unavailable
from shared.messages.declaration import hashed_key
from shared.organizations import seen_by
from shared.questions.adapters import AdapterAnswer, AdapterEntry, AdapterRequest, AskAdapter, FindAdapter
from shared.registry import Entry, RegistryView
from shared.resources.source import COMMON_SETTINGS, SourceEntry

# Questions for the sources of one organization that are under way from one process, as many as the executor takes; others are to
# come again, so that adapters whose code hangs hold up no more than these.
MOST_ASKED = 16
# Seconds until then.
BUSY = 2.0


class CustomAdapters:
    """The adapters that organizations have in their workspaces, and their answers; `ask` puts a question to their owner.

    At most `most_of_org` are asked at a time for one organization, and `most` for all together, where that is given: then for none
    more than half of what others leave.
    """

    def __init__(
        self,
        view: RegistryView[AdapterEntry],
        ask: Callable[[Any], Awaitable[Any]],
        *,
        most_of_org: int = MOST_ASKED,
        most: int | None = None,
    ) -> None:
        self._view = view
        self._ask = ask
        self._most_of_org = most_of_org
        self._most = most
        self._asked: Counter[str] = Counter()

    def entries(self, org: str, name: str) -> tuple[Entry[AdapterEntry] | None, ...]:
        """Return the entries that a name may mean to an organization, its own first: the same objects until one changes."""
        return tuple(self._view.get(hashed_key(owner, name)) for owner in seen_by(org))

    def find(self, org: str, name: str) -> AdapterEntry | None:
        """Return the adapter that a name means to an organization: its own, else the platform's."""
        return next((one.value for one in self.entries(org, name) if one is not None and one.value is not None), None)

    async def found(self, org: str, name: str) -> AdapterEntry | None:
        """Return the adapter as `find`, where the view does not know it as its owner does. Raises `Unavailable`."""
        known = self.find(org, name)
        if known is None:
            try:
                told = await self._ask(FindAdapter(org=org, name=name))
            except NotFound:
                return None
            if told.entry is not None:
                self._view.learn(hashed_key(told.entry.org, name), Entry(told.seq, told.entry))
            known = told.entry
        return known

    def of(self, org: str) -> dict[str, AdapterEntry]:
        """Return all that an organization sees, by name."""
        owners = seen_by(org)
        seen = [one for one in self._view.values() if one.org in owners]
        return {one.name: one for one in sorted(seen, key=lambda one: owners.index(one.org), reverse=True)}

    async def ask(
        self, adapter: AdapterEntry, source: SourceEntry, act: Literal["receive", "handshake", "parse"], request: AdapterRequest
    ) -> AdapterAnswer:
        """Return the answer of an adapter's code. Raises `NotFound`, `Unavailable`, also where many wait for one already."""
        org = source.org
        own, most = self._asked[org], self._most
        if own >= self._most_of_org or (most is not None and not is_room(own, self._asked.total(), self._most_of_org, most)):
            raise Unavailable(f"adapter {adapter.name} is busy", retry_after=BUSY)
        self._asked[org] += 1
        try:
            answer: AdapterAnswer = await self._ask(_question(adapter, source, act, request))
            return answer
        finally:
            self._asked[org] -= 1
            if not self._asked[org]:
                del self._asked[org]


def _question(
    adapter: AdapterEntry, source: SourceEntry, act: Literal["receive", "handshake", "parse"], request: AdapterRequest
) -> AskAdapter:
    settings: dict[str, Any] = {name: one for name, one in source.spec.settings.items() if name not in COMMON_SETTINGS}
    return AskAdapter(
        org=source.org,
        owner=adapter.org,
        adapter=adapter.name,
        version=adapter.version,
        act=act,
        source=source.id,
        settings=settings,
        sealed=source.sealed,
        request=request,
    )
