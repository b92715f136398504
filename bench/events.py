"""Two ratios of the events service's work: webhooks that an adapter of a workspace declares, and events routed a second.

The gateway and the broker alone admit webhooks of a source whose scheme an adapter of a workspace declares, in turns with those of
the built-in adapter `hmac`, whose scheme is the same (`custom_ratio`, the median of the rounds' ratios).

Then the events service alone, with broker and database, routes webhooks that wait: each is parsed, matched, checked against its
workflow's schema, and asked for as a run, with its row of a delivery (`figure`). In turns with that a bare loop in one process
takes the same messages from the same consumers, decodes each, publishes as many messages of the same kinds, and
acknowledges (`limit`). Either is measured from a tenth of the webhooks to nine tenths of them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from nats.aio.msg import Msg

from bench.support import outcome
from bench.support.connection import Post
from bench.support.load import Load, generator, load
from bench.support.outcome import BenchError, Outcome
from bench.support.running import UNBOUNDED, Backing, alone, backing, whole
from shared.bounded import ArrivalOrder
from shared.bus import Bus, connected
from shared.envelope import Envelope, new_id, open_envelope, rfc3339, utc_now
from shared.health import Health
from shared.messages import EventAccepted, EventRouted, Message, RunRequested, WebhookReceived
from shared.pull import api_request
from shared.puller import Puller

CONNECTIONS = 64
BODY = b'{"text":"' + b"x" * (512 - 11) + b'"}'
ADAPTER = b"""
from millrace import Event, Place, Request, Scheme, adapter


@adapter(scheme=Scheme(signature=Place(header="x-signature")))
class Acme:
    def parse(self, request: Request) -> Event:
        return Event("order", request.json())
