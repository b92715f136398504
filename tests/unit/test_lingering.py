"""What a reader waits for before it hands out what has come."""

from __future__ import annotations

import asyncio

import nats
import pytest
from nats.aio.msg import Msg

from shared import lingering
from shared.lingering import Lingering

FOR_EVER = 3600.0
ENDS = frozenset({"run.succeeded", "run.failed"})


class Coming:
    """Messages that come one after the other, as soon as they are waited for."""

    def __init__(self, *subjects: str) -> None:
        self.left = [message(subject) for subject in subjects]

    async def take(self, _seconds: float) -> list[Msg]:
        return [self.left.pop(0)] if self.left else []


def message(subject: str) -> Msg:
    return Msg(nats.NATS(), subject=subject, data=b"{}")


async def gathered(one: Lingering, first: str, coming: Coming, most: int = 100) -> int:
    arrived = [message(first)]
    async with asyncio.timeout(20):
        await one.gather(arrived, coming.take, most)
    return len(arrived)


async def test_a_run_that_is_alone_is_handed_out_when_it_has_ended() -> None:
    one = Lingering(FOR_EVER, ENDS)
    coming = Coming("run.a.started", "run.a.step_completed", "run.a.succeeded", "run.b.requested.high")
    assert await gathered(one, "run.a.requested.high", coming) == 4
    assert await gathered(one, "run.b.requested.high", Coming("run.b.failed")) == 2
    assert await gathered(one, "run.c.succeeded", Coming()) == 1


async def test_an_end_waits_with_others_while_more_is_to_come_of_any_run() -> None:
    one = Lingering(0.001, ENDS)
    assert await gathered(one, "run.a.requested.high", Coming("run.b.requested.high", "run.a.succeeded")) == 3
    one = Lingering(FOR_EVER, ENDS)
    coming = Coming("run.b.requested.high", "run.a.succeeded")
    waiting = asyncio.create_task(gathered(one, "run.a.requested.high", coming))
    while len(coming.left) > 1:
        await asyncio.sleep(0)
    with one.hurried():
        assert await waiting == 3


async def test_a_run_that_takes_long_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Lingering(0.001, ENDS)
    assert await gathered(one, "run.long.started", Coming()) == 1
    monkeypatch.setattr(lingering, "EXPECTED_FOR", 0.0)
    one._seconds = FOR_EVER
    assert await gathered(one, "run.a.succeeded", Coming("run.b.started")) == 1


async def test_nothing_is_waited_for_while_somebody_waits_or_when_enough_has_come() -> None:
    for one in (Lingering(FOR_EVER, ENDS), Lingering(FOR_EVER)):
        with one.hurried(), one.hurried():
            assert await gathered(one, "run.a.started", Coming("run.a.step_completed")) == 1
    assert await gathered(Lingering(FOR_EVER), "run.a.started", Coming(), most=1) == 1
    coming = Coming("run.a.step_completed", "run.a.step_completed", "run.a.step_completed")
    assert await gathered(Lingering(FOR_EVER, ENDS), "run.a.started", coming, most=3) == 3
