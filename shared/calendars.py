"""When a schedule is due: cron expressions of five fields in a time zone, and intervals.

The calendar is `cronsim`'s, which reads expressions as Debian's cron does. It is asked about local time without a zone; what that
means when clocks are changed is decided here. An expression whose minute and hour are both given without a star means certain
times of the day: one that is skipped comes when the clocks have been put forward, one that is there twice comes the first time.
Any other expression means all minutes that look like it: none is made up, and an hour that comes twice counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

LONGEST = 200
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
# Clocks are put forward by less, but for a whole day where a country moved across the date line.
LARGEST_GAP = timedelta(hours=25)


def checked_zone(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name. Raises `ValueError`."""
    if name not in _names():
        raise ValueError(f"there is no time zone {name[:80]!r}: a name such as Europe/Vienna, or UTC")
    return ZoneInfo(name)


def checked_cron(expression: str) -> str:
    """Return a cron expression of five fields that comes true some day. Raises `ValueError` naming the field that is wrong."""
    fields = expression.split()
    if len(expression) > LONGEST or len(fields) != 5:
        raise ValueError("a cron expression has five fields: minute, hour, day of the month, month, day of the week")
    try:
        next(_calendar(" ".join(fields), datetime(2026, 1, 1)))  # noqa: DTZ001 - a local time, of no zone
    except CronSimError as error:
        raise ValueError(f"{str(error)[:1].lower()}{str(error)[1:]} in the cron expression {expression!r}") from error
    except StopIteration:
        raise ValueError(f"no day is ever like {expression!r}") from None
    return " ".join(fields)


class Cron:
    """A cron expression in a time zone; both are right. All times are aware and of UTC."""

    def __init__(self, expression: str, zone: str = "UTC") -> None:
        self._expression = expression
        self._zone = ZoneInfo(zone)
        minute, hour, *_ = expression.split()
        self._is_daily = not minute.startswith("*") and not hour.startswith("*")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the times after a moment, in order."""
        return self._daily(moment) if self._is_daily else self._matching(moment)

    def _daily(self, moment: datetime) -> Iterator[datetime]:
        last = moment
        # A time that was skipped comes later than it says, and local time may have been put back since.
        begin = moment.astimezone(self._zone).replace(tzinfo=None) - LARGEST_GAP
        for local in _calendar(self._expression, begin):
            found = self._put_forward(local)
            if found > last:
                yield found
                last = found

    def _put_forward(self, local: datetime) -> datetime:
        """Return the first moment of a local time; of one that is skipped the moment when the clocks are put forward."""
        first = local.replace(tzinfo=self._zone, fold=0).astimezone(UTC)
        if first.astimezone(self._zone).replace(tzinfo=None) == local:
            return first
        # With the offset from before the gap it lies behind it, by as much as the local time is within the gap.
        return self._transition(first - LARGEST_GAP, first) or first

    def _matching(self, moment: datetime) -> Iterator[datetime]:
        # From one change of the clocks to the next the offset is the same, and the calendar as it is.
        begin = moment
        while True:
            offset = self._offset(begin)
            change: datetime | None = None
            known = begin
            for local in _calendar(self._expression, (begin + offset).replace(tzinfo=None)):
                found = local.replace(tzinfo=UTC) - offset
                change = self._transition(known, found)
                if change is not None:
                    break
                known = found
                yield found
            if change is None:
                return
            # The calendar tells what comes after: a second before the change, by the offset that is right from then on.
            first = next(_calendar(self._expression, (change + self._offset(change) - SECOND).replace(tzinfo=None)), None)
            if first is not None and first.replace(tzinfo=UTC) - self._offset(change) == change:
                yield change
            begin = change

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self._zone).utcoffset() or timedelta()

    def _transition(self, after: datetime, until: datetime) -> datetime | None:
        """Return the first moment after `after`, up to `until`, from which on another offset is right; to the second."""
        offset = self._offset(after)
        while after < until:
            step = min(until, after + DAY)
            if self._offset(step) != offset:
                low, high = after, step
                while high - low > SECOND:
                    middle = low + (high - low) // 2
                    low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
                # Clocks are changed at a whole second; `high` is less than one behind.
                return high.replace(microsecond=0)
            after = step
        return None


class Every:
    """An interval of whole seconds. Times are its multiples since 1970, so that they follow from the interval alone."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the times after a moment, in order."""
        number = int(moment.timestamp() // self._seconds)
        while True:
            number += 1
            yield datetime.fromtimestamp(number * self._seconds, UTC)


def latest(calendar: Cron | Every, after: datetime, until: datetime, most: int) -> list[datetime]:
    """Return the times after one moment up to another, in order: the latest `most` of them."""
    # An expression of every minute has half a million times a year: as far back as is needed, and not farther.
    back = timedelta(seconds=most)
    while True:
        begin = max(after, until - back)
        found = []
        for one in calendar.after(begin):
            if one > until:
                break
            found.append(one)
        if begin == after or len(found) >= most:
            return found[-most:] if most else []
        back *= 4


def _calendar(expression: str, begin: datetime) -> Iterator[datetime]:
    return CronSim(expression, begin)


@cache
def _names() -> frozenset[str]:
    # These two are what a machine calls its own time and the lack of one, and mean another time on another machine.
    return frozenset(available_timezones() - {"localtime", "Factory"})


@lru_cache(maxsize=4096)
def calendar_of(cron: str | None, every: int | None, zone: str) -> Cron | Every:
    """Return the calendar of a schedule, whose values are right."""
    return Every(every) if every is not None else Cron(cron or "", zone)
