"""What the facts of a drill of runs add up to: for each run that was accepted, what is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec

from tests.chaos.runs.asker import Asked
from tests.chaos.verdict import TERMINAL, Finding, Mark

KINDS = ("lost", "duplicated", "stuck", "wrong", "disagrees", "leaked")
# What time may heal: rows follow the bus, slots are freed.
PASSING = frozenset({"lost", "stuck", "disagrees", "leaked"})
# Claims in a row of which nothing more was heard, after which a run counts as what kills its workers.
POISON = 3
# Which steps of the workflows leave marks: `s0` is the step `step/s0/0`.
_CHILDREN = 2


class RunFacts(msgspec.Struct, kw_only=True):
    """One run on the stream. `claims` are the ids of its claims, `zombies` what was said on behalf of one that was superseded.

    `recorded` has by step when it was recorded, in nanoseconds since 1970, as has `began` for the first claim.
    """

    requested: int = 0
    workflow: str = ""
    token: str | None = None
    parent: str | None = None
    claims: list[str] = []
    is_held: bool = False
    lost_in_a_row: int = 0
    began: int | None = None
    failures: int = 0
    recorded: dict[str, list[int]] = {}
    ends: list[str] = []
    reason: str | None = None
    error: str | None = None
    result: Any = None
    after_end: list[str] = []
    zombies: list[str] = []


class BusFacts(msgspec.Struct, kw_only=True):
    """What the stream holds; `stored` messages in all, and `dead` letters beside them."""

    runs: dict[str, RunFacts] = {}
    stored: int = 0
    dead: int = 0


class RowFacts(msgspec.Struct, kw_only=True):
    """What Postgres holds: the status of each run, the runs whose turn it is, how many messages of the stream are archived."""

    states: dict[str, str] = {}
    turns: list[str] = []
    archived: int = 0


def findings(asked: Iterable[Asked], bus: BusFacts, rows: RowFacts, marks: Sequence[Mark]) -> list[Finding]:
    """Return all that is wrong with the runs that were accepted and with those that they started."""
    executed: dict[str, dict[str, int]] = {}
    for mark in marks:
        if mark.what == "step":
            last = executed.setdefault(mark.token, {})
            last[f"step/{mark.name}/0"] = max(mark.at, last.get(f"step/{mark.name}/0", 0))
    children: dict[str, list[str]] = {}
    for id_, run in bus.runs.items():
        if run.parent is not None:
            children.setdefault(run.parent, []).append(id_)
    found: list[Finding] = []
    for one in asked:
        name = one.order.kind.name
        if one.refusal is not None and not (one.run and _has_ended_before(one, bus)):
            found.append(Finding(name, "wrong", one.order.token, f"refused: {one.refusal}"))
        if one.run is None:
            continue
        for id_ in (one.run, *children.get(one.run, ())):
            complaints = _complaints(id_, bus.runs.get(id_), rows, executed)
            found += [Finding(name, kind, id_, detail) for kind, detail in complaints]
        if one.run in bus.runs and bus.runs[one.run].ends:
            own = [bus.runs[id_] for id_ in children.get(one.run, ()) if id_ in bus.runs]
            found += [Finding(name, kind, one.run, detail) for kind, detail in _not_allowed(one, bus.runs[one.run], own)]
            if name == "has children" and bus.runs[one.run].ends == ["succeeded"] and len(children.get(one.run, ())) != _CHILDREN:
                found.append(
                    Finding(name, "duplicated", one.run, f"started {len(children.get(one.run, ()))} runs, not {_CHILDREN}")
                )
    found += [Finding("turns", "leaked", run, "it still has its turn") for run in rows.turns]
    if rows.archived != bus.stored:
        found.append(Finding("archive", "disagrees", "-", f"{bus.stored} messages on the bus, {rows.archived} archived"))
    if bus.dead:
        found.append(Finding("dead letters", "wrong", "-", f"{bus.dead} of them"))
    return found


def _has_ended_before(one: Asked, bus: BusFacts) -> bool:
    """Return whether a signal was refused because it had been taken before, and its run had ended by the time it came again."""
    run = bus.runs.get(one.run or "")
    return one.again > 0 and run is not None and run.ends == ["succeeded"] and "its signal: 409" in (one.refusal or "")


def _complaints(
    id_: str, run: RunFacts | None, rows: RowFacts, executed: Mapping[str, Mapping[str, int]]
) -> Iterable[tuple[str, str]]:
    """Yield what is wrong with a run of any kind."""
    if run is None or not run.requested:
        yield "lost", "accepted, and not on the bus"
        return
    if id_ not in rows.states:
        yield "lost", "on the bus, and without a row"
        return
    if not run.ends:
        yield "stuck", f"no end after {len(run.claims)} claims; its row says {rows.states[id_]}"
    elif rows.states[id_] not in TERMINAL:
        yield "stuck", f"{run.ends[0]} on the bus; its row says {rows.states[id_]}"
    elif rows.states[id_] != run.ends[0]:
        yield "disagrees", f"{run.ends[0]} on the bus; its row says {rows.states[id_]}"
    if run.requested > 1:
        yield "duplicated", f"requested {run.requested} times"
    if len(run.ends) > 1:
        yield "duplicated", f"ended {len(run.ends)} times: {', '.join(run.ends)}"
    elif run.after_end:
        yield "duplicated", f"after its end came {', '.join(run.after_end)}"
    if run.zombies:
        yield "duplicated", f"a superseded claim said {', '.join(run.zombies)}"
    for place, times in run.recorded.items():
        if len(times) > 1:
            yield "duplicated", f"{place} was recorded {len(times)} times"
        late = executed.get(run.token or "", {}).get(place, 0) - times[0]
        if late > 0:
            yield "duplicated", f"{place} was executed {late / 1e9:.3f} s after it was recorded"
    if run.parent is not None and run.ends and run.ends != ["succeeded"] and not _is_poison(run):
        yield "wrong", f"a child run {run.ends[0]} ({run.reason}: {run.error})"


def _not_allowed(one: Asked, run: RunFacts, children: Iterable[RunFacts]) -> Iterable[tuple[str, str]]:
    """Yield what its workflow and what was done to it, or to runs that it started, do not allow."""
    kind, end = one.order.kind, run.ends[0]
    if _is_poison(run) or (end == "failed" and any(map(_is_poison, children))):
        return
    if end not in kind.ends:
        yield "wrong", f"{end} ({run.reason}: {run.error}), which is none of {', '.join(sorted(kind.ends))}"
    if one.cancelled and end != "cancelled":
        yield "wrong", f"its cancellation was accepted, and it {end}"
    if end == "failed" and run.failures != kind.failures:
        yield "wrong", f"failed for good after {run.failures} retries, not {kind.failures}"
    if end == "succeeded" and kind.name != "cancelled running":
        wanted = kind.result | {"token": one.order.token}
        if kind.name == "answered":
            wanted["given"] = one.order.token
        if run.result != wanted:
            yield "wrong", f"its result is {str(run.result)[:200]}"
    if one.not_before is not None and run.began and run.began < datetime.fromisoformat(one.not_before).timestamp() * 1e9:
        yield "wrong", f"it began before {one.not_before}"


def _is_poison(run: RunFacts) -> bool:
    """Return whether the drill itself took so many workers from under a run that it ended for that."""
    return run.ends == ["crashed"] and run.reason == "poison" and run.lost_in_a_row >= POISON - 1


def overlaps(marks: Iterable[Mark]) -> list[Finding]:
    """Return where two runs of one key went on at a time; an execution that was killed has no end, and shows nothing."""
    entered: dict[tuple[str, str], int] = {}
    spans: dict[str, list[tuple[int, int, str]]] = {}
    for mark in sorted(marks, key=lambda mark: mark.at):
        if mark.what == "enter":
            entered[mark.token, mark.name] = mark.at
        elif mark.what == "leave" and (mark.token, mark.name) in entered:
            spans.setdefault(mark.name, []).append((entered.pop((mark.token, mark.name)), mark.at, mark.token))
    found = []
    for key, of_key in spans.items():
        of_key.sort()
        for (_, end, first), (start, _, second) in pairwise(of_key):
            if start < end and first != second:
                found.append(Finding("takes turns", "wrong", second, f"went on with {key} while {first} did"))
    return found


def begun_again(bus: BusFacts) -> tuple[int, int]:
    """Return how many runs were claimed anew after a claim was lost, and how many of those in all had a step behind them."""
    again = [run for run in bus.runs.values() if len(run.claims) > 1]
    return len(again), sum(bool(run.recorded) for run in again)
