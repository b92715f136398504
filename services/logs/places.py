"""How far a reader has come in every stream of the archive, as opaque text: a place that each replica understands."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from shared.errors import Malformed, Problem

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MALFORMED = Malformed("this position was not given out by a tail", errors=(Problem("Last-Event-ID", "malformed"),))


class At(NamedTuple):
    """A place in one stream: behind a message, or behind a line of it."""

    seq: int
    line: int = 0


class TailPlace(msgspec.Struct, frozen=True):
    """A place in every stream, by name, with the incarnation of each. A stream that is not there is at its beginning."""

    incarnations: dict[str, str]
    at: dict[str, At]

    def moved(self, stream: str, at: At) -> TailPlace:
        """Return the place that is behind another message of a stream."""
        return TailPlace(self.incarnations, {**self.at, stream: at})


def written(place: TailPlace) -> str:
    """Return a place as text of letters, digits, dots and hyphens."""
    parts = [_base36(at.seq) + (f"-{_base36(at.line)}" if at.line else "") for _, at in sorted(place.at.items())]
    return ".".join((_fingerprint(place.incarnations), *parts))


def read(text: str, incarnations: Mapping[str, str]) -> TailPlace | None:
    """Return the place that `written` made; None where the streams are others by now. Raises `Malformed`."""
    fingerprint, *parts = text.split(".")
    try:
        found = [At(*(int(number, 36) for number in part.split("-"))) for part in parts]
    except (ValueError, TypeError) as error:
        raise _MALFORMED from error
    if not found or any(not 0 <= number < 2**63 for at in found for number in at):
        raise _MALFORMED
    names = sorted(incarnations)
    if fingerprint != _fingerprint(incarnations) or len(found) != len(names):
        return None
    return TailPlace(dict(incarnations), dict(zip(names, found, strict=True)))


def _fingerprint(incarnations: Mapping[str, str]) -> str:
    text = "\0".join(f"{stream} {incarnation}" for stream, incarnation in sorted(incarnations.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _base36(number: int) -> str:
    made = ""
    while number:
        number, digit = divmod(number, 36)
        made = _DIGITS[digit] + made
    return made or "0"
