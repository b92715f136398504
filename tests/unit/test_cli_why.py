"""The tree of `runs why`: what the API answered, drawn."""

from typing import Any

from millrace.cli.why import drawn


def node(
    type_: str, id_: str, second: int, *led_to: dict[str, Any], status: str | None = None, here: bool = False
) -> dict[str, Any]:
    time = f"2026-01-31T09:30:{second:02}.000Z"
    told = {"type": type_, "id": id_, "status": status, "leads_here": here, "led_to": list(led_to)}
    return {**told, "time": time, "what": f"m-{id_}", "message": f"x-{id_}"}


def test_the_tree_is_drawn_by_cause_with_the_time_since() -> None:
    child = node("run", "r2", 5, status="running")
    run = node("run", "r1", 3, child, node("event", "e2", 6), status="succeeded", here=True)
    event = node("event", "e1", 1, node("subscription", "s1", 2, run, here=True), node("filtered", "s2", 2), here=True)
    assert [text for _, text in drawn([node("webhook", "d", 0, event, here=True), node("request", "q", 9)])] == [
        "09:30:00.000            * webhook d  m-d",
        "09:30:01.000   +1000 ms * └ event e1  m-e1",
        "09:30:02.000   +1000 ms *   ├ subscription s1  m-s1",
        "09:30:03.000   +1000 ms *   │ └ run r1 succeeded  m-r1",
        "09:30:05.000   +2000 ms     │   ├ run r2 running  m-r2",
        "09:30:06.000   +3000 ms     │   └ event e2  m-e2",
        "09:30:02.000   +1000 ms     └ filtered s2  m-s2",
        "09:30:09.000              request q  m-q",
    ]
