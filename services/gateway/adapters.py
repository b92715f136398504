"""The adapters' descriptions, kept for a while: which settings of a source are secret."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from shared.errors import Invalid, Problem
from shared.questions.events import AdapterView, ListAdapters

# Seconds; a new adapter of an organization is met earlier than this, because an unknown name asks again.
KEPT = 30.0
ORGS = 256


class Adapters:
    """Descriptions by organization."""

    def __init__(self, ask: Callable[[ListAdapters], Awaitable[list[AdapterView]]]) -> None:
        self._ask = ask
        self._kept: dict[str, tuple[float, dict[str, AdapterView]]] = {}

    async def all(self, org: str) -> list[AdapterView]:
        """Return what the organization's sources may use, fresh. Raises `Unavailable`."""
        views = await self._ask(ListAdapters(org=org))
        if len(self._kept) >= ORGS:
            self._kept.clear()
        self._kept[org] = (time.monotonic() + KEPT, {view.name: view for view in views})
        return views

    async def named(self, org: str, name: str) -> AdapterView:
        """Return one description. Raises `Invalid` when there is no such adapter, `Unavailable`."""
        until, views = self._kept.get(org, (0.0, {}))
        if time.monotonic() >= until or name not in views:
            views = {view.name: view for view in await self.all(org)}
        if name not in views:
            known = ", ".join(sorted(views))
            raise Invalid(f"there is no adapter {name!r}; there are {known}", errors=(Problem("adapter", "unknown"),))
        return views[name]


class Split(msgspec.Struct, frozen=True):
    """Settings as their owner is told them: open ones, new secrets, and the names of secrets to be forgotten."""

    open: dict[str, Any]
    secrets: dict[str, str]
    dropped: tuple[str, ...]


def split_secrets(adapter: AdapterView, settings: Mapping[str, Any]) -> Split:
    """Tell secrets from other settings; a secret that is null is to be forgotten. Raises `Invalid` for one that is no text."""
    secret: dict[str, str] = {}
    dropped: list[str] = []
    for name in adapter.secrets:
        if name not in settings:
            continue
        value = settings[name]
        if value is None:
            dropped.append(name)
            continue
        if not isinstance(value, str) or not value.strip():
            raise Invalid(f"{name} must be text that is not empty", errors=(Problem(f"settings.{name}", "must be text"),))
        secret[name] = value
    return Split({name: value for name, value in settings.items() if name not in adapter.secrets}, secret, tuple(dropped))
