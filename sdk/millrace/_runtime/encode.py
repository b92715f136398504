"""Author's values to JSON that every later reader can hold: no NaN, lone surrogate or NUL, no bottomless nesting."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from itertools import accumulate, count, islice
from types import NoneType
from typing import Any
from uuid import UUID

from millrace._bounds import LEAST_FLOAT, LEAST_INTEGER, MOST_EXTREME, MOST_FLOAT, MOST_INTEGER, is_ordinary
from millrace.errors import ResultError

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of one frame's payload; the supervisor ends a run that sends more."""
MAX_RESULT = MAX_FRAME - 65536
"""Bytes of one result as JSON; leaves room for the frame around it."""
MAX_DEPTH = 100
"""Levels of nesting. Readers on the way (decoders, Postgres) give up at some hundreds; a result is kept well below."""

MAX_VALUES = 250_000 - 16
"""Values in one document; the supervisor ends a run that sends more. Leaves room for the frame around it."""

_MAX_TEXT = 16384
"""Characters of one text in a log line."""
LONG_NUMBER = re.compile("[0-9]{19}")
"""Found in every text of JSON with a whole number of more than 64 bits."""
_LONG = 19
"""Characters of the shortest text in which that could be found, or too many brackets."""
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_STEPS = [1 if chr(code) in "[{" else -1 if chr(code) in "]}" else 0 for code in range(128)]
_MAX_ITEMS = 200
_MAX_LOG_DEPTH = 8
_MAX_NODES = 200
_MAX_LINE = 48 * 1024
"""Characters of all texts in a log line: the supervisor would keep nothing of a longer one."""


def to_json(value: object, *, what: str, rich: bool = False, limit: int | None = MAX_RESULT) -> str:
    """Encode `value`, or raise `ResultError` naming `what`, the path inside it and the reason.

    With `rich`, dataclasses, enums, dates and times, UUIDs and decimals become their JSON forms, the same that input
    accepts. `limit` is in bytes; without one it may hold any number of values, too.
    """
    default = richer if rich else None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultError(complaint(what, value, default) or f"{what} is not JSON: {error}") from error
    if limit is not None and size > limit:
        msg = f"{what} is {size} bytes as JSON, over the limit of {limit}"
        raise ResultError(msg)
    if limit is not None and _values(text) > MAX_VALUES:
        msg = f"{what} holds more than {MAX_VALUES} values"
        raise ResultError(msg)
    if "\\u0000" in text or (len(text) >= _LONG and (_depth(text) > MAX_DEPTH or LONG_NUMBER.search(text))):
        wrong = complaint(what, value, default)
        if wrong is not None:
            raise ResultError(wrong)
    return text


def _depth(text: str) -> int:
    """Answer how many brackets are open at a time in a JSON text, or some other number up to `MAX_DEPTH`."""
    most = text.count("[") + text.count("{")
    if most <= MAX_DEPTH:
        return most
    return max(accumulate(map(_STEPS.__getitem__, _STRING.sub("", text).encode())))


def _values(text: str) -> int:
    """Answer how many values a JSON text holds at most: exactly so where that matters."""
    most = text.count(",") + text.count("[") + text.count("{")
    if most <= MAX_VALUES:
        return most
    structure = _STRING.sub("", text)
    return structure.count(",") + structure.count("[") + structure.count("{")


