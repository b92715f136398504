"""Moments as people write them: RFC 3339, epoch milliseconds, `now-15m`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from shared.errors import Invalid, Problem
from shared.values import within

_RELATIVE = re.compile(r"now(?:([+-])([0-9]{1,9})(ms|s|m|h|d|w))?\Z", re.ASCII)
_EPOCH_MS = re.compile(r"[0-9]{10,14}\Z", re.ASCII)
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The time that a search covers when it names no start.
DEFAULT_SPAN = timedelta(hours=24)


def span(since: str | None, until: str | None, now: datetime) -> tuple[datetime, datetime]:
    """Return the requested range of times, both ends within; the last 24 hours by default. Raises `Invalid`."""
    end = now if until is None else moment(until, now, "until")
    start = end - DEFAULT_SPAN if since is None else moment(since, now, "since")
    if start > end:
        raise Invalid("the range of times ends before it begins", errors=(Problem("since", "is after until"),))
    return start, end


def moment(text: str, now: datetime, name: str) -> datetime:
    """Return the moment of `text`, in UTC; a time without a zone is UTC. Raises `Invalid` for the input `name`."""
    written = text.strip()
    try:
        relative = _RELATIVE.match(written)
        if relative is not None:
            sign, count, unit = relative.groups()
            away = timedelta(milliseconds=int(count) * _MILLISECONDS[unit]) if count else timedelta(0)
            return within(now - away if sign == "-" else now + away)
        if _EPOCH_MS.match(written):
            return within(_EPOCH + timedelta(milliseconds=int(written)))
        read = datetime.fromisoformat(written)
        return within(read if read.tzinfo else read.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        message = "is no time: use RFC 3339, epoch milliseconds, or now-15m (ms, s, m, h, d, w)"
        raise Invalid(f"{name} {message}", errors=(Problem(name, message),)) from error
