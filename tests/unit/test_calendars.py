"""When schedules are due, held against a plain calendar: every minute of the days around each change of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest

from shared.calendars import Cron, Every, checked_cron, checked_zone, latest
from tests.support.plain_calendar import BEGIN, DAILY, END, HOUR, MATCHING, MINUTE, minutes, plain, zones


@pytest.mark.parametrize("name", zones())
def test_times_around_every_change_of_the_clocks_are_those_of_a_plain_calendar(name: str) -> None:
    zone = ZoneInfo(name)
    for change in zones()[name] or [BEGIN]:
        begin, end = change - timedelta(hours=20), change + timedelta(hours=30)
        calendar = minutes(zone, begin, end)
        for expression in (*DAILY, *MATCHING):
            expected = [one for one in plain(expression, calendar, daily=expression in DAILY) if one > begin]
            cron = Cron(expression, name)
            found = list(takewhile(lambda one, end=end: one <= end, cron.after(begin)))  # type: ignore[misc]
            assert found == expected, (name, expression, change)
            # From any moment on they are the same ones: what is asked anew neither repeats one nor passes one over.
            for moment in (change, change + 10 * MINUTE, change + HOUR, change + timedelta(minutes=95, seconds=1)):
                rest = [one for one in expected if one > moment][:4]
                assert list(islice(cron.after(moment), len(rest))) == rest, (name, expression, moment)


@pytest.mark.parametrize("name", ["Europe/Vienna", "America/Santiago", "Australia/Lord_Howe"])
def test_a_time_of_the_day_comes_once_on_every_day_of_two_years(name: str) -> None:
    for expression in ("30 2 * * *", "0 0 * * *"):
        days = [
            one.astimezone(ZoneInfo(name)).date() for one in takewhile(lambda at: at < END, Cron(expression, name).after(BEGIN))
        ]
        assert len(days) == len(set(days))
        assert {(later - earlier).days for earlier, later in pairwise(days)} == {1}


def test_the_latest_times_of_a_long_while_are_the_last_ones_of_all() -> None:
    for calendar in (Cron("*/5 8-17 * * MON-FRI", "Europe/Vienna"), Cron("0 0 1 1 *"), Every(90)):
        begin, until = BEGIN, BEGIN + timedelta(days=400, seconds=7)
        every = list(takewhile(lambda one, until=until: one <= until, calendar.after(begin)))  # type: ignore[misc]
        for most in (0, 1, 100):
            assert latest(calendar, begin, until, most) == (every[-most:] if most else [])


def test_intervals_are_multiples_whenever_they_are_asked_for() -> None:
    found = list(islice(Every(900).after(datetime(2026, 5, 1, 10, 14, 59, 5, tzinfo=UTC)), 2))
    assert found == [datetime(2026, 5, 1, 10, 15, tzinfo=UTC), datetime(2026, 5, 1, 10, 30, tzinfo=UTC)]
    assert next(iter(Every(900).after(found[0]))) == found[1]


@pytest.mark.parametrize(
    "expression", ["0 9 * * MON-FRI", "*/5 * * * *", "0 0 L * *", "0 0 LW * *", "0 9 * * 5L", "0 9 * * 1#1", "15,45 8-17/3 1 jan *"]
)
def test_expressions_of_five_fields_are_taken(expression: str) -> None:
    assert checked_cron(f"  {expression} ") == expression


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("61 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * 31 2 *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * MOON", "bad day-of-week"),
        ("0 * * * * *", "five fields"),
        ("@daily", "five fields"),
        ("", "five fields"),
        ("*/0 * * * *", "bad minute"),
        ("0 0 30 FEB *", "bad day-of-month"),
    ],
)
def test_a_wrong_expression_is_refused_by_the_field(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        checked_cron(expression)


@pytest.mark.parametrize("name", ["Europe/Wien", "", "../etc/passwd", "Europe", "/etc/localtime", "europe/vienna"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        checked_zone(name)
