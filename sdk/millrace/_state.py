"""`state`: small values that the organization's runs share, each changed as a whole.

In a workflow:

    from millrace import state, workflow

    @workflow
    def sync() -> int:
        cursor = state.get("sync.cursor", default=0)
        state.put("sync.cursor", cursor + 100)
        return state.increment("sync.runs")
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from millrace import _bounds
from millrace._runtime import channel
from millrace._runtime.channel import Asking
from millrace._runtime.encode import to_json
from millrace.errors import Refused, VersionConflict

T = TypeVar("T")

_LARGEST = 16 * 1024
_MOST = 2**53


@dataclass(frozen=True)
class Item:
    """A value with its version, which no other change of its key has or will have."""

    key: str
    value: Any
    version: int
    updated_at: datetime
    """Aware."""
    updated_by: str
    """`run:` and the id of the run that changed it last, or who did so by the API."""
    expires_at: datetime | None


Items = list[Item]


class State:
    """Values by key, of the organization's own. A key has 1 to 200 characters, a value is JSON of at most 16 KiB.

    Each call is one change, made whole or not at all, and seen by every run at once. It is no step: another attempt makes it again.

    Each method has a counterpart with an `a` before its name that does not hold up the event loop. All raise `Refused`, which says
    what is not allowed, and `NotInRun` outside a run.
    """

    def get(self, key: str, default: Any = None) -> Any:
        """Answer a value, `default` where there is none."""
        return _done(_value(key, default))

    async def aget(self, key: str, default: Any = None) -> Any:
        """Answer a value, `default` where there is none."""
        return await _adone(_value(key, default))

    def item(self, key: str) -> Item | None:
        """Answer a value with its version, None where there is none."""
        return _done(_item(key))

    async def aitem(self, key: str) -> Item | None:
        """Answer a value with its version, None where there is none."""
        return await _adone(_item(key))

    def put(self, key: str, value: Any, *, expected: int | None = None, ttl: float | timedelta | None = None) -> Item:
        """Give a key a value, for `ttl` seconds if that is given, and for ever else.

        `expected` is the version that has to be there, 0 for none: raises `VersionConflict` where there is another one.
        """
        return _done(_putting(key, value, expected, ttl))

    async def aput(self, key: str, value: Any, *, expected: int | None = None, ttl: float | timedelta | None = None) -> Item:
        """Give a key a value. Raises as `put`."""
        return await _adone(_putting(key, value, expected, ttl))

    def increment(self, key: str, by: int = 1, *, ttl: float | timedelta | None = None) -> int:
        """Add to a whole number, which is 0 where there is none, and answer it; one that begins by it lasts for `ttl` seconds."""
        return _done(_increment(key, by, ttl))

    async def aincrement(self, key: str, by: int = 1, *, ttl: float | timedelta | None = None) -> int:
        """Add to a whole number, and answer it."""
        return await _adone(_increment(key, by, ttl))

    def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Remove a key; answer whether it was there. Raises `VersionConflict` as `put`."""
        return _done(_deleting(key, expected))

    async def adelete(self, key: str, *, expected: int | None = None) -> bool:
        """Remove a key; answer whether it was there."""
        return await _adone(_deleting(key, expected))

    def list(self, prefix: str = "") -> Items:
        """Answer the values whose keys begin with `prefix`, by key."""
        return _done(_listing(prefix))

    async def alist(self, prefix: str = "") -> Items:
        """Answer the values whose keys begin with `prefix`, by key."""
        return await _adone(_listing(prefix))


def _value(key: object, default: Any) -> Asking[Any]:
    found = yield "state_get", {"key": _key(key)}
    return default if found is None else found["value"]


def _item(key: object) -> Asking[Item | None]:
    found = yield "state_get", {"key": _key(key)}
    return None if found is None else _read(found)


def _putting(key: object, value: Any, expected: object, ttl: object) -> Asking[Item]:
    text = to_json(value, what="the value", limit=_LARGEST)
    fields = {"key": _key(key), "value": json.loads(text)} | _conditions(expected, ttl)
    return _read((yield from _changing("state_put", fields)))


def _increment(key: object, by: object, ttl: object) -> Asking[int]:
    amount = _bounds.whole(by, "by", -_MOST, _MOST)
    found = yield "state_increment", {"key": _key(key), "by": amount} | _conditions(None, ttl)
    number: int = found["value"]
    return number


def _deleting(key: object, expected: object) -> Asking[bool]:
    was_there: bool = yield from _changing("state_delete", {"key": _key(key)} | _conditions(expected, None))
    return was_there


def _listing(prefix: object) -> Asking[Items]:
    found: Items = []
    after: str | None = ""
    while after is not None:
        fields = {"prefix": _bounds.text(prefix, "a prefix", least=0), "after": after}
        answer = yield "state_list", fields
        found += map(_read, answer["items"])
        after = answer["next"]
    return found


def _changing(kind: str, fields: dict[str, Any]) -> Asking[Any]:
    try:
        answer = yield kind, fields
    except Refused as error:
        if error.kind != "VersionConflict":
            raise
        raise VersionConflict(error.kind, str(error)) from None
    return answer


def _conditions(expected: object, ttl: object) -> dict[str, Any]:
    """Answer the fields that are given."""
    found: dict[str, Any] = {}
    if expected is not None:
        found["expected"] = _bounds.whole(expected, "expected", 0, _MOST)
    if ttl is not None:
        found["ttl"] = _bounds.seconds(ttl, "ttl", above_zero=True)
    return found


def _key(key: object) -> str:
    return _bounds.text(key, "a key")


def _read(told: dict[str, Any]) -> Item:
    expires = told["expires_at"]
    return Item(
        key=told["key"],
        value=told["value"],
        version=told["version"],
        updated_at=datetime.fromisoformat(told["updated_at"]),
        updated_by=told["updated_by"],
        expires_at=None if expires is None else datetime.fromisoformat(expires),
    )


def _done(asking: Asking[T]) -> T:
    """Hold a conversation, waiting for each answer."""
    return channel.held("values of the state", asking)


async def _adone(asking: Asking[T]) -> T:
    """Hold a conversation without holding up the event loop."""
    return await channel.aheld("values of the state", asking)


state = State()
