"""The tree of `runs why`: causes above what they caused, whatever the order in which the archive gives them."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.cli.why import SLACK, beginning, drawn, path_to


def row(id_: str, cause: str | None, type_: str, second: int, run: str | None = None) -> dict[str, Any]:
    time = f"2026-01-31T09:30:{second:02}.000Z"
    return {"id": id_, "causation_id": cause, "type": type_, "time": time, "run": run, "message": f"m-{id_}", "level": "info"}


CHAIN = [
    row("hook", None, "webhook.received", 0),
    row("event", "hook", "event.accepted", 1),
    row("routed", "event", "event.routed", 2),
    row("asked", "event", "run.requested", 2, "r1"),
    row("other", "event", "run.requested", 3, "r2"),
    row("started", "asked", "run.started", 4, "r1"),
    row("child", "started", "run.requested", 5, "r3"),
    row("ended", "started", "run.succeeded", 6, "r1"),
]


@settings(deadline=None)  # a machine that others share is slow now and then
@given(st.permutations(CHAIN))
def test_what_led_to_a_run_is_marked_from_the_first_message_to_its_request(rows: list[dict[str, Any]]) -> None:
    path = path_to("r3", rows)
    assert path == ["hook", "event", "asked", "started", "child"]
    lines = [text for _, text in drawn(rows, set(path))]
    assert min(lines, key=lambda line: "└" in line or "├" in line).endswith("webhook.received  m-hook")
    marked = [line for line in lines if " * " in line]
    assert [line.rpartition(" ")[2] for line in marked] == ["m-hook", "m-event", "m-asked", "m-started", "m-child"]
    assert len(lines) == len(rows)


def test_the_tree_is_drawn_by_cause_with_the_time_since() -> None:
    assert [text for _, text in drawn(CHAIN, set(path_to("r1", CHAIN)))] == [
        "09:30:00.000            * webhook.received  m-hook",
        "09:30:01.000   +1000 ms * └ event.accepted  m-event",
        "09:30:02.000   +1000 ms     ├ event.routed  m-routed",
        "09:30:02.000   +1000 ms *   ├ run.requested  m-asked",
        "09:30:04.000   +2000 ms *   │ └ run.started  m-started".replace("ms *", "ms  "),
        "09:30:05.000   +1000 ms     │   ├ run.requested  m-child",
        "09:30:06.000   +2000 ms     │   └ run.succeeded  m-ended",
        "09:30:03.000   +2000 ms     └ run.requested  m-other",
    ]


def test_what_is_not_archived_leads_nowhere_and_a_lost_cause_makes_a_root() -> None:
    assert path_to("r9", CHAIN) == []
    rest = CHAIN[3:]
    assert path_to("r1", rest) == ["asked"]
    assert len(list(drawn(rest, set()))) == len(rest)


def test_a_chain_began_when_its_id_says_or_a_day_before_the_run() -> None:
    requested = {"requested_at": "2026-11-23T16:40:30.661443Z"}
    by_id = beginning({**requested, "correlation_id": "01a20947-ceb8-77cf-8dfe-e42240015d78"})
    assert by_id == datetime(2026, 11, 23, 16, 40, 30, 648000, tzinfo=UTC) - SLACK
    for other in ("d4db233a-1681-538b-a3f3-57adb62c2718", "of another kind"):
        assert beginning({**requested, "correlation_id": other}).isoformat() == "2026-11-22T16:35:30.661443+00:00"
