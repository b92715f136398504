"""Answers how many messages there are: by time, and by the values of fields."""

from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta

from services.logs import selecting, times
from services.logs.query import field_named
from services.logs.scope import ArchiveDeps, looking, selected
from shared.envelope import rfc3339
from shared.errors import Invalid, Problem
from shared.questions.logs import Bar, CountByTime, CountByValue, Facet, Facets, FacetValue, Histogram
from shared.values import FIRST

# The boundary of two bars may lie within any time, however short.
FEWEST_BARS, MOST_BARS = 2, 1000
MOST_FIELDS = 10
MOST_VALUES = 100
# Messages whose values are counted, the newest ones: of more, the shares are hardly other.
SAMPLE = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Lengths of a bar in seconds: of those that people count in.
_STEPS = (
    0.001,
    0.01,
    0.1,
    1,
    2,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
    1800,
    3600,
    7200,
    21_600,
    43_200,
    86_400,
    172_800,
    604_800,
    2_592_000,
)


async def count_by_time(asked: CountByTime, deps: ArchiveDeps) -> Histogram:
    """Return the counts of messages by time."""
    if not FEWEST_BARS <= asked.bars <= MOST_BARS:
        raise Invalid(f"bars must be from {FEWEST_BARS} to {MOST_BARS}", errors=(Problem("bars", f"is {asked.bars}"),))
    since, until = times.span(asked.since, asked.until, deps.now())
    step = step_of(since, until, asked.bars)
    async with looking(deps, asked.org) as connection:
        rows = await selecting.histogram(connection, await selected(asked, connection, deps), since, until, step)
    levels: dict[datetime, dict[str, int]] = defaultdict(dict)
    for row in rows:
        levels[row["time"]][row["level"]] = row["count"]
    items: list[Bar] = []
    for number in range((since - _EPOCH) // step, (until - _EPOCH) // step + 1):
        time = _start(number, step)
        of = levels.get(time, {})
        items.append(Bar(rfc3339(time), sum(of.values()), of))
    return Histogram(
        since=rfc3339(since), until=rfc3339(until), step=step.total_seconds(), count=sum(bar.count for bar in items), items=items
    )


def _start(number: int, step: timedelta) -> datetime:
    """Return when a bar begins; the first of a long one may begin before the calendar does."""
    try:
        return _EPOCH + number * step
    except OverflowError:
        return FIRST


def step_of(since: datetime, until: datetime, bars: int) -> timedelta:
    """Return the shortest round step with which so many bars cover a time, both ends within."""
    steps = itertools.chain(_STEPS, (_STEPS[-1] * 2**power for power in itertools.count(1)))
    wide = (timedelta(seconds=seconds) for seconds in steps)
    return next(step for step in wide if (until - _EPOCH) // step - (since - _EPOCH) // step < bars)


async def count_by_value(asked: CountByValue, deps: ArchiveDeps) -> Facets:
    """Return the most frequent values of fields among the newest messages."""
    if not 1 <= len(asked.fields) <= MOST_FIELDS:
        raise Invalid(f"fields must name 1 to {MOST_FIELDS}", errors=(Problem("fields", f"names {len(asked.fields)}"),))
    if not 1 <= asked.values <= MOST_VALUES:
        raise Invalid(f"values must be from 1 to {MOST_VALUES}", errors=(Problem("values", f"is {asked.values}"),))
    try:
        fields = [field_named(name) for name in asked.fields]
    except Invalid as error:
        raise Invalid(error.detail, errors=tuple(Problem("fields", one.message) for one in error.errors)) from error
    since, until = times.span(asked.since, asked.until, deps.now())
    async with looking(deps, asked.org) as connection:
        selection = await selected(asked, connection, deps)
        rows = await selecting.facets(
            connection, selection, fields, since=since, until=until, values=asked.values, sample=SAMPLE + 1
        )
    found: dict[int, list[FacetValue]] = defaultdict(list)
    for row in rows:
        found[row["field"]].append(FacetValue(row["value"] or "", row["count"]))
    counted = found[-1][0].count if found[-1] else 0
    items = [Facet(name, found[number]) for number, name in enumerate(asked.fields)]
    return Facets(items, min(counted, SAMPLE), complete=counted <= SAMPLE)
