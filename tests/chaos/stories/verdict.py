"""What the facts of the drill add up to: for each webhook that was accepted, what is wrong with its story. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tests.chaos.stories.sending import KINDS, Made
from tests.chaos.verdict import Finding

LOST, DUPLICATED, UNENDED, WRONG, DISAGREES = WRONGS = ("lost", "duplicated", "unended", "wrong", "disagrees")
# What time may heal: rows follow the bus.
PASSING = (LOST, UNENDED, DISAGREES)


class BusFacts(msgspec.Struct, kw_only=True):
    """What the streams hold: by delivery its webhooks, its outcomes, its runs; by run its ends."""

    webhooks: dict[str, int] = {}
    outcomes: dict[str, list[str]] = {}
    runs: dict[str, set[str]] = {}
    ends: dict[str, list[str]] = {}

    def ended(self, delivery: str) -> bool:
        """Return whether a delivery has an outcome, and all of its runs their end."""
        return bool(self.outcomes.get(delivery)) and all(run in self.ends for run in self.runs.get(delivery, ()))


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as its row has it, with the statuses of its runs."""

    status: str
    ended: bool
    overdue: bool
    runs: tuple[str, ...]


def findings(made: Iterable[Made], bus: BusFacts, stories: dict[str, Story]) -> list[Finding]:
    """Return all that is wrong with the webhooks that were accepted, and stories that are of none of them."""
    found: list[Finding] = []
    known: set[str] = set()
    for one in made:
        if one.delivery is None:
            continue
        known.add(one.delivery)
        complaints = (
            (LOST, _lost(one, bus, stories)),
            (DUPLICATED, _duplicated(one, bus)),
            (UNENDED, _unended(one, bus, stories)),
            (WRONG, _wrong(one, bus)),
            (DISAGREES, _disagrees(one, bus, stories)),
        )
        found += [Finding(one.kind, kind, one.delivery, detail) for kind, detail in complaints if detail]
    return found + [Finding("none", DUPLICATED, id_, "a story of no webhook") for id_ in stories.keys() - known]


def _lost(one: Made, bus: BusFacts, stories: dict[str, Story]) -> str | None:
    if one.delivery not in bus.webhooks:
        return "accepted, and not on the bus"
    return None if one.delivery in stories else "accepted, and without a row"


def _duplicated(one: Made, bus: BusFacts) -> str | None:
    id_ = one.delivery or ""
    if len(set(one.answered)) > 1:
        return f"sent {one.sendings} times, and answered with {len(set(one.answered))} ids"
    if bus.webhooks.get(id_, 0) > 1:
        return f"stored {bus.webhooks[id_]} times"
    if len(bus.outcomes.get(id_, ())) > 1:
        return f"has the outcomes {', '.join(bus.outcomes[id_])}"
    runs = bus.runs.get(id_, set())
    if len(runs) > (one.kind == "run"):
        return f"has {len(runs)} runs"
    return next((f"run {run} ended {len(bus.ends[run])} times" for run in runs if len(bus.ends.get(run, ())) > 1), None)


def _unended(one: Made, bus: BusFacts, stories: dict[str, Story]) -> str | None:
    id_ = one.delivery or ""
    if not bus.ended(id_):
        return "has no outcome, or a run without an end"
    story = stories.get(id_)
    if story is not None and story.overdue:
        return "was reported as overdue"
    if story is not None and not story.ended:
        return f"its row is {story.status}, and has no end"
    return None


def _wrong(one: Made, bus: BusFacts) -> str | None:
    id_, wanted = one.delivery or "", KINDS[one.kind]
    if any(outcome != wanted for outcome in bus.outcomes.get(id_, ())):
        return f"should be {wanted}, and is {', '.join(bus.outcomes[id_])}"
    if wanted == "routed" and bus.outcomes.get(id_) and not bus.runs.get(id_):
        return "is routed, and has no run"
    ends = [end for run in bus.runs.get(id_, ()) for end in bus.ends.get(run, ())]
    return f"its run {ends[0]}" if any(end != "succeeded" for end in ends) else None


def _disagrees(one: Made, bus: BusFacts, stories: dict[str, Story]) -> str | None:
    story = stories.get(one.delivery or "")
    if story is None or not bus.ended(one.delivery or ""):
        return None
    on_bus = (bus.outcomes[one.delivery or ""][0], tuple(bus.ends[run][0] for run in sorted(bus.runs.get(one.delivery or "", ()))))
    in_row = (story.status, story.runs)
    return None if on_bus == in_row else f"the bus has {on_bus}, the row {in_row}"
