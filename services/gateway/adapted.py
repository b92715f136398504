"""Judges whole requests: by the declaration of their source's adapter, or by its code, in a workspace, which is asked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import msgspec

from services.gateway.admission import AdapterCode, WebhookEndpoint
from services.gateway.handshakes import HandshakeAnswer
from services.gateway.places import SENDER_ID
from services.gateway.received import Received
from services.gateway.verifier import Claim
from shared.adapters import CustomAdapters
from shared.errors import Unauthenticated, Unavailable
from shared.questions.adapters import MOST_VERIFIED, AdapterAnswer, AdapterRequest
from shared.values import aside

# Seconds after which a sender comes again to a source whose adapter fails.
FAILED = 10.0


class Adapted(msgspec.Struct, frozen=True):
    """A request as it was judged: an answer to a handshake, or a genuine webhook with the sender's id, and what was `checked`."""

    reply: HandshakeAnswer | None = None
    delivery: str | None = None
    checked: list[str] = []


class AdapterFailed(Unavailable):
    """The code of an adapter failed. `reason` is for its organization, and not for senders."""

    def __init__(self, reason: str) -> None:
        super().__init__("the adapter of this source cannot be used now", retry_after=FAILED)
        self.reason = reason


async def judged(
    adapters: CustomAdapters, hook: WebhookEndpoint, received: Received, now: float, claims: Sequence[Claim] = ()
) -> Adapted:
    """Return how a whole request is judged, by the code of the source's adapter or by its declaration.

    `claims` are those of its head, where they are known. Raises `Unauthenticated`, `Unavailable`, `AdapterFailed`.
    """
    code, verifier = hook.code, hook.verifier
    if code is not None and code.verifies:
        found = await shown(adapters, code, received, "receive")
        assert found is not None  # noqa: S101 - it is asked for more than a handshake
        return found
    try:
        claims = claims or verifier.claims(received, now)
        if verifier.fetches:
            try:
                await verifier.load(claims, received)
            except Unavailable as error:
                # Where keys come from is the organization's own matter.
                raise AdapterFailed(error.detail) from error
        scheme = verifier.verify(claims, received, now)
    except Unauthenticated:
        if code is None or len(received.body) > MOST_VERIFIED:
            raise
        answer = await shown(adapters, code, received, "handshake")
        if answer is None:
            raise
        return answer
    if hook.reads_document:
        await aside(received.read, size=len(received.body))
    return Adapted(delivery=scheme.delivery(received), checked=scheme.checked(received, now))


async def shown(
    adapters: CustomAdapters, code: AdapterCode, received: Received, act: Literal["receive", "handshake"]
) -> Adapted | None:
    """Return how an adapter's code judges a request; None for one that is no handshake, where only that is asked.

    Raises `Unauthenticated` with the reason that it gives; `AdapterFailed` where it fails; `Unavailable`.
    """
    request = AdapterRequest(
        method=received.method,
        url=received.named("url"),
        headers=[(name.lower(), value) for name, value in received.headers.items()],
        query=[(name, value) for name, values in received.query.items() for value in values],
        body_base64=base64.b64encode(received.body).decode(),
    )
    answer = await adapters.ask(code.adapter, code.source, act, request)
    if answer.outcome == "genuine":
        named = answer.delivery
        checked = ["the adapter's own code found it genuine"]
        return Adapted(delivery=named if named and len(named) <= SENDER_ID else None, checked=checked)
    if answer.outcome == "refused":
        raise Unauthenticated(answer.reason or "the adapter refuses it")
    if answer.outcome == "nothing" and act == "handshake":
        return None
    if answer.reply is None:
        raise AdapterFailed(answer.reason or f"it answered {answer.outcome}")
    return Adapted(reply=_handshake(answer))


def _handshake(answer: AdapterAnswer) -> HandshakeAnswer:
    reply = answer.reply
    assert reply is not None  # noqa: S101 - its caller looked
    return HandshakeAnswer(reply.status, base64.b64decode(reply.body_base64), reply.content_type, reply.headers)
