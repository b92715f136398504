"""What is disturbed, how, for how long, and how many webhooks flow meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from shared.messages.log import SERVICES

How = Literal["kill", "pause"]
HOWS: tuple[How, ...] = ("kill", "pause")
TARGETS = (*SERVICES, "nats", "postgres")
# Their leases and ack waits are 30 s: a shorter pause would let them wake up before anybody noticed.
LEASED = ("events", "executor")
# GitHub's words for what starts the workflow with a step, the one that does nothing, and none.
COUNTED, NOOP, IGNORED = "push", "ping", "star"
STAGES = ("process", "canary", "ready")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One disturbance: `pause` in seconds (0 for a kill), and the webhooks that are sent around it."""

    target: str
    how: How
    pause: float
    webhooks: int

    @property
    def name(self) -> str:
        """Return how the cell is called in reports."""
        return f"{self.target}:{self.how}"


class Recovery(msgspec.Struct, frozen=True):
    """What was measured of a cell: `seconds` from the kill, or the end of the pause, until all works; None: not in time.

    `stages` are the seconds until its process ran, until a canary's run showed as succeeded, and until all were ready.
    """

    cell: Cell
    stages: tuple[float, ...]

    @property
    def seconds(self) -> float | None:
        """Return when the last stage was reached."""
        return self.stages[-1] if len(self.stages) == len(STAGES) else None

    @property
    def story(self) -> str:
        """Return the stages in words."""
        reached = [f"{stage} {seconds:.1f} s" for stage, seconds in zip(STAGES, self.stages, strict=False)]
        return ", ".join(reached) or "no stage was reached"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole drill: `rate` webhooks a second, of which every `runs_every`-th starts a run; `lead` seconds come undisturbed."""

    cells: tuple[Cell, ...]
    rate: float
    runs_every: int
    lead: float

    @property
    def webhooks(self) -> int:
        """Return how many are sent in all, canaries aside."""
        return sum(cell.webhooks for cell in self.cells)

    def flow(self, cell: Cell) -> Iterator[str]:
        """Yield the events of a cell's webhooks: the two that start a run in turn, among others that nobody wants."""
        for number in range(cell.webhooks):
            turn, place = divmod(number, self.runs_every)
            yield IGNORED if place else (COUNTED, NOOP)[turn % 2]


def chosen(targets: str) -> list[tuple[str, How]]:
    """Return the disturbances that `events,nats:kill` names, in the matrix' order. Raises ValueError naming what is none."""
    asked = [part.strip() for part in targets.split(",") if part.strip()]
    every = [(target, how) for target in TARGETS for how in HOWS]
    names = {f"{target}:{how}" for target, how in every} | set(TARGETS)
    unknown = [part for part in asked if part not in names]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no target: name {', '.join(TARGETS)}, each alone or with :kill or :pause")
    return [(target, how) for target, how in every if not asked or target in asked or f"{target}:{how}" in asked]


def plan(
    disturbances: Iterable[tuple[str, How]],
    *,
    webhooks: int,
    rate: float,
    runs_every: int,
    pause: float,
    long_pause: float,
    around: float,
) -> Plan:
    """Spread `webhooks` over the disturbances by how long each takes: its pause, and `around` seconds before and after it."""
    pauses = [(target, how, 0.0 if how == "kill" else long_pause if target in LEASED else pause) for target, how in disturbances]
    whole = sum(seconds + around for *_, seconds in pauses)
    cells: list[Cell] = []
    given, spent = 0, 0.0
    for target, how, seconds in pauses:
        # By running total, so that rounding neither adds nor drops one.
        spent += seconds + around
        until = round(webhooks * spent / whole)
        cells.append(Cell(target=target, how=how, pause=seconds, webhooks=until - given))
        given = until
    return Plan(cells=tuple(cells), rate=rate, runs_every=runs_every, lead=min(3.0, around / 2))
