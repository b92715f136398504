"""Causes and effects of a run: the messages of its chain as a tree of deliveries, runs and events. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from shared.messages import RunError, RunWaiting
from shared.messages.declaration import class_of
from shared.questions.logs import Link
from shared.runs import EFFECTS, status_after, waiting_status


class Cause(msgspec.Struct, kw_only=True):
    """One node of a chain and its effects. `type`: `webhook request schedule event subscription filtered unroutable run`.

    `id` is the delivery's, the event's, the subscription's or the run's; `message` that of the message behind it. `status`
    is a run's. `leads_here` for those that led to the requested run.
    """

    type: str
    id: str
    message: str
    time: str
    what: str
    status: str | None = None
    leads_here: bool = False
    led_to: list[Cause] = []


class Said(msgspec.Struct, frozen=True):
    """A line of a run."""

    time: str
    level: str
    message: str
    fields: dict[str, Any]


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The chain of a run: its beginnings, and the ids from there to the run, none where the archive has not got it (yet).

    `cut`: the chain has more messages than were looked at, which are its first. Of a run that ended otherwise than well it tells
    how, and the last lines.
    """

    run: str
    path: list[str]
    items: list[Cause]
    cut: bool
    status: str | None = None
    reason: str | None = None
    error: RunError | None = None
    lines: list[Said] = []


def why(run: str, links: Iterable[Link], *, cut: bool) -> Why:
    """Return the tree of a chain, for any order of its messages; a message that none of them caused begins one of its own."""
    ordered = sorted(links, key=lambda link: link.time)
    made: dict[str, Cause] = {}
    runs: dict[str, Cause] = {}
    subscriptions: dict[str, Cause] = {}
    for link in ordered:
        node = _node(link)
        if node is not None:
            made[link.id] = node
            if node.type == "run":
                runs.setdefault(node.id, node)
            elif node.type == "subscription" and link.run is not None:
                subscriptions[link.run] = node
    for link in ordered:
        if link.type.startswith("run.") and link.type != "run.requested" and link.run in runs:
            made[link.id] = runs[link.run]
            runs[link.run].status = status_after(runs[link.run].status, _status(link))
    above: dict[int, Cause] = {}
    roots: list[Cause] = []
    for link in ordered:
        node = made.get(link.id)
        if node is None or node.message != link.id:
            continue
        parent = made.get(link.causation_id or "")
        if node.type == "run":
            parent = subscriptions.get(node.id, parent)
            if link.fields.get("resumes") or (parent is None and link.causation_id is None):
                asked = _request(link)
                _put(asked, parent, above, roots)
                parent = asked
        _put(node, parent, above, roots)
    path: list[str] = []
    step = runs.get(run)
    while step is not None:
        step.leads_here = True
        if step.type != "request":  # a call of the API has no id of its own
            path.insert(0, step.id)
        step = above.get(id(step))
    return Why(run=run, path=path, items=roots, cut=cut)


def _put(node: Cause, parent: Cause | None, above: dict[int, Cause], roots: list[Cause]) -> None:
    """Put a node below its parent; one without begins a tree, and so does one that the parent came of."""
    if parent is None or _is_above(node, parent, above):
        roots.append(node)
    else:
        above[id(node)] = parent
        parent.led_to.append(node)


def _node(link: Link) -> Cause | None:
    fields = link.fields
    match link.type:
        case "webhook.received":
            return _made("webhook", fields.get("delivery"), link)
        case "firing.fired":
            return _made("schedule", fields.get("schedule"), link)
        case "event.accepted":
            return _made("event", fields.get("event"), link)
        case "event.routed":
            return _made("subscription", fields.get("subscription"), link)
        case "event.filtered" | "event.unroutable":
            return _made(link.type.partition(".")[2], fields.get("subscription"), link)
        case "run.requested":
            node = _made("run", link.run, link)
            node.status = _status(link)
            return node
    return None


def _made(type_: str, id_: str | None, link: Link) -> Cause:
    return Cause(type=type_, id=id_ or link.id, message=link.id, time=link.time, what=link.message)


def _request(link: Link) -> Cause:
    by = link.fields.get("requested_by") or "somebody"
    earlier, resumes = link.fields.get("rerun_of"), link.fields.get("resumes")
    what = f"{by} asked for it" if earlier is None else f"{by} asked for run {earlier} once more"
    what = what if resumes is None else f"{by} asked to go on with run {resumes}"
    return Cause(type="request", id=link.id, message=link.id, time=link.time, what=what)


def _status(link: Link) -> str | None:
    """Return the status that a run's message gives it by itself."""
    cls = class_of(link.type)
    if cls is RunWaiting:
        return waiting_status(link.fields.get("blocked_on"), int(link.fields.get("attempt", "0") != "0"))
    return EFFECTS[cls].status if cls in EFFECTS else None


def _is_above(node: Cause, parent: Cause, above: dict[int, Cause]) -> bool:
    """Return whether `parent` came of `node`: forged messages could go in a circle."""
    step: Cause | None = parent
    while step is not None:
        if step is node:
            return True
        step = above.get(id(step))
    return False
