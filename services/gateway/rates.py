"""Limits the webhooks of a source: a bucket of tokens that fills at a steady pace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many webhooks a second in the long run, and `burst` at once after a rest; without it as many as come in a second."""

    per_second: float
    burst: int | None = None


class TokenBucket:
    """Tokens of one source in this process; times are seconds of one clock that does not go back."""

    def __init__(self, rate: Rate) -> None:
        self._per_second = rate.per_second
        self._size = float(rate.burst or max(1, math.ceil(rate.per_second)))
        self._tokens = self._size
        self._at = -math.inf

    def wait(self, now: float) -> float:
        """Return in how many seconds there is a token; 0 when there is one now."""
        if now > self._at:
            self._tokens = min(self._size, self._tokens + (now - self._at) * self._per_second)
            self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._per_second

    def take(self, now: float) -> float:
        """Take a token and return 0, or take none and return in how many seconds there is one."""
        wait = self.wait(now)
        if wait == 0:
            self._tokens -= 1
        return wait


def bucket_of(settings: Mapping[str, Any]) -> TokenBucket | None:
    """Return a full bucket for the `rate` of a source's settings, or None where it has none. Raises ValueError."""
    given = settings.get("rate")
    if given is None:
        return None
    rate = msgspec.convert(given, Rate)
    if not rate.per_second > 0 or (rate.burst is not None and rate.burst < 1):
        raise ValueError("a rate that lets nothing in")
    return TokenBucket(rate)
