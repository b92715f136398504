"""The state of an organization's workflows, as one attempt meets it."""

from __future__ import annotations

from typing import Any

import msgspec

from services.executor.runs.claim import Claim, outlasting
from services.executor.state import StateChange, States
from shared.envelope import derived_id
from shared.errors import NotFound

# Values of one answer to a run.
PAGE = 200


class KeptState:
    """Reads and changes the state for one attempt; what is known only after the database was away is asked again."""

    def __init__(self, states: States, mine: Claim) -> None:
        self._states = states
        self._claim = mine
        self._org = mine.state.org
        self._changes = 0

    async def get(self, key: str) -> dict[str, Any] | None:
        """Return a value, None where there is none."""
        try:
            found = await outlasting(lambda: self._states.get(self._org, key), run=self._claim.run)
        except NotFound:
            return None
        return msgspec.to_builtins(found)  # type: ignore[no-any-return]

    async def put(self, key: str, value: msgspec.Raw, expected: int | None, ttl: float | None) -> dict[str, Any]:
        """Give a key a value. Raises `Conflict`, `Invalid`, `TooLarge`, `TooMany`."""
        change, given = self._change(key), msgspec.json.decode(value)
        found = await outlasting(lambda: self._states.put(change, given, expected, ttl), run=self._claim.run)
        return msgspec.to_builtins(found)  # type: ignore[no-any-return]

    async def increment(self, key: str, by: int, ttl: float | None) -> dict[str, Any]:
        """Add to a number. Raises `Invalid`, `TooMany`."""
        change = self._change(key)
        found = await outlasting(lambda: self._states.increment(change, by, ttl), run=self._claim.run)
        return msgspec.to_builtins(found)  # type: ignore[no-any-return]

    async def delete(self, key: str, expected: int | None) -> bool:
        """Remove a key; returns whether it was there. Raises `Conflict`."""
        change = self._change(key)
        return await outlasting(lambda: self._states.delete(change, expected), run=self._claim.run)

    async def page(self, prefix: str, after: str) -> dict[str, Any]:
        """Return values by key, after a key, and the key to go on after, if there are more."""
        found = await outlasting(lambda: self._states.page(self._org, prefix, after, PAGE + 1), run=self._claim.run)
        items = found[:PAGE]
        return {"items": msgspec.to_builtins(items), "next": items[-1].key if len(found) > PAGE else None}

    def _change(self, key: str) -> StateChange:
        """Return a change with an id of its own; asked for again it is the same one."""
        self._changes += 1
        id_ = derived_id(self._claim.started.id, "state", str(self._changes))
        return StateChange(org=self._org, key=key, by=f"run:{self._claim.run}", id=id_)
