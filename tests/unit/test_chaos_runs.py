"""The arithmetic of the drill of runs: a drill that cannot see a fault would praise everything."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from shared.envelope import Envelope, seal
from shared.messages import Message, RunRequested, RunResumed, RunStarted, RunStepCompleted, RunSucceeded, RunUsage, RunWaiting
from shared.pull import Delivered
from tests.chaos.report import HEADS, RUNS, WEBHOOKS, written
from tests.chaos.runs.asker import Asked
from tests.chaos.runs.evidence import busy, note
from tests.chaos.runs.kinds import KINDS, OF_NAME, Order, orders
from tests.chaos.runs.verdict import BusFacts, RowFacts, RunFacts, begun_again, findings, overlaps
from tests.chaos.verdict import Mark

NOW = datetime(2026, 1, 1, tzinfo=UTC)
replaced = msgspec.structs.replace


def asked(kind: str = "takes turns", **fields: object) -> Asked:
    return Asked(order=Order(kind=OF_NAME[kind], token="t", input={}), **({"run": "r"} | fields))


def good(**fields: object) -> tuple[BusFacts, RowFacts]:
    run = RunFacts(
        requested=1,
        workflow="drill-keyed",
        token="t",
        claims=["c"],
        began=50,
        recorded={"step/s0/0": [100]},
        ends=["succeeded"],
        result={"token": "t"},
    )
    return BusFacts(runs={"r": replaced(run, **fields)}, stored=4), RowFacts(states={"r": "succeeded"}, archived=4)


def kinds(bus: BusFacts, rows: RowFacts, *marks: Mark, one: Asked | None = None) -> set[str]:
    return {found.kind for found in findings([one or asked()], bus, rows, marks)}


def test_nothing_is_wrong_with_one_run_that_ended_once() -> None:
    assert kinds(*good(), Mark("attempt", "t", "-", 20), Mark("step", "t", "s0", 90)) == set()


def test_a_step_may_be_repeated_until_it_is_recorded_and_not_after() -> None:
    assert kinds(*good(), Mark("step", "t", "s0", 90), Mark("step", "t", "s0", 99)) == set()
    assert kinds(*good(), Mark("step", "t", "s0", 90), Mark("step", "t", "s0", 101)) == {"duplicated"}
    assert kinds(*good(), Mark("step", "another", "s0", 101)) == set()


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"requested": 0}, {"lost"}),
        ({"requested": 2}, {"duplicated"}),
        ({"ends": []}, {"stuck"}),
        ({"ends": ["succeeded", "crashed"]}, {"duplicated"}),
        ({"after_end": ["step_completed"]}, {"duplicated"}),
        ({"zombies": ["step_completed"]}, {"duplicated"}),
        ({"recorded": {"step/s0/0": [100, 110]}}, {"duplicated"}),
        ({"ends": ["failed"]}, {"wrong", "disagrees"}),
        ({"result": {"token": "another"}}, {"wrong"}),
    ],
)
def test_each_fault_on_the_bus_is_seen(fields: dict[str, object], seen: set[str]) -> None:
    assert kinds(*good(**fields)) == seen


def test_each_fault_in_the_rows_is_seen() -> None:
    bus, rows = good()
    assert kinds(bus, replaced(rows, states={})) == {"lost"}
    assert kinds(bus, replaced(rows, states={"r": "running"})) == {"stuck"}
    assert kinds(bus, replaced(rows, states={"r": "failed"})) == {"disagrees"}
    assert kinds(bus, replaced(rows, turns=["r"])) == {"leaked"}
    assert kinds(bus, replaced(rows, archived=3)) == {"disagrees"}
    assert kinds(replaced(bus, dead=1), rows) == {"wrong"}
    assert kinds(BusFacts(stored=4), rows) == {"lost"}


def test_what_was_done_to_a_run_decides_how_it_may_end() -> None:
    bus, rows = good(ends=["succeeded"])
    assert kinds(bus, rows, one=asked(cancelled=True)) == {"wrong"}
    assert kinds(bus, rows, one=asked(refusal="422")) == {"wrong"}
    assert kinds(bus, rows, one=asked(not_before="2026-01-01T00:00:00Z")) == {"wrong"}
    failed = RowFacts(states={"r": "failed"}, archived=4)
    assert kinds(good(ends=["failed"], failures=2)[0], failed, one=asked("fails each time")) == set()
    assert kinds(good(ends=["failed"], failures=1)[0], failed, one=asked("fails each time")) == {"wrong"}
    poisoned = RowFacts(states={"r": "crashed"}, archived=4)
    assert kinds(good(ends=["crashed"], reason="poison", lost_in_a_row=2)[0], poisoned) == set()
    assert kinds(good(ends=["crashed"], reason="poison", lost_in_a_row=1)[0], poisoned) == {"wrong"}


def test_children_are_counted_and_judged_like_other_runs() -> None:
    bus, _ = good(result={"token": "t", "total": 3})
    child = RunFacts(requested=1, parent="r", token="t.0", ends=["succeeded"])
    two = {"r": bus.runs["r"], "a": child, "b": child}
    states = RowFacts(states=dict.fromkeys(("r", "a", "b", "c"), "succeeded"), archived=4)
    parent = asked("has children")
    assert kinds(replaced(bus, runs=two), states, one=parent) == set()
    assert kinds(replaced(bus, runs=two | {"c": child}), states, one=parent) == {"duplicated"}
    assert kinds(replaced(bus, runs=two | {"b": replaced(child, ends=[])}), states, one=parent) == {"stuck"}
    failed = replaced(bus.runs["r"], ends=["failed"])
    rows = replaced(states, states=states.states | {"r": "failed", "b": "crashed"})
    poisoned = replaced(child, ends=["crashed"], reason="poison", lost_in_a_row=2)
    assert kinds(replaced(bus, runs=two | {"r": failed, "b": poisoned}), rows, one=parent) == set()
    assert kinds(replaced(bus, runs=two | {"r": failed, "b": replaced(poisoned, lost_in_a_row=1)}), rows, one=parent) == {"wrong"}


def test_two_runs_of_one_key_at_a_time_are_seen_and_one_that_was_killed_is_not() -> None:
    apart = [Mark("enter", "a", "k", 1), Mark("leave", "a", "k", 2), Mark("enter", "b", "k", 3), Mark("leave", "b", "k", 4)]
    assert overlaps(apart) == []
    assert overlaps([*apart, Mark("enter", "killed", "k", 1)]) == []
    across = [Mark("enter", "a", "k", 1), Mark("enter", "b", "k", 2), Mark("leave", "a", "k", 3), Mark("leave", "b", "k", 4)]
    assert [one.kind for one in overlaps(across)] == ["wrong"]


def test_a_slot_that_is_held_for_nothing_is_seen() -> None:
    assert busy({"first": {"slots": 16, "taken": 0, "serving": 0}}) == []
    assert [one.kind for one in busy({"first": {"slots": 16, "taken": 1}, "second": None})] == ["leaked", "leaked"]


def test_facts_are_made_of_messages_and_show_what_a_superseded_claim_said() -> None:
    facts = BusFacts()
    sequence = 0

    def say(message: Message, cause: Envelope | None = None) -> Envelope:
        nonlocal sequence
        sequence += 1
        sealed = seal(message, service="executor", org="default", now=NOW, cause=cause)
        note(facts, sealed.envelope, Delivered("run", sealed.document, sequence, NOW, {}, 0))
        return sealed.envelope

    request = RunRequested(run="r", workflow="w", version="v", requested_by="x", timeout=1.0, input={"token": "t"})
    say(request)
    first = say(RunStarted(run="r", attempt=1, executor="one", tier="none"))
    second = say(RunStarted(run="r", attempt=2, executor="two", tier="none"))
    say(RunStepCompleted(run="r", attempt=1, name="s0", ordinal=0, result=1), first)
    say(RunWaiting(run="r", attempt=2, blocked_on="retry"), second)
    say(RunResumed(run="r", priority="normal"))
    third = say(RunStarted(run="r", attempt=3, executor="two", tier="none"))
    say(RunSucceeded(run="r", attempt=3, result={"token": "t"}, duration_ms=1.0, usage=RunUsage()), third)
    run = facts.runs["r"]
    assert (run.zombies, run.failures, run.ends, run.after_end) == (["step_completed"], 1, ["succeeded"], [])
    assert (run.token, run.result, len(run.claims), facts.stored) == ("t", {"token": "t"}, 3, 8)
    assert begun_again(facts) == (1, 1)
    say(RunWaiting(run="r", attempt=3, blocked_on="time"))
    assert run.after_end == ["waiting"]


def test_the_same_seed_asks_for_the_same_runs_of_every_kind() -> None:
    assert list(orders(200, 7, "f")) == list(orders(200, 7, "f"))
    assert list(orders(200, 7, "f")) != list(orders(200, 8, "f"))
    assert set(Counter(order.kind.name for order in orders(len(KINDS), 7, "f")).values()) == {1}
    assert len({order.token for order in orders(200, 7, "f")}) == 200


def test_each_drill_writes_its_own_part_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    written(WEBHOOKS, HEADS[WEBHOOKS] + "\none", page)
    written(RUNS, HEADS[RUNS] + "\ntwo", page)
    written(WEBHOOKS, HEADS[WEBHOOKS] + "\nthree", page)
    assert page.read_text() == "# The kill matrix\n\nthree\n\n## Runs of every kind, over two executors\n\ntwo\n"
