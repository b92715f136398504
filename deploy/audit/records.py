"""What the audit trail says of messages without a row, or without content: they never came, or were removed, or erased."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from services.logs.domain import CATEGORY, ERASED, GAP, REMOVED
from shared.envelope import open_envelope
from shared.errors import MillraceError
from shared.questions.digests import ArchivedRow

_TYPES = {f"audit.{verb}": verb for verb in (GAP, REMOVED, ERASED)}
_SOURCE = "/logs"
_END = 1 << 63


class _Ranges(msgspec.Struct, frozen=True):
    incarnation: str
    ranges: list[tuple[int, int]]


class _Said(msgspec.Struct, frozen=True):
    """The part of such a record that counts: ranges of sequences of the stream `target`, each with its first and its last."""

    category: str
    target: str
    detail: _Ranges


class Records:
    """The ranges, by what was said of them, stream and incarnation."""

    def __init__(self) -> None:
        self._ranges: defaultdict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
        self._joined: dict[tuple[str, str, tuple[str, ...]], list[tuple[int, int]]] = {}

    def read(self, row: ArchivedRow) -> None:
        """Take what a verified row of the audit trail says."""
        verb = _TYPES.get(row.type)
        if verb is None:
            return
        try:
            envelope = open_envelope(row.document)
            said: Any = msgspec.json.decode(envelope.data, type=_Said)
        except (MillraceError, ValueError):
            return
        # The envelope is what was sealed; a row's columns repeat it.
        if envelope.source == _SOURCE and envelope.type == row.type and said.category == CATEGORY:
            self._ranges[verb, said.target, said.detail.incarnation] += said.detail.ranges
            self._joined.clear()

    def removed(self, stream: str, incarnation: str, seq: int) -> bool:
        """Return whether retention removed a message."""
        return self._is_within(stream, incarnation, seq, REMOVED)

    def erased(self, stream: str, incarnation: str, seq: int) -> bool:
        """Return whether somebody had the content of a message erased."""
        return self._is_within(stream, incarnation, seq, ERASED)

    def _is_within(self, stream: str, incarnation: str, seq: int, verb: str) -> bool:
        ranges = self._of(stream, incarnation, verb)
        at = bisect.bisect_right(ranges, (seq, _END)) - 1
        return at >= 0 and ranges[at][1] >= seq

    def unexplained(self, stream: str, incarnation: str, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Return the parts of a range that was never sealed that neither never came, nor were removed."""
        ranges = self._of(stream, incarnation, GAP, REMOVED)
        for begin, end in ranges[max(0, bisect.bisect_right(ranges, (first, _END)) - 1) :]:
            if begin > last:
                break
            if begin > first:
                yield first, begin - 1
            first = max(first, end + 1)
        if first <= last:
            yield first, last

    def _of(self, stream: str, incarnation: str, *verbs: str) -> list[tuple[int, int]]:
        key = (stream, incarnation, verbs)
        if key not in self._joined:
            self._joined[key] = _joined([one for verb in verbs for one in self._ranges.get((verb, stream, incarnation), [])])
        return self._joined[key]


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that touch each other as one."""
    made: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if made and first <= made[-1][1] + 1:
            made[-1] = made[-1][0], max(made[-1][1], last)
        else:
            made.append((first, last))
    return made