def richer(value: object) -> object:
    """Return the JSON form of a value that JSON does not know. Raises TypeError."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    msg = f"{_type_name(value)} is not JSON"
    raise TypeError(msg)


def complaint(what: str, value: object, default: Callable[[object], object] | None) -> str | None:
    """Answer the fault of a value, and its place; None where there is none."""
    for path, reason in _faults(value, default):
        return f"{what} is not JSON at {path}: {reason}"
    return None


def _faults(value: object, default: Callable[[object], object] | None) -> Iterator[tuple[str, str]]:
    """Walk without recursion, depth first, yielding (path, reason)."""
    left: list[tuple[str, object, int]] = [("$", value, 0)]
    extreme = 0
    while left:
        path, item, depth = left.pop()
        if depth > MAX_DEPTH:
            yield path[:200] + "…", f"it is nested deeper than {MAX_DEPTH} levels, or holds itself"
            return
        if isinstance(item, str):
            reason = _text_fault(item)
            if reason:
                yield path, reason
        elif isinstance(item, float):
            if not math.isfinite(item):
                yield path, f"{item} has no JSON form"
            extreme += not is_ordinary(item)
            if extreme > MOST_EXTREME:
                yield path, f"one of more than {MOST_EXTREME} numbers beyond {LEAST_FLOAT:g} to {MOST_FLOAT:g}"
                return
        elif isinstance(item, dict):
            for key, inner in reversed(list(item.items())):
                if not isinstance(key, str | int | float | NoneType):
                    yield path, f"a key is {_type_name(key)}, not text"
                elif isinstance(key, str) and _text_fault(key):
                    yield path, f"a key: {_text_fault(key)}"
                left.append((f"{path}.{key}", inner, depth + 1))
        elif isinstance(item, list | tuple):
            left.extend((f"{path}[{index}]", item[index], depth + 1) for index in reversed(range(len(item))))
        elif isinstance(item, int):
            if not LEAST_INTEGER <= item <= MOST_INTEGER:
                yield path, "a whole number of more than 64 bits, which others cannot hold exactly"
        elif item is not None:
            if default is None:
                yield path, f"{_type_name(item)} is not JSON"
                continue
            try:
                left.append((path, default(item), depth + 1))
            except TypeError as error:
                yield path, str(error)


def _text_fault(text: str) -> str | None:
    if "\0" in text:
        return "the text holds a NUL character, which cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds half a surrogate pair, which is not a character"
    return None


class Plain:
    """Turns anything into JSON, for the fields of one log line, which has a bounded size in all. Never raises an `Exception`."""

    def __init__(self) -> None:
        self._left = _MAX_LINE

    def of(self, value: object) -> Any:
        """Return the JSON form of a value."""
        return self._of(value, 0, count())

    def text(self, text: str) -> str:
        """Answer the rest of a text."""
        kept = clean(text, max(0, min(_MAX_TEXT, self._left)))
        # As JSON in UTF-8: characters outside ASCII may take several times as much.
        self._left -= len(kept) if kept.isascii() and kept.isprintable() else 6 * len(kept)
        return kept

    def _of(self, value: object, depth: int, seen: "count[int]") -> Any:
        try:
            if next(seen) > _MAX_NODES or self._left <= 0:
                return "…"
            self._left -= 8
            if value is None or isinstance(value, bool):
                return value
            if isinstance(value, int):
                return int(value) if -(1 << 63) <= value < (1 << 63) else self.text(hex(value))
            if isinstance(value, float):
                return float(value) if is_ordinary(value) else str(float(value))
            if isinstance(value, str):
                return self.text(value)
            if depth < _MAX_LOG_DEPTH and isinstance(value, dict):
                pairs = islice(value.items(), _MAX_ITEMS)
                return {str(self._of(key, depth + 1, seen)): self._of(inner, depth + 1, seen) for key, inner in pairs}
            if depth < _MAX_LOG_DEPTH and isinstance(value, list | tuple | set | frozenset):
                return [self._of(inner, depth + 1, seen) for inner in islice(value, _MAX_ITEMS)]
            if isinstance(value, datetime | date | time | UUID | Decimal | Enum):
                return self._of(richer(value), depth + 1, seen)
            return self.text(repr(value))
        except Exception:
            return f"<{_type_name(value)}>"


def clean(text: str, limit: int = _MAX_TEXT) -> str:
    """Cut `text` and replace characters that cannot be stored. The answer is exactly a `str`."""
    cut = str.__getitem__(text, slice(0, limit))
    kept = _UNSTORABLE.sub("\ufffd", cut)
    return kept if len(text) <= limit else kept + "…"


def _type_name(value: object) -> str:
    name = type.__getattribute__(type(value), "__name__")
    return name if type(name) is str else "object"
