"""ANY /hooks/{id}: a webhook is admitted, or refused with the status that its sender understands. This is the hot path."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.adapted import Adapted, AdapterFailed, judged
from services.gateway.admission import WebhookEndpoint, read_methods, redacted_of
from services.gateway.api.access import address, remote
from services.gateway.api.endpoint import Reply, endpoint
from services.gateway.domain import delivery_id, kept_headers, kept_query, within
from services.gateway.handshakes import HandshakeAnswer
from services.gateway.limits import LIMITS, Limits
from services.gateway.parts import GATEWAY, Gateway
from services.gateway.received import Received
from services.gateway.verifier import Claim
from shared.charsets import charset_in, charset_of, media_type_of
from shared.commit import Ack
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import (
    Gone,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    RateExceeded,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from shared.messages import Audited, WebhookReceived
from shared.streams import INLINE_BYTES
from shared.values import aside, storable

_OF_NETWORKS = "the address that sent it is in one of the source's networks"
# Seconds: AWS SNS waits 15 for the answer.
VISIT = 8.0


class Admitted(msgspec.Struct, frozen=True):
    """A delivery is on disk."""

    id: str


@endpoint(
    "*",
    "/hooks/{id}",
    role=None,
    answers={202: Admitted, 200: Reply(Any, other_media=("text/plain",))},
    errors=(
        Unauthenticated,
        PermissionDenied,
        NotFound,
        MethodNotAllowed,
        Gone,
        TooLarge,
        UnsupportedMediaType,
        TooMany,
        Unavailable,
    ),
)
async def receive(request: web.Request) -> web.Response:
    """Admit a webhook: 202 with the delivery's id once it is on disk, 200 when this delivery was admitted before.

    A sender's question whether the address takes its webhooks is answered 200 as its adapter declares, and is no delivery.
    """
    gateway = request.app[GATEWAY]
    hook = await gateway.admission.endpoint(request.match_info["id"])
    if gateway.removing.is_removing(hook.org):
        raise Gone("this webhook address was retired")
    if hook.networks is not None and not within(remote(gateway, request) or "", hook.networks):
        detail = "the address that sends is in none of this source's networks"
        _audit_refusal(gateway, request, hook, PermissionDenied.kind, detail)
        raise PermissionDenied(detail)
    received = Received(request.method, request.headers, gateway.public_url, request.rel_url.raw_path_qs)
    handshakes = hook.handshakes
    if (answer := handshakes.before_body(received)) is not None:
        return _answered(answer)
    reads_body = handshakes.read_body or hook.code is not None
    if request.method not in hook.methods and request.method not in read_methods(hook):
        raise _not_allowed(hook)
    _check_media_type(request, hook)
    # Before the body is read; only genuine webhooks take a token, so that forged ones cannot use them up.
    if limits := gateway.limits.of_webhook(hook):
        _hold_to(gateway.limits.check, gateway, request, hook, limits)
    if not reads_body:
        _check_backlog(gateway, request, hook)
    now = time.time()
    claims: list[Claim] = []
    try:
        claims = hook.verifier.claims(received, now)
    except Unauthenticated as error:
        if not reads_body:
            _audit_refusal(gateway, request, hook, error.kind, error.detail)
            raise
    with gateway.memory.hold(org=hook.org, source=hook.source, address=address(gateway, request)) as held:
        try:
            body = received.body = await held.body(request, _largest(gateway, hook))
        except (TooMany, Unavailable):
            gateway.refusals.record(hook, "room", remote(gateway, request))
            raise
        if hook.verifier.reads_document or handshakes.read_body:
            await aside(received.read, size=len(body))
        if (answer := handshakes.before_verification(received)) is not None:
            return _answered(answer)
        try:
            adapted = await judged(gateway.adapters, hook, received, now, claims)
        except (Unauthenticated, AdapterFailed) as error:
            reason = error.reason if isinstance(error, AdapterFailed) else error.detail
            _audit_refusal(gateway, request, hook, error.kind, reason)
            raise
        if adapted.reply is not None:
            return _answered(adapted.reply)
        if (answer := handshakes.after_verification(received)) is not None:
            if answer.visit is not None:
                await gateway.fetcher.get(hook.org, answer.visit, timeout=VISIT)
            return _answered(answer)
        if request.method not in hook.methods:
            raise _not_allowed(hook)
        _check_backlog(gateway, request, hook)
        if limits:
            _hold_to(gateway.limits.take, gateway, request, hook, limits)
        with gateway.backlog.admitted(hook.source, hook.org, len(body)):
            delivery, ack = await _keep(gateway, request, hook, adapted, body)
    body = b'{"id":"%b"}' % delivery.encode()
    wanted = hook.acknowledgement
    if wanted is None:
        return web.Response(body=body, status=200 if ack.duplicate else 202, content_type="application/json")
    if wanted.text is None:
        return web.Response(body=body, status=wanted.status, content_type="application/json")
    return web.Response(body=wanted.text.encode(), status=wanted.status, content_type=wanted.content_type)


def _largest(gateway: Gateway, hook: WebhookEndpoint) -> int:
    return gateway.max_body if hook.max_body is None else min(hook.max_body, gateway.max_body)


def _not_allowed(hook: WebhookEndpoint) -> MethodNotAllowed:
    allowed = tuple(dict.fromkeys((*hook.methods, *hook.handshakes.methods)))
    return MethodNotAllowed(f"this address takes {', '.join(allowed)}", allowed=allowed)


def _answered(answer: HandshakeAnswer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, content_type=answer.content_type, headers=answer.headers)


async def _keep(gateway: Gateway, request: web.Request, hook: WebhookEndpoint, adapted: Adapted, body: bytes) -> tuple[str, Ack]:
    sender_id = None if adapted.delivery is None else storable(adapted.delivery)
    delivery = new_id() if sender_id is None else delivery_id(hook.source, sender_id)
    inline = len(body) <= INLINE_BYTES
    body_ref = None if inline else (await gateway.bodies.put(_once(body))).sha256
    with gateway.lanes.entered(hook.source, hook.org, hook.weight) as entry:
        message = WebhookReceived(
            source=hook.source,
            delivery=delivery,
            adapter=hook.adapter,
            received_at=rfc3339(utc_now()),
            method=request.method,
            query=kept_query(request.query.items(), hook.redacted_parameters, hook.secrets) if request.query_string else [],
            headers=kept_headers(request.headers.items(), redacted_of(hook, request.headers), hook.secrets),
            body_base64=base64.b64encode(body).decode() if inline else None,
            body_ref=body_ref,
            body_size=len(body),
            sender_delivery=sender_id,
            remote=remote(gateway, request),
            lane=entry.lane,
            checked=adapted.checked if hook.networks is None else [_OF_NETWORKS, *adapted.checked],
        )
        ack = await gateway.bus.journal.publish(gateway.bus.seal(message, org=hook.org, id=delivery))
        entry.sequence = ack.sequence
    return delivery, ack


def _check_media_type(request: web.Request, hook: WebhookEndpoint) -> None:
    if "Content-Encoding" in request.headers and request.headers["Content-Encoding"].lower() != "identity":
        raise UnsupportedMediaType("a webhook's body is not to be compressed")
    content_type = request.headers.get("Content-Type")
    if content_type is None:
        return  # read as the adapter's senders mean it
    accepted = hook.content_types
    if accepted is not None and media_type_of(content_type) not in accepted:
        raise UnsupportedMediaType(f"this source takes {', '.join(sorted(accepted))}")
    charset = charset_in(content_type)
    if charset is not None and charset_of(charset) is None:
        raise UnsupportedMediaType(f"the charset {storable(charset)[:40]!r} is unknown")


def _check_backlog(gateway: Gateway, request: web.Request, hook: WebhookEndpoint) -> None:
    try:
        gateway.backlog.check(hook.source, hook.org, weight=hook.weight, lane=gateway.lanes.bulk_lane(hook.source))
    except Unavailable:
        gateway.refusals.record(hook, "backlog", remote(gateway, request))
        raise


def _hold_to(does: Callable[[Limits], None], gateway: Gateway, request: web.Request, hook: WebhookEndpoint, limits: Limits) -> None:
    try:
        does(limits)
    except RateExceeded:
        # Senders do not look at what is left while they are let in.
        request[LIMITS] = limits
        gateway.refusals.record(hook, "rate", remote(gateway, request))
        raise


def _audit_refusal(gateway: Gateway, request: web.Request, hook: WebhookEndpoint, outcome: str, reason: str) -> None:
    gateway.trail.refused(
        Audited(
            category="webhook",
            verb="refused",
            actor="sender",
            target=hook.source,
            outcome=outcome,
            remote=remote(gateway, request),
            detail={"reason": reason, "adapter": hook.adapter},
        ),
        org=hook.org,
    )


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


ENDPOINTS = (receive,)
