"""ANY /hooks/{id}: a webhook is admitted, or refused with the status that its sender understands. This is the hot path."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from services.gateway.api.access import address, remote
from services.gateway.api.endpoint import endpoint
from services.gateway.domain import SENDER_ID, delivery_id, kept_headers, kept_query
from services.gateway.parts import GATEWAY, Gateway
from services.gateway.schemes import claim_of, disproof
from services.gateway.senders import Door, Way
from shared.charsets import charset_in, charset_of, media_type_of
from shared.commit import Ack
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import Gone, MethodNotAllowed, NotFound, TooLarge, TooMany, Unauthenticated, Unavailable, UnsupportedMediaType
from shared.http import problem
from shared.messages import Audited, WebhookReceived
from shared.streams import INLINE_BYTES
from shared.values import storable


class Admitted(msgspec.Struct, frozen=True):
    """A delivery is on disk."""

    id: str


@endpoint(
    "*",
    "/hooks/{id}",
    role=None,
    answers={202: Admitted, 200: Admitted},
    errors=(Unauthenticated, NotFound, MethodNotAllowed, Gone, TooLarge, UnsupportedMediaType, TooMany, Unavailable),
)
async def receive(request: web.Request) -> web.Response:
    """Admit a webhook: 202 with the delivery's id once it is on disk, 200 when this delivery was admitted before."""
    gateway = request.app[GATEWAY]
    door = await gateway.admission.door(request.match_info["id"])
    if request.method not in door.methods:
        raise MethodNotAllowed(f"this address takes {', '.join(door.methods)}", allowed=door.methods)
    _check_media_type(request, door)
    # Before the body is read; only what turns out genuine takes a token, so that nobody else can use them up.
    if door.bucket is not None and (wait := door.bucket.wait(time.monotonic())):
        return _too_many(gateway, request, door, wait)
    way = door.way(request.headers)
    claim = claim_of(way.scheme, request.headers, time.time())
    if isinstance(claim, str):
        _tell(gateway, request, door, claim)
        raise Unauthenticated(claim)
    with gateway.room.hold(org=door.org, source=door.source, address=address(gateway, request)) as held:
        try:
            body = await held.body(request, gateway.max_body)
        except (TooMany, Unavailable):
            gateway.refusals.note(door, "room", remote(gateway, request))
            raise
        reason = disproof(way.scheme, door.keys, claim, body)
        if reason is not None:
            _tell(gateway, request, door, reason)
            raise Unauthenticated(reason)
        if door.bucket is not None and (wait := door.bucket.take(time.monotonic())):
            return _too_many(gateway, request, door, wait)
        delivery, ack = await _keep(gateway, request, door, way, body)
    return web.Response(
        body=b'{"id":"%b"}' % delivery.encode(), status=200 if ack.duplicate else 202, content_type="application/json"
    )


async def _keep(gateway: Gateway, request: web.Request, door: Door, way: Way, body: bytes) -> tuple[str, Ack]:
    sender_id = _sender_id(request, way)
    delivery = new_id() if sender_id is None else delivery_id(door.source, sender_id)
    inline = len(body) <= INLINE_BYTES
    message = WebhookReceived(
        source=door.source,
        delivery=delivery,
        adapter=door.adapter,
        received_at=rfc3339(utc_now()),
        method=request.method,
        query=kept_query(request.query.items()) if request.query_string else [],
        headers=kept_headers(request.headers.items(), door.redacted),
        body_base64=base64.b64encode(body).decode() if inline else None,
        body_ref=None if inline else (await gateway.bodies.put(_once(body))).sha256,
        body_size=len(body),
        sender_delivery=sender_id,
        remote=remote(gateway, request),
    )
    return delivery, await gateway.bus.journal.publish(gateway.bus.seal(message, org=door.org, id=delivery))


def _sender_id(request: web.Request, way: Way) -> str | None:
    if way.delivery_header is None:
        return None
    given = request.headers.get(way.delivery_header)
    return storable(given) if given and len(given) <= SENDER_ID else None


def _check_media_type(request: web.Request, door: Door) -> None:
    if "Content-Encoding" in request.headers and request.headers["Content-Encoding"].lower() != "identity":
        raise UnsupportedMediaType("a webhook's body is not to be compressed")
    content_type = request.headers.get("Content-Type")
    if content_type is None:
        return  # read as the adapter's senders mean it
    accepted = door.sender.content_types
    if accepted is not None and media_type_of(content_type) not in accepted:
        raise UnsupportedMediaType(f"this source takes {', '.join(sorted(accepted))}")
    charset = charset_in(content_type)
    if charset is not None and charset_of(charset) is None:
        raise UnsupportedMediaType(f"the charset {storable(charset)[:40]!r} is unknown")


def _too_many(gateway: Gateway, request: web.Request, door: Door, wait: float) -> web.Response:
    gateway.refusals.note(door, "rate", remote(gateway, request))
    return problem(429, "Too many requests", "this source takes no more webhooks for now", retry_after=wait)


def _tell(gateway: Gateway, request: web.Request, door: Door, reason: str) -> None:
    gateway.trail.refused(
        Audited(
            category="webhook",
            verb="refused",
            actor="sender",
            target=door.source,
            outcome=Unauthenticated.kind,
            remote=remote(gateway, request),
            detail={"reason": reason, "adapter": door.adapter},
        ),
        org=door.org,
    )


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


ENDPOINTS = (receive,)
