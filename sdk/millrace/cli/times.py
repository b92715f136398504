"""Times as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

_AGO = re.compile(r"(?:now-)?([0-9]{1,9})(ms|s|m|h|d|w)\Z", re.ASCII)
_AS_SERVED = re.compile(r"now|[0-9]{10,14}\Z", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def understood(text: str | None, option: str, relative: str) -> str | None:
    """Return what `ago`, `moment` or `ahead` made of an option's time, for whose words the server has other ones.

    `click.UsageError` says how one is written, `relative` or RFC 3339, where it is no time.
    """
    if text is None or _AS_SERVED.match(text.strip()):
        return text
    try:
        datetime.fromisoformat(text.strip())
    except ValueError as error:
        wanted = f"{relative}, or RFC 3339 as 2026-01-31T09:30:00Z"
        raise click.UsageError(f"{option} takes a time, {wanted}; {text!r} is none.") from error
    return text


def seconds_of(text: str, option: str) -> int:
    """Return the seconds of a duration such as `30d`. `click.UsageError` where it is none."""
    found = _AGO.match(text)
    if found is None or text.startswith("now-"):
        raise click.UsageError(f"{option} takes a duration, such as 12h or 30d; {text!r} is none.")
    return int(int(found[1]) * _SECONDS[found[2]])


def ago(text: str | None) -> str | None:
    """Return a time as a search takes it: `1h` is an hour ago, by the server's clock."""
    found = _AGO.match(text or "")
    return f"now-{found[1]}{found[2]}" if found else text


def moment(text: str | None, now: datetime) -> str | None:
    """Return a time as lists take it, in RFC 3339: `1h` is an hour before `now`; other text is passed on."""
    return None if text is None else _beside(now, text, text, -1)


def ahead(text: str, now: datetime) -> str:
    """Return a time to come in RFC 3339: `+1h` is an hour after `now`; other text is passed on."""
    return _beside(now, text.removeprefix("+"), text, 1) if text.startswith("+") else text


def _beside(now: datetime, duration: str, text: str, sign: int) -> str:
    """Return the time a duration before (-1) or after (1) `now`, in RFC 3339; `text` where that is none."""
    found = _AGO.match(duration)
    if found is None:
        return text
    try:
        at = now.astimezone(UTC) + sign * timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    except OverflowError:
        return text
    return at.isoformat().replace("+00:00", "Z")
