"""The drill: start runs that wait for an invoice each, send the payments in another order, some twice, and kill meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.drill import Site
from tests.chaos.evidence import settle
from tests.chaos.runs.disturbing import Disturbing
from tests.chaos.runs.replicas import second_of
from tests.chaos.waits.evidence import Evidence
from tests.chaos.waits.report import WaitsReport, made

WORKFLOWS = Path(__file__).with_name("workflows.py")
WEIGHTS = {"kill the first": 2, "kill the second": 2, "kill events": 3}
IN_TURN = ("kill events", "kill the first", "kill events", "kill the second")
# Of the events so many come twice as the same, and so many are another payment of the same invoice, later.
REPEATED, AGAIN = 0.2, 0.1
# So many runs are started after their events, and look back: once so many others were sent, which is soon enough for that.
LATE, AFTER = 0.1, 300


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole drill: so many `waits` at `rate` a second, a kill `every` so many seconds; the end in seconds too."""

    waits: int
    rate: float
    every: float
    settle: float
    seed: int
    in_turn: bool


async def drilled(site: Site, plan: Plan) -> WaitsReport:
    """Carry a plan out and return what came of it. Raises `DrillError`."""
    at = datetime.now(UTC)
    drawn = random.Random(plan.seed)
    invoices = [f"in_{number:06}" for number in range(plan.waits)]
    late = set(drawn.sample(invoices, int(plan.waits * LATE)))
    async with second_of("executor", site.installation, site.place) as second:
        await site.deploy(WORKFLOWS)
        await site.call("PUT", "/api/v1/sources/shop", body={"adapter": "topic"})
        began = asyncio.get_running_loop().time()
        events = list(_events(invoices, drawn))

        disturbing = Disturbing(
            site.installation,
            second,
            every=plan.every,
            pause=0,
            seed=plan.seed,
            tell=site.tell,
            weights=WEIGHTS,
            in_turn=IN_TURN,
        )
        async with disturbing.going(in_turn=plan.in_turn):
            runs = await site.post_each(plan.rate, ((one, *_run(one)) for one in invoices if one not in late))
            site.print(f"{len(runs):,} runs were accepted")
            sent: set[str] = set()
            for start in range(0, len(events), AFTER):
                part = events[start : start + AFTER]
                sent |= (await site.post_each(plan.rate, (_event(key, invoice) for key, invoice in part))).keys()
                due = late & {invoice for _, invoice in part} - runs.keys()
                runs |= await site.post_each(plan.rate, ((one, *_run(one)) for one in sorted(due)))
            site.print(f"{len(sent):,} events were accepted, of {plan.waits:,} invoices")
        site.print("waiting for every run to end …")
        await site.installation.all_ready(site.session)
        evidence = Evidence({answer["id"]: invoice for invoice, answer in runs.items()})
        await settle(evidence, site.installation.ready(), site.marks, plan.settle)
        return made(
            evidence,
            disturbing.done,
            events=len(events),
            late=len(late),
            at=at,
            seed=plan.seed,
            rate=plan.rate,
            seconds=asyncio.get_running_loop().time() - began,
        )


def _events(invoices: list[str], drawn: random.Random) -> Iterator[tuple[str, str]]:
    """Yield the keys of the events with their invoices, in a random order."""
    every = [(invoice, invoice) for invoice in invoices]
    every += [(invoice, invoice) for invoice in invoices if drawn.random() < REPEATED]
    every += [(f"{invoice}-again", invoice) for invoice in invoices if drawn.random() < AGAIN]
    drawn.shuffle(every)
    yield from every


def _run(invoice: str) -> tuple[str, str, dict[str, Any]]:
    return invoice, "/api/v1/workflows/chaos-paid/runs", {"input": {"invoice": invoice}}


def _event(key: str, invoice: str) -> tuple[str, str, str, dict[str, Any]]:
    return key, key, "/api/v1/sources/shop/events", {"type": "invoice.paid", "data": {"id": invoice}}
