"""/healthz, /readyz and /metrics: whether the gateway lives, whether what it takes is served, and its numbers."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import nats.errors
from aiohttp import web

from services.gateway.api.endpoint import Answer, Call, Reply, endpoint
from services.gateway.parts import Gateway
from shared.errors import MillraceError
from shared.metrics import CONTENT_TYPE, exposition
from shared.questions.health import HEALTH, METRICS

# Tries per service, of a second each: a service that is merely busy answers the second time.
ASKED = 2


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    alive: bool


@endpoint("GET", "/healthz", role=None)
async def alive(_call: Call[None, None]) -> Alive:
    """Answer as long as the process lives."""
    return Alive(alive=True)


@endpoint("GET", "/readyz", role=None, answers={200: dict[str, Any], 503: dict[str, Any]})
async def ready(call: Call[None, None]) -> Answer:
    """Answer 200 when all accepted work is served, else 503; the body names each part that is not, and since when.

    A service that is down, hangs or dies again and again is `unserved` and makes it 503; one that answers and is not well in some
    part is `degraded` and does not, and so are rows that do not open (`quarantined`, by service). Webhooks are taken all the same
    while `accepting.webhooks` is true.
    """
    gateway = call.gateway
    broker, *documents = await asyncio.gather(_broker_answers(gateway), *(_document(gateway, name) for name in HEALTH))
    body = gateway.readiness.document(dict(zip(HEALTH, documents, strict=True)), broker_answers=broker)
    return Answer(body=body, status=200 if body["ready"] else 503)


class Measured(msgspec.Struct, frozen=True):
    """The service whose metrics are wanted."""

    service: Literal["gateway", "events", "executor", "oauth", "logs"] = "gateway"


@endpoint("GET", "/metrics", role="viewer", platform=True, answers={200: Reply(str, media=CONTENT_TYPE)})
async def metrics(call: Call[Measured, None]) -> web.Response:
    """Answer the metrics of a service in the text format of Prometheus: of the gateway, or of one replica of another `service`.

    They are those of all organizations, and so for viewers of `global`.
    """
    asked = call.query.service
    body = exposition(call.gateway.health) if asked == "gateway" else (await call.ask(METRICS[asked](org="global"))).text.encode()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def _broker_answers(gateway: Gateway) -> bool:
    """Ask the broker itself: its client needs some seconds to notice one that stands still."""
    try:
        await gateway.bus.client.flush(ASKED)
    except (nats.errors.Error, OSError):
        return False
    return True


async def _document(gateway: Gateway, service: str) -> dict[str, Any] | None:
    for _ in range(ASKED):
        try:
            return await gateway.bus.ask(HEALTH[service](org="global"))
        except MillraceError:
            continue
    return None


ENDPOINTS = (alive, ready, metrics)
