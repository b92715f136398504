"""The drill: make sources, send webhooks repeated and out of order, kill the events service meanwhile, then read the stories."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tests.chaos.clients import paced
from tests.chaos.drill import Site
from tests.chaos.evidence import settle
from tests.chaos.stories.evidence import Evidence
from tests.chaos.stories.report import StoriesReport, made
from tests.chaos.stories.sending import order, send, webhooks

WORKFLOWS = Path(__file__).parent.parent / "webhooks" / "workflows.py"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole drill: so many different `webhooks` of so many `sources`, `rate` sendings a second, and the `kills` between."""

    webhooks: int
    rate: float
    sources: int
    kills: int
    settle: float
    seed: int


async def drilled(site: Site, plan: Plan) -> StoriesReport:
    """Carry a plan out and return what came of it. Raises `DrillError`."""
    at = datetime.now(UTC)
    loop = asyncio.get_running_loop()
    await site.deploy(WORKFLOWS)
    secret = secrets.token_urlsafe(24)
    urls = [await _source(site, f"s{number:03}", secret) for number in range(plan.sources)]
    began = loop.time()
    every = webhooks(plan.webhooks, plan.sources, plan.seed)
    sendings = list(order(every, plan.seed))
    kills = {len(sendings) * number // (plan.kills + 1) for number in range(1, plan.kills + 1)}
    async with asyncio.TaskGroup() as group:
        number = 0
        async for one in paced(sendings, plan.rate):
            number += 1
            if number in kills:
                pid = await site.installation.kill("events")
                site.print(f"{datetime.now(UTC):%H:%M:%S} killed events, process {pid}, after {number:,} sendings")
            group.create_task(send(site.session, urls[one.source], secret, one))
    site.print("waiting for everything accepted to end …")
    evidence = Evidence(every)
    await site.installation.all_ready(site.session)
    await settle(evidence, site.installation.ready(), site.marks, plan.settle)
    return made(plan, every, len(sendings), evidence, at=at, seconds=loop.time() - began)


async def _source(site: Site, name: str, secret: str) -> str:
    """Make a source with its two subscriptions; return its address."""
    settings = {"secret": secret, "event_header": "X-Event", "delivery_header": "X-Delivery"}
    source = await site.call("PUT", f"/api/v1/sources/{name}", body={"adapter": "hmac", "settings": settings})
    for event, workflow in (("run", "chaos-noop"), ("lost", "no-such-workflow")):
        body = {"source": name, "event": event, "workflow": workflow, "input": {}}
        await site.call("PUT", f"/api/v1/subscriptions/{name}-{event}", body=body)
    url: str = source["url"]
    return url
