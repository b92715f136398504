"""The outcome of the drill of stories: a row for each kind of webhook."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from tests.chaos.report import STORIES, Report, Row
from tests.chaos.stories.evidence import Evidence
from tests.chaos.stories.sending import KINDS, Made
from tests.chaos.stories.verdict import WRONGS
from tests.chaos.verdict import Finding, counted

if TYPE_CHECKING:
    from tests.chaos.stories.drill import Plan

EXAMPLES = 20
NAMES = {"run": "starts a run", "ignored": "wanted by nobody", "lost": "for a workflow that is not there", "unreadable": "no JSON"}


class KindReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row: how many webhooks of a kind there were, how often they were sent, how they ended, and what was wrong how often."""

    kind: str
    accepted: int
    sendings: int
    wrong: dict[str, int]


class StoriesReport(Report, frozen=True, kw_only=True):
    """The whole outcome. `stories` is how many deliveries there are, `refused` how many webhooks were not accepted in the end."""

    name = "chaos-stories"
    part = STORIES
    headings = ("webhook", "ends as", "different", "sent", *WRONGS)
    words = frozenset({"webhook", "ends as"})
    reading = """\
How to read it. *lost*: accepted, and not on the bus or without a row. *duplicated*: answered with two ids, stored twice, two
outcomes, a run too many, two ends of a run, or a story of no webhook. *unended*: no outcome or a run without an end some minutes
after the last, or reported as overdue. *wrong*: another outcome than the one that it should have. *disagrees*: the bus and the
delivery's row tell different stories.
"""

    webhooks: int
    sendings: int
    sources: int
    kills: int
    seed: int
    kinds: list[KindReport]
    stories: int
    refused: int
    counts: dict[str, int]

    @property
    def clean(self) -> bool:
        """Return whether each webhook has exactly one story, and that has its end."""
        return not self.problems and not self.refused and self.stories == self.webhooks

    def introduction(self) -> str:
        """Return what was done."""
        return f"""\
Written by `make chaos ARGS=--write`; not edited by hand.

Signed webhooks of {self.sources} sources, of four kinds, one of five sent again up to 400 places later and some a third time,
all out of their order, while the events service is killed (SIGKILL) {self.kills} times. A webhook that was answered 503, or not
at all, is sent again under the same id, as its sender would."""

    def measured(self) -> str:
        """Return how much was sent."""
        return (
            f"{self.webhooks:,} different webhooks in {self.sendings:,} sendings, {self.rate:g} a second, "
            f"in {self.seconds:,.0f} s; seed {self.seed}"
        )

    def rows(self) -> list[Row]:
        """Return a row for each kind."""
        return [Row(_words(one), not any(one.wrong.values())) for one in self.kinds]

    def sums(self) -> Row:
        """Return the sums of the kinds."""
        counts = (f"{self.counts[kind]:,}" for kind in WRONGS)
        return Row(("all", "", f"{sum(one.accepted for one in self.kinds):,}", f"{self.sendings:,}", *counts))

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        lines = [f"{self.stories:,} stories of {self.webhooks:,} webhooks"]
        lines += [f"{one.subject}: {one.kind}: {one.id}: {one.detail}" for one in self.problems]
        return [*lines, "each has exactly one, and none is without an end"] if self.clean else lines

    def totals(self) -> dict[str, Any]:
        """Return the sums by name."""
        return dict(self.counts)


def made(plan: Plan, every: Sequence[Made], sendings: int, evidence: Evidence, *, at: datetime, seconds: float) -> StoriesReport:
    """Return the report of a drill that began `at` and took so many seconds."""
    counts = counted(evidence.found)
    refused = [Finding(one.kind, "refused", one.sender_delivery, one.refusal) for one in every if one.refusal is not None]
    kinds = [
        KindReport(
            kind=kind,
            accepted=sum(one.kind == kind and one.delivery is not None for one in every),
            sendings=sum(one.sendings for one in every if one.kind == kind),
            wrong={wrong: counts.get((kind, wrong), 0) for wrong in WRONGS},
        )
        for kind in KINDS
    ]
    return StoriesReport(
        at=at,
        seconds=round(seconds, 1),
        rate=plan.rate,
        problems=[*evidence.found, *refused][:EXAMPLES],
        webhooks=len(every),
        sendings=sendings,
        sources=plan.sources,
        kills=plan.kills,
        seed=plan.seed,
        kinds=kinds,
        stories=len(evidence.stories),
        refused=len(refused),
        counts={wrong: sum(one.kind == wrong for one in evidence.found) for wrong in WRONGS},
    )


def _words(one: KindReport) -> tuple[str, ...]:
    counts = (f"{one.wrong[wrong]:,}" for wrong in WRONGS)
    return (NAMES[one.kind], KINDS[one.kind], f"{one.accepted:,}", f"{one.sendings:,}", *counts)
