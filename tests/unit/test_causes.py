"""The tree of causes of a run: things above what they led to, whatever the order in which the archive gives the messages."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.causes import Cause, why
from services.gateway.domain import CLOCKS_DIFFER, chain_began
from shared.questions.logs import Link


def link(id_: str, cause: str | None, type_: str, second: int, run: str | None = None, **fields: str) -> Link:
    time = f"2026-01-31T09:30:{second:02}.000Z"
    return Link(time=time, type=type_, id=id_, causation_id=cause, run=run, message=f"m-{id_}", fields=fields)


CHAIN = [
    link("hook", None, "webhook.received", 0, delivery="d"),
    link("accepted", "hook", "event.accepted", 1, delivery="d", event="e"),
    link("asked", "accepted", "run.requested", 2, "r1"),
    link("routed", "accepted", "event.routed", 2, "r1", subscription="s1"),
    link("filtered", "accepted", "event.filtered", 3, subscription="s2"),
    link("started", "asked", "run.started", 4, "r1"),
    link("child", "started", "run.requested", 5, "r2"),
    link("emitted", "started", "event.accepted", 5, event="e2"),
    link("ended", "started", "run.succeeded", 6, "r1"),
    link("child-started", "child", "run.started", 6, "r2"),
    link("child-waits", "child-started", "run.waiting", 7, "r2"),
    link("again", "emitted", "run.requested", 8, "r3"),
]


def shape(nodes: list[Cause]) -> list[object]:
    return [(node.type, node.id, node.status, shape(node.led_to)) for node in nodes]


@settings(deadline=None)  # a machine that others share is slow now and then
@given(st.permutations(CHAIN))
def test_everything_stands_below_what_led_to_it(links: list[Link]) -> None:
    found = why("r2", links, cut=False)
    (hook,) = found.items
    (event,) = hook.led_to
    assert {(node.type, node.id) for node in event.led_to} == {("subscription", "s1"), ("filtered", "s2")}
    run = next(node for node in event.led_to if node.id == "s1").led_to[0]
    assert (run.id, run.status) == ("r1", "succeeded")
    assert {(node.type, node.id) for node in run.led_to} == {("run", "r2"), ("event", "e2")}
    assert found.path == ["d", "e", "s1", "r1", "r2"]


def test_the_tree_says_how_each_run_goes() -> None:
    (hook,) = why("r2", CHAIN, cut=True).items
    emitted = ("event", "e2", None, [("run", "r3", "queued", list[object]())])
    run = ("run", "r1", "succeeded", [("run", "r2", "waiting", list[object]()), emitted])
    assert shape(hook.led_to) == [("event", "e", None, [("subscription", "s1", None, [run]), ("filtered", "s2", None, [])])]


def test_a_run_that_somebody_asked_for_begins_with_the_request() -> None:
    found = why("r1", [link("r1", None, "run.requested", 0, "r1", requested_by="key", rerun_of="r0")], cut=False)
    assert shape(found.items) == [("request", "r1", None, [("run", "r1", "queued", [])])]
    assert (found.items[0].what, found.items[0].leads_here, found.path) == ("key asked for run r0 once more", True, ["r1"])


def test_what_is_not_archived_leads_nowhere_and_a_lost_cause_begins_a_tree() -> None:
    assert why("r9", CHAIN, cut=False).path == []
    assert why("r1", CHAIN[2:], cut=False).path == ["s1", "r1"]


def test_messages_that_cause_each_other_make_no_circle() -> None:
    links = [link("a", "b", "event.accepted", 0), link("b", "a", "event.accepted", 1)]
    assert shape(why("r1", links, cut=False).items) == [("event", "b", None, [("event", "a", None, [])])]


def test_a_chain_began_when_its_id_says_or_a_day_before_the_run() -> None:
    requested = datetime(2026, 11, 23, 16, 40, 30, 661443, tzinfo=UTC)
    began = chain_began("01a20947-ceb8-77cf-8dfe-e42240015d78", requested)
    assert began == datetime(2026, 11, 23, 16, 40, 30, 648000, tzinfo=UTC) - CLOCKS_DIFFER
    for other in ("d4db233a-1681-538b-a3f3-57adb62c2718", "of another kind"):
        assert chain_began(other, requested) == datetime(2026, 11, 22, 16, 35, 30, 661443, tzinfo=UTC)


def test_a_schedule_is_the_cause_of_its_run_though_its_message_comes_later() -> None:
    chain = [link("asked", "fired", "run.requested", 1, "r"), link("fired", None, "firing.fired", 2, schedule="s", name="nightly")]
    told = why("r", chain, cut=False)
    assert [(one.type, one.id, [below.id for below in one.led_to]) for one in told.items] == [("schedule", "s", ["r"])]
    assert told.path == ["s", "r"]


def test_a_run_that_resumes_another_is_below_it_by_who_asked() -> None:
    chain = [*CHAIN, link("r4", "asked", "run.requested", 9, "r4", requested_by="key:ops", resumes="r1")]
    found = why("r4", chain, cut=False)
    assert found.path == ["d", "e", "s1", "r1", "r4"]
    run = found.items[0].led_to[0].led_to[0].led_to[0]
    (request,) = (one for one in run.led_to if one.type == "request")
    assert (request.what, shape(request.led_to)) == ("key:ops asked to go on with run r1", [("run", "r4", "queued", [])])
