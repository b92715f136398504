"""Results that are too large for one frame: their JSON in pieces, none of which is held longer than it takes to send it."""

import dataclasses
import json
import resource
from collections.abc import Iterator
from itertools import islice

from millrace._runtime.encode import LONG_NUMBER, MAX_DEPTH, complaint, richer
from millrace.errors import ResultError

INLINE = 256 * 1024
"""Bytes of JSON up to which a result is one frame."""
LARGEST = 64 * 1024 * 1024
"""Bytes of JSON of the largest result that is kept."""
PART = 256 * 1024
"""Characters of one part: at most a megabyte as UTF-8."""

_MUCH = 128 * 1024
"""Kilobytes of memory up to which this process cannot hold more than encoding at once can bear."""
_SMALL = 64 * 1024
_BATCH = 512


def may_be_large() -> bool:
    """Return whether this process holds, or has held, so much that its result had better be encoded in pieces.

    Asked instead of looking at the result, which would cost every small one some time.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _MUCH


def pieces(value: object, *, what: str) -> Iterator[str]:
    """Yield the JSON of `value` in pieces, as `to_json(…, rich=True)` writes it. Raises `ResultError` as that does.

    Pieces yielded before it raises are the beginning of a text that is no JSON.
    """
    try:
        yield from _pieces(value, 1)
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultError(complaint(what, value, richer) or f"{what} is not JSON: {error}") from error


def size(value: object, *, what: str) -> int:
    """Return how many bytes of JSON a value is. Raises `ResultError`."""
    return sum(len(piece.encode()) for piece in pieces(value, what=what))


def parts(text: Iterator[str]) -> Iterator[str]:
    """Yield the same text in parts of at most `PART` characters, nearly all of them full."""
    gathered: list[str] = []
    length = 0
    for piece in text:
        for at in range(0, len(piece), PART):
            cut = piece[at : at + PART]
            if length + len(cut) > PART:
                yield "".join(gathered)
                gathered, length = [], 0
            gathered.append(cut)
            length += len(cut)
    if gathered:
        yield "".join(gathered)


def _pieces(value: object, level: int) -> Iterator[str]:
    depth = _depth_if_small(value)
    if depth is not None:
        yield _whole(value, level + depth - 1)
    elif isinstance(value, str):
        yield '"'
        for at in range(0, len(value), _SMALL):
            yield _whole(value[at : at + _SMALL], level)[1:-1]
        yield '"'
    elif isinstance(value, dict):
        yield from _members(value, level)
    elif isinstance(value, list | tuple):
        yield from _elements(value, level)
    else:
        yield from _pieces(richer(value), level)


def _elements(value: "list[object] | tuple[object, ...]", level: int) -> Iterator[str]:
    comma = "["
    for at in range(0, len(value), _BATCH):
        batch = value[at : at + _BATCH]
        depth = _depth_if_small(batch)
        if depth is not None:
            yield comma + _whole(batch, level + depth - 1)[1:-1]
            comma = ","
            continue
        for one in batch:
            yield comma
            yield from _pieces(one, level + 1)
            comma = ","
    yield "]"


def _members(value: "dict[object, object]", level: int) -> Iterator[str]:
    comma = "{"
    items = iter(value.items())
    while batch := dict(islice(items, _BATCH)):
        depth = _depth_if_small(batch)
        if depth is not None:
            yield comma + _whole(batch, level + depth - 1)[1:-1]
            comma = ","
            continue
        for key, one in batch.items():
            # However long a key is, it is written at once.
            yield f"{comma}{_whole({key: 0}, level)[1:-2]}"
            yield from _pieces(one, level + 1)
            comma = ","
    yield "}"


def _whole(value: object, depth: int) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=richer)
    if depth > MAX_DEPTH + 1 or "\\u0000" in text:
        msg = "too deep, or a NUL character"
        raise ValueError(msg)
    if LONG_NUMBER.search(text) and complaint("", value, richer):
        msg = "a whole number of more than 64 bits"
        raise ValueError(msg)
    text.encode()
    return text


def _depth_if_small(value: object) -> int | None:
    """Return how deep a value goes, 1 for one that holds no other; None as soon as it turns out to be no small one."""
    left = _SMALL
    depth = 0
    row: list[object] = [value]
    while row:
        depth += 1
        below: list[object] = []
        for one in row:
            if isinstance(one, str):
                left -= len(one)
            elif isinstance(one, dict):
                left -= 8 * len(one)
                if left >= 0:
                    below.extend(one)
                    below.extend(one.values())
            elif isinstance(one, list | tuple):
                left -= 8 * len(one)
                if left >= 0:
                    below.extend(one)
            elif dataclasses.is_dataclass(one) and not isinstance(one, type):
                below.extend(getattr(one, field.name) for field in dataclasses.fields(one))
                left -= 8
            else:
                left -= 8
            if left < 0:
                return None
        row = below
    return depth
