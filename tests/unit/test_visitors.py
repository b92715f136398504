"""Visitors without a key: bounded by their address, and all together."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from services.gateway import visitors
from services.gateway.visitors import ALL, EACH, MOST, RATE, Visitors
from shared.errors import TooMany


def test_an_address_has_some_at_a_time_and_leaves_room_for_others() -> None:
    some = Visitors()
    with ExitStack() as stack:
        for _ in range(EACH):
            stack.enter_context(some.one("192.0.2.1"))
        with pytest.raises(TooMany, match="at the same time"), some.one("192.0.2.1"):
            pass
        stack.enter_context(some.one("192.0.2.2"))
        for _ in range(ALL - EACH - 1):
            stack.enter_context(some.one(None))
        with pytest.raises(TooMany, match="at the same time"), some.one(None):
            pass
    with some.one("192.0.2.1"):
        pass


def test_those_who_wait_for_what_one_organization_has_leave_room_for_others() -> None:
    some = Visitors(share=2)
    with some.one(None, "acme"), some.one(None, "acme"):
        with pytest.raises(TooMany, match="at the same time"), some.one(None, "acme"):
            pass
        with some.one(None, "other"), some.one(None):
            pass
    with some.one(None, "acme"):
        pass


def test_an_address_asks_so_often_and_others_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    some, now = Visitors(), 1000.0
    monkeypatch.setattr(visitors.time, "monotonic", lambda: now)
    for _ in range(RATE.burst or 0):
        with some.one("192.0.2.1"):
            pass
    with pytest.raises(TooMany, match="too often") as refused, some.one("192.0.2.1"):
        pass
    assert refused.value.retry_after == pytest.approx(1)
    with some.one("192.0.2.2"):
        pass
    now += 1
    with some.one("192.0.2.1"):
        pass
    for number in range(MOST):
        with some.one(f"host{number}"):
            pass
    assert len(some._buckets) == MOST
