"""What a delivery tells of its subscriptions, whatever the batches and the order in which its messages come."""

from __future__ import annotations

import sys
from itertools import permutations
from typing import Any

import msgspec
import pytest

from services.events import domain
from services.events.projections import DELIVERIES
from services.events.routing import Routing, done, routing
from shared.envelope import seal, utc_now
from shared.errors import Invalid
from shared.messages import EventAccepted, EventFiltered, EventRouted, EventUnroutable, Message, RunRequested, RunStarted
from shared.pull import Delivered

Said = EventAccepted | EventRouted | EventFiltered | EventUnroutable


def accepted(number: int = 0, **more: object) -> EventAccepted:
    made = EventAccepted(
        source="s", source_name="repo", event="e", delivery="d", type="push", headers={}, received_at="t", number=number
    )
    return msgspec.structs.replace(made, **more)


def routed(subscription: str, run: str, number: int = 0) -> EventRouted:
    return EventRouted(
        source="s", event="e", delivery="d", subscription=subscription, subscription_name=subscription, workflow="w", run=run,
        number=number,
    )  # fmt: skip


def filtered(subscription: str | None, *, failed: bool = False) -> EventFiltered:
    reason = f"{subscription} failed" if failed else f"{subscription} filtered"
    return EventFiltered(source="s", event="e", delivery="d", subscription=subscription, reason=reason, failed=failed)


def unroutable(subscription: str) -> EventUnroutable:
    return EventUnroutable(
        source="s", event="e", delivery="d", subscription=subscription, workflow="w", reason=f"no {subscription}"
    )


def after(*messages: Said, before: Routing | None = None) -> Routing:
    found = before or Routing()
    for message in messages:
        # As between two batches: through a row.
        found = routing(msgspec.convert(msgspec.to_builtins(found), Routing), [message])
    return found


@pytest.mark.parametrize(
    ("messages", "outcome", "reason"),
    [
        ([filtered(None)], "filtered", "None filtered"),
        ([filtered("a"), filtered("b")], "filtered", "a filtered"),
        ([filtered("a"), filtered("b", failed=True)], "filtered", "b failed"),
        ([routed("a", "r"), filtered("b")], "routed", None),
        ([routed("a", "r"), filtered("b", failed=True)], "routed", "b failed"),
        ([routed("a", "r"), filtered("b", failed=True), unroutable("c")], "unroutable", "no c"),
    ],
)
def test_the_outcome_and_its_reason_do_not_depend_on_the_order(messages: list[Said], outcome: str, reason: str | None) -> None:
    each = [after(accepted(), *order) for order in permutations(messages)]
    assert {(one.outcome, one.reason) for one in each} == {(outcome, reason)}
    told = {key: (taken.status, taken.run) for key, taken in each[0].subscriptions.items()}
    assert all({key: (taken.status, taken.run) for key, taken in one.subscriptions.items()} == told for one in each)


def test_any_division_into_batches_gives_the_same() -> None:
    said = [
        *(accepted(0), unroutable("a"), routed("b", "r1"), accepted(1), routed("a", "r2", number=1), filtered("c", failed=True)),
        *(accepted(retried_by="x", skip=["b"]), filtered("a"), accepted(1, retried_by="x"), filtered("c"), unroutable("c")),
    ]
    one_by_one = after(*said)
    for first in range(len(said)):
        for second in range(first, len(said)):
            whole = routing(routing(routing(Routing(), said[:first]), said[first:second]), said[second:])
            assert whole == one_by_one


def test_a_message_costs_the_same_however_many_events_a_delivery_has() -> None:
    def calls(events: int) -> int:
        said: list[Said] = [accepted(number) for number in range(events)]
        said += [routed(name, f"{number}{name}", number) for name in "abc" for number in range(events)]
        counted = 0

        def count(*_: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count)
        try:
            routing(Routing(), said)
        finally:
            sys.setprofile(None)
        return counted

    assert calls(400) < 5 * calls(100)


def test_a_retry_keeps_what_it_skips_and_sets_back_the_rest() -> None:
    first = after(accepted(), routed("a", "r1"), unroutable("b"))
    again = after(accepted(retried_by="x", skip=["a"]), before=first)
    assert (again.outcome, again.reason, list(again.subscriptions)) == ("routed", None, ["0/a"])
    assert after(routed("b", "r2"), before=again).outcome == "routed"
    everything = after(accepted(retried_by="x"), before=first)
    assert (everything.outcome, everything.subscriptions) == ("accepted", {})


def test_events_of_one_delivery_are_kept_apart() -> None:
    first = after(accepted(0), accepted(1), routed("a", "r0"), routed("a", "r1", number=1))
    again = after(accepted(1, retried_by="x"), before=first)
    assert list(again.subscriptions) == ["0/a"]


def test_a_delivery_of_an_earlier_version_keeps_its_outcome() -> None:
    before = Routing(type="push", outcome="unroutable", reason="no b")
    assert (after(routed("a", "r"), before=before).outcome, after(routed("a", "r"), before=before).reason) == ("unroutable", "no b")


@pytest.mark.parametrize(
    ("status", "is_done"),
    [("succeeded", True), ("running", True), ("queued", True), ("waiting", True), ("cancelling", True), ("delayed", True),
     ("failed", False), ("timed_out", False), ("crashed", False), ("cancelled", False), ("expired", False)],
)  # fmt: skip
def test_a_run_that_succeeded_or_goes_on_is_not_repeated(status: str, is_done: bool) -> None:
    found = after(accepted(), routed("a", "r"), unroutable("b"), filtered("c"))
    assert done(found.subscriptions, 0, {"r": status}) == ({"a"} if is_done else set())
    assert done(found.subscriptions, 0, {}) == {"a"}
    assert done(found.subscriptions, 1, {"r": status}) == set()


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
