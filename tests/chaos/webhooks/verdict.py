"""What the facts of a drill add up to: for each webhook that was accepted, what is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from tests.chaos.verdict import TERMINAL, Finding, Mark
from tests.chaos.webhooks.plan import IGNORED
from tests.chaos.webhooks.sender import Sent

LOST, DUPLICATED, STUCK, FAILED, DISAGREES = KINDS = ("lost", "duplicated", "stuck", "failed", "disagrees")
# What time may heal: rows follow the bus.
PASSING = (LOST, STUCK, DISAGREES)


class BusFacts(msgspec.Struct, kw_only=True):
    """What the streams hold. Times are nanoseconds since 1970; `delivery_of` is by event, `recorded` by run and step."""

    webhooks: dict[str, int] = {}
    delivery_of: dict[str, str] = {}
    filtered: set[str] = set()
    runs: dict[str, set[str]] = {}
    ends: dict[str, list[str]] = {}
    recorded: dict[str, dict[tuple[str, int], list[int]]] = {}
    dead: list[str] = []
    stored: dict[str, int] = {}

    def ended(self, delivery: str) -> bool:
        """Return whether a delivery was filtered out, or has a run and all of its runs have their end."""
        runs = self.runs.get(delivery)
        return delivery in self.filtered or (bool(runs) and all(run in self.ends for run in runs or ()))


class RowFacts(msgspec.Struct, kw_only=True):
    """What Postgres holds: outcomes by delivery, statuses of runs as events and as the executor keep them, archived counts."""

    deliveries: dict[str, str] = {}
    runs: dict[str, dict[str, str]] = {}
    states: dict[str, str] = {}
    archived: dict[str, int] = {}


def findings(sent: Iterable[Sent], bus: BusFacts, rows: RowFacts, marks: Sequence[Mark]) -> list[Finding]:
    """Return all that is wrong with the webhooks that were accepted, each kind at most once per webhook."""
    executed: dict[str, list[int]] = {}
    for mark in marks:
        if mark.what == "step" and mark.token in bus.delivery_of:
            executed.setdefault(bus.delivery_of[mark.token], []).append(mark.at)
    found: list[Finding] = []
    for one in sent:
        if one.delivery is None:
            continue
        complaints = (
            (LOST, _lost(one.delivery, bus, rows, wanted=one.event != IGNORED)),
            (DUPLICATED, _duplicated(one.delivery, bus, executed.get(one.delivery, ()), wanted=one.event != IGNORED)),
            (STUCK, _stuck(one.delivery, bus, rows)),
            (FAILED, _failed(one.delivery, bus)),
            (DISAGREES, _disagrees(one.delivery, bus, rows)),
        )
        found += [Finding(one.cell, kind, one.delivery, detail) for kind, detail in complaints if detail]
    return found


def _lost(delivery: str, bus: BusFacts, rows: RowFacts, *, wanted: bool) -> str | None:
    if delivery not in bus.webhooks:
        return "accepted, and not on the bus"
    if delivery not in rows.deliveries:
        return "accepted, and without a row"
    if wanted and not bus.runs.get(delivery):
        return f"accepted, and without a run: {rows.deliveries[delivery]}"
    if not wanted and rows.deliveries[delivery] != "filtered":
        return f"accepted, and neither routed nor filtered: {rows.deliveries[delivery]}"
    return None


def _duplicated(delivery: str, bus: BusFacts, executed: Sequence[int], *, wanted: bool) -> str | None:
    runs = bus.runs.get(delivery, set())
    if bus.webhooks.get(delivery, 0) > 1:
        return f"stored {bus.webhooks[delivery]} times"
    if len(runs) > int(wanted):
        return f"{len(runs)} runs"
    for run in runs:
        if len(bus.ends.get(run, ())) > 1:
            return f"run {run} ended {len(bus.ends[run])} times: {', '.join(bus.ends[run])}"
        for times in bus.recorded.get(run, {}).values():
            if len(times) > 1:
                return f"run {run} recorded a step {len(times)} times"
            if any(at > times[0] for at in executed):
                return f"run {run} executed its step again after it was recorded"
    return None


def _stuck(delivery: str, bus: BusFacts, rows: RowFacts) -> str | None:
    for run in bus.runs.get(delivery, ()):
        if run not in bus.ends:
            return f"run {run} has no end on the bus and is {rows.states.get(run, 'without a row')}"
        if rows.states.get(run) not in TERMINAL:
            return f"run {run} ended on the bus and its row says {rows.states.get(run)}"
    return None


def _failed(delivery: str, bus: BusFacts) -> str | None:
    for run in bus.runs.get(delivery, ()):
        if any(end != "succeeded" for end in bus.ends.get(run, ())):
            return f"run {run} {bus.ends[run][0]}"
    return None


def _disagrees(delivery: str, bus: BusFacts, rows: RowFacts) -> str | None:
    on_bus = {run: (bus.ends.get(run) or ["no end"])[0] for run in bus.runs.get(delivery, ())}
    if rows.runs.get(delivery, {}) != on_bus:
        return f"the bus has {on_bus}, the delivery's rows {rows.runs.get(delivery, {})}"
    return None


def begun_again(bus: BusFacts, marks: Iterable[Mark]) -> tuple[int, int]:
    """Return how many events' runs had more than one attempt, and how many of them one after their step was recorded."""
    attempts: dict[str, list[int]] = {}
    for mark in marks:
        if mark.what == "attempt":
            attempts.setdefault(mark.token, []).append(mark.at)
    again = {event: max(times) for event, times in attempts.items() if len(times) > 1}
    resumed = 0
    for event, last in again.items():
        runs = bus.runs.get(bus.delivery_of.get(event, ""), ())
        recorded = [times[0] for run in runs for times in bus.recorded.get(run, {}).values()]
        resumed += any(last > at for at in recorded)
    return len(again), resumed


def unarchived(bus: BusFacts, rows: RowFacts) -> dict[str, int]:
    """Return by stream how many messages the archive lacks, or (negative) has too many of."""
    differences = {stream: count - rows.archived.get(stream, 0) for stream, count in bus.stored.items()}
    return {stream: difference for stream, difference in differences.items() if difference}