"""
WORKFLOW = b"from millrace import workflow\n\n\n@workflow\ndef greet(event: dict) -> None:\n    return None\n"
SLOT = 2
FEWEST_ROUNDS = 5
ROUTING_ROUNDS = 3
# Webhooks of one measurement of routing.
WAITING = 4000
# As the service has it.
AT_ONCE, FETCHED = 128, 256
ROUTED_WITHIN = 120.0
# Nothing runs what is asked for.
UNQUEUED = {"MILLRACE_MAX_QUEUED_RUNS": "100000000"}


class Sources(msgspec.Struct, frozen=True):
    """The ids of the two sources, the subscription's, and their secret."""

    built_in: str
    custom: str
    subscription: str
    secret: str


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds of load in all."""
    data = folder / "data"
    async with whole(data) as stack:
        sources = await _sources(stack.api)
    rounds = max(FEWEST_ROUNDS, int(seconds / 2 / SLOT) // 2)
    async with alone(data) as parts:
        admitted = await _admitted(parts.url, sources, rounds)
    async with backing(data) as routing:
        routed, bare = await _in_turns(routing, sources)
    ratio = median(one / other for one, other in zip(routed, bare, strict=True))
    custom = median(one.per_s / other.per_s for one, other in zip(admitted["custom"], admitted["built_in"], strict=True))
    return Outcome(
        name="events",
        figure=median(routed),
        unit="events routed per second",
        limit=median(bare),
        ratio=ratio,
        more={
            "routed_per_s": median(routed),
            "bare_per_s": median(bare),
            "routed_ratio": ratio,
            "custom_per_s": median(one.per_s for one in admitted["custom"]),
            "built_in_per_s": median(one.per_s for one in admitted["built_in"]),
            "custom_ratio": custom,
            "rounds_per_s": {name: [round(one.per_s) for one in loads] for name, loads in admitted.items()},
            "rounds_routed_per_s": {"routed": [round(one) for one in routed], "bare": [round(one) for one in bare]},
        },
    )


async def _sources(api: Any) -> Sources:
    secret = secrets.token_urlsafe(24)
    for path, content in (("adapters/acme.py", ADAPTER), ("greet.py", WORKFLOW)):
        await api.call("PUT", f"/api/v1/workspace/files/{path}", data=content)
    found = {}
    for name, adapter in (("built-in", "hmac"), ("custom", "acme")):
        shown = await api.call("PUT", f"/api/v1/sources/{name}", body={"adapter": adapter, "settings": {"secret": secret}})
        found[name] = shown["id"]
    wanted = {"source": "built-in", "event": "*", "workflow": "greet"}
    subscription = await api.call("PUT", "/api/v1/subscriptions/greet", body=wanted)
    return Sources(found["built-in"], found["custom"], subscription["id"], secret)


async def _admitted(url: str, sources: Sources, rounds: int) -> dict[str, list[Load]]:
    """Return the loads of either source, taken in turns."""
    how = generator()
    signature = hmac.new(sources.secret.encode(), BODY, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Signature": signature}
    posts = {
        name: Post(url=f"{url}/hooks/{id_}", headers=headers, body=BODY)
        for name, id_ in (("built_in", sources.built_in), ("custom", sources.custom))
    }
    for post in posts.values():
        await load(how, post, connections=CONNECTIONS, seconds=1)
    loads: dict[str, list[Load]] = {name: [] for name in posts}
    for number in range(rounds):
        # Either comes first in every other round.
        for name in sorted(posts, reverse=bool(number % 2)):
            loads[name].append(await load(how, posts[name], connections=CONNECTIONS, seconds=SLOT))
    return loads


async def _in_turns(routing: Backing, sources: Sources) -> tuple[list[float], list[float]]:
    """Return how many events a second were routed by the service, and by the bare loop."""
    routed: list[float] = []
    bare: list[float] = []
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            connected(routing.nats_url("gateway"), service="gateway", health=Health("gateway"))
        )
        admin = await stack.enter_async_context(connected(routing.admin_url, service="gateway", health=Health("gateway")))
        # What the gateway admitted before is no part of it.
        await api_request(admin.client, "$JS.API.STREAM.PURGE.WEBHOOKS", {})
        for _ in range(ROUTING_ROUNDS):
            await _fill(gateway, sources)
            async with routing.service("events", **UNBOUNDED, **UNQUEUED):
                routed.append(await _rate(admin))
            await _fill(gateway, sources)
            bare.append(await _bare(routing, admin, sources))
    return routed, bare


async def _fill(gateway: Bus, sources: Sources) -> None:
    async def one() -> None:
        delivery = new_id()
        message = WebhookReceived(
            source=sources.built_in,
            delivery=delivery,
            adapter="hmac",
            received_at=rfc3339(utc_now()),
            method="POST",
            query=[],
            headers=[("content-type", "application/json")],
            body_base64=base64.b64encode(BODY).decode(),
            body_size=len(BODY),
        )
        await gateway.journal.publish(gateway.seal(message, org="default", id=delivery))

    await asyncio.gather(*(one() for _ in range(WAITING)))


async def _bare(routing: Backing, admin: Bus, sources: Sources) -> float:
    """Return how many events a second the bare loop carries through both consumers."""
    async with connected(routing.nats_url("events"), service="events", health=Health("events")) as bus:

        def carried(follow: Callable[[Envelope], list[Message]]) -> Callable[[Msg], Awaitable[None]]:
            async def handle(msg: Msg) -> None:
                cause = open_envelope(msg.data)
                follows = [bus.seal(one, org=cause.org, cause=cause, id=new_id()) for one in follow(cause)]
                await asyncio.gather(*(bus.journal.publish(one) for one in follows))
                await msg.ack()

            return handle

        pullers = [
            Puller(bus.client, stream, consumer, carried(follow), at_once=AT_ONCE, fetched=FETCHED, queue=ArrivalOrder())
            for stream, consumer, follow in (
                ("WEBHOOKS", "events-parse", lambda cause: [_accepted(cause, sources)]),
                ("EVENTS", "events-route", lambda cause: _asked_for(cause, sources)),
            )
        ]
        for puller in pullers:
            await puller.start()
        try:
            return await _rate(admin)
        finally:
            for puller in pullers:
                await puller.drain(5.0)


def _accepted(cause: Envelope, sources: Sources) -> Message:
    return EventAccepted(
        source=sources.built_in,
        source_name="built-in",
        event=new_id(),
        delivery=cause.id,
        type="webhook",
        data={"text": "x" * (512 - 11)},
        headers={},
        received_at=rfc3339(cause.time),
        number=0,
    )


def _asked_for(cause: Envelope, sources: Sources) -> list[Message]:
    run, event = new_id(), cause.id
    requested = RunRequested(
        run=run,
        workflow="greet",
        version="0" * 64,
        input={"event": {"id": event, "type": "webhook", "source": "built-in", "data": {"text": "x" * (512 - 11)}, "headers": {}}},
        requested_by="subscription:greet",
        timeout=300.0,
        delivery=event,
        received_at=rfc3339(cause.time),
        subscription=sources.subscription,
    )
    routed = EventRouted(
        source=sources.built_in,
        event=event,
        delivery=event,
        subscription=sources.subscription,
        subscription_name="greet",
        workflow="greet",
        run=run,
    )
    return [requested, routed]


async def _rate(admin: Bus) -> float:
    """Return how many of the waiting events were routed a second, from a tenth of them to nine tenths. Raises `BenchError`."""
    first, began, deadline = await _routed(admin), None, time.monotonic() + ROUTED_WITHIN
    while time.monotonic() < deadline:
        done, now = await _routed(admin) - first, time.monotonic()
        if began is None and done >= WAITING * 0.1:
            began = (done, now)
        if began is not None and done >= WAITING * 0.9:
            found = (done - began[0]) / (now - began[1])
            while await _routed(admin) - first < WAITING:
                if time.monotonic() > deadline:
                    raise BenchError("some of the events were never routed")
                await asyncio.sleep(0.05)
            return found
        await asyncio.sleep(0.02)
    raise BenchError(f"{WAITING} events were not routed within {ROUTED_WITHIN:g} s")


async def _routed(admin: Bus) -> int:
    info = await api_request(admin.client, "$JS.API.STREAM.INFO.EVENTS", {"subjects_filter": "event.*.routed"})
    return sum((info["state"].get("subjects") or {}).values())


main = outcome.command(
    measure, seconds=40.0, about="Measure adapters of workspaces at the gateway, and how many events are routed."
)


if __name__ == "__main__":
    main()
