"""What is done of a delivery, which types its subscriptions may want, and what is read of its runs."""

from __future__ import annotations

from typing import Any

import pytest

from services.events import domain
from services.events.outcomes import Routing, changes, done
from services.events.projections import DELIVERIES
from shared.envelope import seal, utc_now
from shared.errors import Invalid
from shared.messages import Message, RunRequested, RunStarted
from shared.pull import Delivered
from tests.support.said import accepted, filtered, routed, unroutable


@pytest.mark.parametrize(
    ("status", "is_done"),
    [("succeeded", True), ("running", True), ("queued", True), ("waiting", True), ("cancelling", True), ("delayed", True),
     ("failed", False), ("timed_out", False), ("crashed", False), ("cancelled", False), ("expired", False)],
)  # fmt: skip
def test_a_run_that_succeeded_or_goes_on_is_not_repeated(status: str, is_done: bool) -> None:
    _, changed = changes(Routing(), [accepted(), routed("a", "r"), unroutable("b"), filtered("c")])
    taken = {f"0/{of}": one for of, one in changed[0].outcomes.items()}
    assert done(taken, 0, {"r": status}) == ({"a"} if is_done else set())
    assert done(taken, 0, {}) == {"a"}
    assert done(taken, 1, {"r": status}) == set()


@pytest.mark.parametrize(
    ("pattern", "type_"),
    [("Order Completed", "Order Completed"), ("größe: ok? 100%", "größe: ok? 100%"), ("push", "push"), ("a..b", "a..b"),
     ("Order Completed.*", "Order Completed.v2"), ("pull_request.*", "pull_request.opened"), ("*", "a b"), ("日本語", "日本語")],
)  # fmt: skip
def test_any_printable_type_can_be_subscribed_to_and_wildcards_stay(pattern: str, type_: str) -> None:
    assert domain.matches(domain.checked_pattern(pattern), type_)
    assert pattern == "*" or not domain.matches(pattern, "another")


@pytest.mark.parametrize("pattern", ["", "a\nb", "a\x00", "pull*", "*.opened", "a.*.b", "**", ".*", "a\u202eb"])
def test_a_pattern_that_nobody_can_mean_is_refused_with_what_may_stand_there(pattern: str) -> None:
    with pytest.raises(Invalid, match="Order Completed") as refused:
        domain.checked_pattern(pattern)
    assert refused.value.errors[0].path == "event"


async def test_a_run_without_a_delivery_in_one_stream_may_have_one_in_another() -> None:
    connection: Any = None  # nothing is read

    def batch(message: Message) -> list[Delivered]:
        return [Delivered("run.r", seal(message, service="executor", org="default", now=utc_now()).document, 1, utc_now(), {}, 0)]

    asked: dict[str, Any] = {"run": "r", "workflow": "w", "version": "v", "requested_by": "t", "timeout": 1.0, "input": {}}
    begun = RunStarted(run="r", attempt=1, executor="e", tier="A")
    without, beside = (DELIVERIES["runs"][1]() for _ in range(2))
    assert await without(batch(RunRequested(**asked)), "inc", connection) == []
    assert await without(batch(begun), "inc", connection) == []
    assert len(await beside(batch(RunRequested(**asked, delivery="d")), "inc", connection)) == 1
    assert len(await beside(batch(begun), "inc", connection)) == 1
