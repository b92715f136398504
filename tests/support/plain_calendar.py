"""A calendar as a person would keep it: every minute is looked at, by the clocks of a time zone; nothing is computed ahead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
# Clocks are not put forward and back again within so many days: where a month is left out, it is a whole one.
APART = timedelta(days=5)
DAILY = ("30 2 * * *", "0 0 * * *", "15,45 1,2 * * *", "30 0 * * *", "0 3 * * 0", "59 23 * * *", "5 1-3 * * *")
MATCHING = ("* * * * *", "*/20 2 * * *", "0 * * * *", "*/7 0 * * *", "30 */2 * * *", "*/30 * * * SUN", "*/10 0-1 * * FRI,SAT,SUN")


def changes(zone: ZoneInfo) -> list[datetime]:
    """Return the first minutes of other offsets in two years."""
    found, at = [], BEGIN
    while at < END:
        low, high = at, at + APART
        if low.astimezone(zone).utcoffset() != high.astimezone(zone).utcoffset():
            while high - low > MINUTE:
                middle = low + (high - low) // 2 // MINUTE * MINUTE
                is_before = middle.astimezone(zone).utcoffset() == at.astimezone(zone).utcoffset()
                low, high = (middle, high) if is_before else (low, middle)
            found.append(high)
        at += APART
    return found


@cache
def zones() -> dict[str, list[datetime]]:
    """Return a zone for each way in which the clocks of any are changed in two years, with the changes; and UTC, with none."""
    alike: dict[object, str] = {}
    found: dict[str, list[datetime]] = {"UTC": []}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        when = changes(zone)
        offsets = [at.astimezone(zone).utcoffset() for at in (BEGIN, *when)]
        if when and alike.setdefault((tuple(when), tuple(offsets)), name) == name:
            found[name] = when
    return found


def looks_like(expression: str, local: datetime) -> bool:
    """Return whether a local time is one of an expression's, as a person would say it; of days only `*` and names of weekdays."""
    minute, hour, _, _, weekday = expression.split()
    if not (number(minute, local.minute, 60) and number(hour, local.hour, 24)):
        return False
    return weekday == "*" or bool({local.strftime("%a").upper(), str((local.weekday() + 1) % 7)} & set(weekday.split(",")))


def number(field: str, value: int, end: int) -> bool:
    if "," in field:
        return any(number(one, value, end) for one in field.split(","))
    if "/" in field:
        return value % int(field.partition("/")[2]) == 0
    low, _, high = field.partition("-")
    return field == "*" or int(low) <= value <= int(high or low)


def minutes(zone: ZoneInfo, begin: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return every minute from a day before, with its local time."""
    first = begin - timedelta(days=1)
    every = (first + number * MINUTE for number in range(int((end - first) / MINUTE) + 1))
    return [(at, at.astimezone(zone).replace(tzinfo=None)) for at in every]


def plain(expression: str, calendar: list[tuple[datetime, datetime]], *, daily: bool) -> list[datetime]:
    """Return the times by looking at every minute; for skipped times of the day the minute that comes instead."""
    found: dict[datetime, None] = {}
    seen: set[datetime] = set()
    last = calendar[0][1] - MINUTE
    for at, local in calendar:
        skipped = last + MINUTE
        while daily and skipped < local:
            if looks_like(expression, skipped):
                found[at] = None
            skipped += MINUTE
        if looks_like(expression, local) and not (daily and local in seen):
            found[at] = None
        seen.add(local)
        last = local
    return list(found)
