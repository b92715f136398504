from __future__ import annotations

import asyncio

import structlog

from shared import log
from shared.errors import Invalid, Unavailable
from shared.log import LONGEST, MOST_A_SECOND, RESERVED, WAITING, BusSink
from shared.messages import Logged


async def test_a_record_that_can_never_be_sent_holds_up_no_other() -> None:
    sink = BusSink("gateway")
    sent: list[str] = []
    all_sent = asyncio.Event()

    async def publish(logged: Logged, _correlation: str | None) -> None:
        if logged.event == "too-large":
            raise Invalid("the broker does not take this")
        sent.append(logged.event)
        if logged.event == "last":
            all_sent.set()

    async with sink.sending(publish):
        for event in ("first", "too-large", "last"):
            sink(None, "info", {"event": event})
        async with asyncio.timeout(5):
            await all_sent.wait()
    assert (sent, sink.dropped) == (["first", "last"], 1)


async def test_a_record_waits_for_a_broker_that_is_away() -> None:
    sink = BusSink("gateway")
    tries = 0
    sent = asyncio.Event()

    async def publish(_logged: Logged, _correlation: str | None) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("not connected")
        sent.set()

    async with sink.sending(publish):
        sink(None, "info", {"event": "once"})
        async with asyncio.timeout(5):
            await sent.wait()
    assert (tries, sink.dropped) == (2, 0)


async def test_a_field_is_cut_to_what_a_record_may_hold() -> None:
    sink = BusSink("gateway")
    records: list[Logged] = []

    async def publish(logged: Logged, _correlation: str | None) -> None:
        records.append(logged)

    async with sink.sending(publish):
        sink(None, "error", {"event": "failed", "reason": "x" * 10_000_000, "left": ValueError("y" * 10_000_000)})
    assert {len(value) for value in records[0].fields.values()} == {LONGEST}


def test_a_flood_is_dropped_and_counted_but_for_warnings_and_told_when_it_is_over() -> None:
    now = 0.0
    sink = BusSink("events", lambda: now)
    for number in range(WAITING + 300):
        sink(None, "info", {"event": "loop", "number": number})
    assert sink.dropped == 300
    sink._waiting.clear()
    sink(None, "error", {"event": "trouble"})
    # A second later so many records more are taken.
    now = 1.0
    for number in range(MOST_A_SECOND + 50):
        sink(None, "info", {"event": "loop", "number": number})
    events = [(logged.event, logged.fields.get("count")) for logged, _ in sink._waiting]
    assert events[:3] == [("log.dropped", 300), ("trouble", None), ("loop", None)]
    assert len(events) == 2 + MOST_A_SECOND
    assert sink.dropped == 350


def test_a_flood_of_debugging_leaves_room_for_the_rest() -> None:
    sink = BusSink("events", lambda: 0.0)
    for _ in range(WAITING):
        sink(None, "debug", {"event": "loop"})
    assert sink.dropped == WAITING - RESERVED
    sink._waiting.clear()
    for _ in range(RESERVED):
        sink(None, "info", {"event": "rest"})
    assert [logged.event for logged, _ in sink._waiting].count("rest") == RESERVED
    assert sink.dropped == WAITING - RESERVED


def test_a_level_counts_from_the_next_record_on_for_loggers_that_are_there_already() -> None:
    records: list[str] = []
    logger = structlog.get_logger()

    def kept(_logger: object, _method: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
        records.append(record["event"])
        raise structlog.DropEvent

    before = structlog.get_config()
    try:
        structlog.configure(processors=[kept])
        for level in ("info", "debug", "error", log.DEFAULT):
            log.set_level(level)
            assert (log.level(), log.is_debugging()) == (level, level == "debug")
            logger.debug("debug")
            logger.warning("warning")
    finally:
        structlog.configure(**before)
    assert records == ["warning", "debug", "warning", "warning"]
