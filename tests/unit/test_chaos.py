"""The kill matrix' own arithmetic: a drill that cannot see a fault would praise everything."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from tests.chaos.verdict import Mark
from tests.chaos.webhooks.plan import COUNTED, IGNORED, NOOP, TARGETS, chosen, plan
from tests.chaos.webhooks.sender import Sent
from tests.chaos.webhooks.verdict import BusFacts, RowFacts, begun_again, findings, unarchived

SENT = [Sent(cell="events:kill", event="push", sender_delivery="s", delivery="d")]


def good() -> tuple[BusFacts, RowFacts]:
    bus = BusFacts(
        webhooks={"d": 1},
        delivery_of={"e": "d"},
        runs={"d": {"r"}},
        ends={"r": ["succeeded"]},
        recorded={"r": {("once", 0): [100]}},
        stored={"RUNS": 4},
    )
    return bus, RowFacts(
        deliveries={"d": "routed"}, runs={"d": {"r": "succeeded"}}, states={"r": "succeeded"}, archived={"RUNS": 4}
    )


def kinds(bus: BusFacts, rows: RowFacts, *marks: Mark) -> set[str]:
    return {one.kind for one in findings(SENT, bus, rows, marks)}


def test_nothing_is_wrong_with_one_run_that_ended_once() -> None:
    assert (
        kinds(*good(), Mark("step", "e", "once", 90), Mark("attempt", "e", "once", 80), Mark("attempt", "e", "once", 110)) == set()
    )


def test_a_step_may_be_repeated_until_it_is_recorded_and_not_after() -> None:
    assert kinds(*good(), Mark("step", "e", "once", 90), Mark("step", "e", "once", 95)) == set()
    assert kinds(*good(), Mark("step", "e", "once", 90), Mark("step", "e", "once", 101)) == {"duplicated"}


def test_runs_that_were_begun_again_are_told_apart_by_their_step() -> None:
    bus, _ = good()
    assert begun_again(bus, [Mark("attempt", "e", "once", 80)]) == (0, 0)
    assert begun_again(bus, [Mark("attempt", "e", "once", 80), Mark("attempt", "e", "once", 99)]) == (1, 0)
    assert begun_again(bus, [Mark("attempt", "e", "once", 80), Mark("attempt", "e", "once", 110)]) == (1, 1)


def test_each_fault_is_seen() -> None:
    bus, rows = good()
    replaced = msgspec.structs.replace
    assert kinds(replaced(bus, webhooks={}), rows) == {"lost"}
    assert kinds(bus, replaced(rows, deliveries={})) == {"lost"}
    assert kinds(replaced(bus, runs={}), replaced(rows, runs={})) == {"lost"}
    assert kinds(replaced(bus, webhooks={"d": 2}), rows) == {"duplicated"}
    assert kinds(replaced(bus, ends={"r": ["succeeded", "crashed"]}), rows) == {"duplicated", "failed"}
    assert kinds(replaced(bus, recorded={"r": {("once", 0): [100, 110]}}), rows) == {"duplicated"}
    assert kinds(replaced(bus, runs={"d": {"r", "q"}}), rows) == {"duplicated", "stuck", "disagrees"}
    assert kinds(replaced(bus, ends={}), rows) == {"stuck", "disagrees"}
    assert kinds(bus, replaced(rows, states={"r": "running"})) == {"stuck"}
    assert kinds(bus, replaced(rows, runs={"d": {"r": "running"}})) == {"disagrees"}
    assert unarchived(bus, replaced(rows, archived={"RUNS": 3})) == {"RUNS": 1}


def test_a_webhook_that_nobody_wants_ends_filtered_and_starts_nothing() -> None:
    ignored = [Sent(cell="c", event=IGNORED, sender_delivery="s", delivery="d")]
    bus, rows = BusFacts(webhooks={"d": 1}, filtered={"d"}), RowFacts(deliveries={"d": "filtered"})
    assert bus.ended("d")
    assert findings(ignored, bus, rows, []) == []
    assert [one.kind for one in findings(ignored, bus, RowFacts(deliveries={"d": "accepted"}), [])] == ["lost"]
    assert [one.kind for one in findings(ignored, *good(), [])] == ["lost", "duplicated"]


def test_webhooks_that_were_never_accepted_are_not_lost() -> None:
    assert findings([Sent(cell="c", event="push", sender_delivery="s")], BusFacts(), RowFacts(), []) == []


def test_the_plan_sends_exactly_as_many_as_were_asked_for() -> None:
    planned = plan(chosen(""), webhooks=20_000, rate=40, runs_every=8, pause=10, long_pause=35, around=14)
    assert planned.webhooks == 20_000
    assert [(cell.target, cell.how) for cell in planned.cells] == [(target, how) for target in TARGETS for how in ("kill", "pause")]
    assert {cell.pause for cell in planned.cells if cell.how == "pause"} == {10, 35}
    flow = Counter(event for cell in planned.cells for event in planned.flow(cell))
    assert flow[IGNORED] == pytest.approx(17_500, abs=20)
    assert flow[COUNTED] == pytest.approx(flow[NOOP], abs=20)
    # The flow goes on during every pause.
    assert all(cell.webhooks / planned.rate > planned.lead + cell.pause for cell in planned.cells)


def test_targets_are_chosen_whole_or_one_way() -> None:
    assert chosen("nats, events:pause") == [("events", "pause"), ("nats", "kill"), ("nats", "pause")]
    with pytest.raises(ValueError, match="redis"):
        chosen("redis")
