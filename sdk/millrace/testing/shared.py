"""What runs of an organization share, in memory: its state, and its locks."""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from millrace._runtime.encode import to_json
from millrace.errors import Refused
from millrace.testing.fakes import Answer, Masking

_KEYS = 10_000
_MOST = 2**53


class SharedState:
    """Holds the values that are given, and those of the run. Nothing expires: no time passes."""

    def __init__(self, given: Mapping[str, Any], masking: Masking) -> None:
        self._masking = masking
        self._versions = 0
        self._items: dict[str, dict[str, Any]] = {}
        for key, value in given.items():
            self._set(key, json.loads(to_json(value, what=f"the state {key!r}", rich=True)), None, "testing")

    @property
    def values(self) -> dict[str, Any]:
        """The values by key, as they are now."""
        return {key: item["value"] for key, item in sorted(self._items.items())}

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {
            "state_get": lambda asked: self._items.get(asked["key"]),
            "state_put": self._put,
            "state_increment": self._increment,
            "state_delete": self._delete,
            "state_list": self._list,
        }

    def _put(self, asked: dict[str, Any]) -> Any:
        self._check(asked)
        return self._set(asked["key"], self._masking.document(asked["value"]), asked.get("ttl"))

    def _increment(self, asked: dict[str, Any]) -> Any:
        key, found = asked["key"], self._items.get(asked["key"])
        value = 0 if found is None else found["value"]
        if isinstance(value, bool) or not isinstance(value, int):
            msg = f"{key!r} is no whole number: it cannot be incremented"
            raise Refused("Invalid", msg)
        if abs(value + asked["by"]) > _MOST:
            msg = f"{key!r} would be beyond {_MOST}, up to which whole numbers are kept"
            raise Refused("Invalid", msg)
        changed = self._set(key, value + asked["by"], asked.get("ttl"))
        if found is not None:
            changed["expires_at"] = found["expires_at"]
        return changed

    def _delete(self, asked: dict[str, Any]) -> Any:
        self._check(asked)
        return self._items.pop(asked["key"], None) is not None

    def _list(self, asked: dict[str, Any]) -> Any:
        keys = sorted(key for key in self._items if key.startswith(asked["prefix"]) and key > asked["after"])
        return {"items": [self._items[key] for key in keys], "next": None}

    def _check(self, asked: dict[str, Any]) -> None:
        key, expected, found = asked["key"], asked.get("expected"), self._items.get(asked["key"])
        there = 0 if found is None else found["version"]
        if expected is not None and expected != there:
            now = f"version {there} is there" if there else "it is not there"
            msg = f"{key!r} was expected {f'at version {expected}' if expected else 'not to be there'}: {now}"
            raise Refused("VersionConflict", msg)

    def _set(self, key: str, value: Any, ttl: float | None, by: str = "run:testing") -> dict[str, Any]:
        if key not in self._items and len(self._items) >= _KEYS:
            msg = f"the state of this organization has {_KEYS} keys, the most that are kept: delete some, or have them expire"
            raise Refused("TooMany", msg)
        self._versions += 1
        now = datetime.now(UTC)
        item = {
            "key": key,
            "value": value,
            "version": self._versions,
            "updated_at": now.isoformat(),
            "updated_by": by,
            "expires_at": None if ttl is None else (now + timedelta(seconds=ttl)).isoformat(),
        }
        self._items[key] = item
        return item


class HeldLocks:
    """Gives every lock that is not `held` by another run, which never gives it back; fences count from 1."""

    def __init__(self, held: Collection[str]) -> None:
        self._others = set(held)
        self._own: dict[int, str] = {}
        self.names: list[str] = []
        """Those that the run has held, in order."""

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"lock_hold": self._hold, "lock_free": self._free}

    def _hold(self, asked: dict[str, Any]) -> Any:
        name = asked["name"]
        if name in self._others or name in self._own.values():
            msg = f"the lock {name!r} was not free within {asked['wait']:g} s"
            raise Refused("Conflict", msg)
        self._own[asked["number"]] = name
        self.names.append(name)
        return {"fence": len(self.names)}

    def _free(self, asked: dict[str, Any]) -> Any:
        self._own.pop(asked["number"], None)
