"""/api/v1/sources/{name}/test: step by step, what would happen to a recorded request."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

import msgspec
from multidict import CIMultiDict

from services.gateway.adapted import Adapted, AdapterFailed, judged
from services.gateway.admission import WebhookEndpoint, read_methods, redacted_of
from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, endpoint
from services.gateway.diagnosis import reasons
from services.gateway.domain import delivery_id, kept_headers, kept_query
from services.gateway.received import Received
from shared.adapters import CustomAdapters
from shared.charsets import charset_in, charset_of, media_type_of
from shared.envelope import rfc3339, utc_now
from shared.errors import Gone, Invalid, NotFound, PermissionDenied, Problem, TooLarge, Unauthenticated, Unavailable
from shared.questions.events import GetDelivery, PreviewedEvent, PreviewWebhook
from shared.questions.resources import GetResource, of
from shared.values import Instant, moment_of

# Bytes of a recorded body; characters of its head's parts, which no real request exceeds either.
MOST_BODY = 128 * 1024
_Text = Annotated[str, msgspec.Meta(max_length=8190)]


class RecordedHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One header of a recorded request."""

    name: _Text
    value: _Text = ""


class RecordedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as it was recorded: headers in their order, and the exact body, up to 128 KiB."""

    method: Annotated[str, msgspec.Meta(pattern="^[A-Z]{1,20}$")] = "POST"
    query: Annotated[_Text, msgspec.Meta(description="What stands behind the ? of the address.")] = ""
    headers: Annotated[list[RecordedHeader], msgspec.Meta(max_length=128)] = []
    body_base64: str = ""
    at: Annotated[Instant, msgspec.Meta(description="When it came, else now.")] | None = None


class TestStep(msgspec.Struct, frozen=True):
    """One step: its name, whether the request passes, and what is so."""

    __test__ = False

    step: Literal["address", "networks", "method", "media type", "size", "handshake", "signature", "delivery", "events"]
    passes: bool
    detail: str


class RequestTested(msgspec.Struct, frozen=True, kw_only=True):
    """The steps, the status of the answer that the sender would get, and for each event what each subscription would do."""

    status: int
    steps: list[TestStep]
    events: list[PreviewedEvent] = []


@endpoint(
    "POST",
    "/api/v1/sources/{name}/test",
    role="operator",
    body_limit=512 * 1024,
    errors=(NotFound,),
    audit=Audit("source", "test", "name"),
    example=Example(body={"headers": [{"name": "Content-Type", "value": "application/json"}], "body_base64": "e30="}),
)
async def test_source(call: Call[None, RecordedRequest]) -> RequestTested:
    """Say step by step what would happen to a recorded request, and where its signature fails, why. Nothing is kept or run."""
    shown = await call.ask(of(GetResource, "source", org=call.caller.org, name=call.path["name"]))
    asked, gateway, id_ = call.body, call.gateway, str(shown.fields["id"])
    body, now = _body(asked), _time(asked)
    steps: list[TestStep] = []
    try:
        hook = await gateway.admission.endpoint(id_)
    except (NotFound, Gone, Unavailable) as error:
        return RequestTested(status=error.status, steps=[TestStep("address", passes=False, detail=error.detail)])
    steps.append(TestStep("address", passes=True, detail=f"{gateway.public_url}/hooks/{id_} takes webhooks of {hook.adapter}"))
    if hook.networks is not None:
        steps.append(TestStep("networks", passes=True, detail="not tested: a recorded request does not say which address sent it"))
    target = f"/hooks/{id_}" + (f"?{asked.query}" if asked.query else "")
    received = Received(asked.method, CIMultiDict((one.name, one.value) for one in asked.headers), gateway.public_url, target, body)
    admitted = await _admitted(gateway.adapters, hook, received, now, steps)
    if isinstance(admitted, Adapted):
        status = await _delivered(call, hook, admitted.delivery, steps)
    elif steps[-1].step == "handshake":
        return RequestTested(status=admitted, steps=steps)  # no event comes of it
    else:
        status = admitted
    preview = PreviewWebhook(
        org=call.caller.org,
        source=id_,
        received_at=rfc3339(moment_of(asked.at) if asked.at is not None else utc_now()),
        method=asked.method,
        query=kept_query(
            [(name, one) for name, values in received.query.items() for one in values], hook.redacted_parameters, hook.secrets
        ),
        headers=kept_headers(received.headers.items(), redacted_of(hook, received.names), hook.secrets),
        body_base64=asked.body_base64,
    )
    found = await call.ask(preview)
    detail = f"{len(found.events)} of {found.total}" if found.total != len(found.events) else str(found.total)
    steps.append(TestStep("events", passes=found.problem is None, detail=found.problem or f"{detail}: {_types(found.events)}"))
    return RequestTested(status=status, steps=steps, events=found.events)


async def _admitted(
    adapters: CustomAdapters, hook: WebhookEndpoint, received: Received, now: float, steps: list[TestStep]
) -> int | Adapted:
    """Add the steps up to the signature; return a genuine webhook, the status of a request that goes no further."""
    handshakes = hook.handshakes
    try:
        answer = handshakes.before_body(received) or handshakes.before_verification(received)
    except (PermissionDenied, Unauthenticated) as error:
        steps.append(TestStep("handshake", passes=False, detail=error.detail))
        return error.status
    if answer is not None:
        steps.append(TestStep("handshake", passes=True, detail="it asks whether the address takes webhooks, and is answered"))
        return answer.status
    if received.method not in hook.methods and received.method not in read_methods(hook):
        steps.append(TestStep("method", passes=False, detail=f"this source takes {', '.join(hook.methods)}"))
        return 405
    misfit = _media_misfit(hook, received)
    if misfit is not None:
        steps.append(TestStep("media type", passes=False, detail=misfit))
        return 415
    if hook.max_body is not None and len(received.body) > hook.max_body:
        detail = f"the body has {len(received.body)} bytes, and this source takes {hook.max_body}"
        steps.append(TestStep("size", passes=False, detail=detail))
        return TooLarge.status
    try:
        adapted = await judged(adapters, hook, received, now)
    except Unavailable as error:
        detail = f"the adapter's code failed: {error.reason}" if isinstance(error, AdapterFailed) else error.detail
        steps.append(TestStep("signature", passes=False, detail=detail))
        return error.status
    except Unauthenticated as error:
        said = [error.detail] if hook.code is not None and hook.code.verifies else reasons(hook.verifier, received, now)
        steps += [TestStep("signature", passes=False, detail=one) for one in said]
        return Unauthenticated.status
    if adapted.reply is not None:
        steps.append(TestStep("handshake", passes=True, detail="it asks whether the address takes webhooks, and is answered"))
        return adapted.reply.status
    steps.append(TestStep("signature", passes=True, detail="; ".join(adapted.checked)))
    if (answer := handshakes.after_verification(received)) is not None:
        detail = "it asks whether the address takes webhooks, and is answered" + (
            "" if answer.visit is None else "; here the address that it names was not visited"
        )
        steps.append(TestStep("handshake", passes=True, detail=detail))
        return answer.status
    return adapted


async def _delivered(call: Call[None, RecordedRequest], hook: WebhookEndpoint, sender_id: str | None, steps: list[TestStep]) -> int:
    """Add what becomes of the sender's id; return the status of the answer."""
    accepted = 202 if hook.acknowledgement is None else hook.acknowledgement.status
    if sender_id is None:
        steps.append(TestStep("delivery", passes=True, detail="the sender names no id: sent again, it is another delivery"))
        return accepted
    known = delivery_id(hook.source, sender_id)
    try:
        await call.ask(GetDelivery(org=hook.org, id=known))
    except NotFound:
        steps.append(TestStep("delivery", passes=True, detail=f"the sender calls it {sender_id}, which was not there before"))
        return accepted
    steps.append(TestStep("delivery", passes=True, detail=f"it was there before, as delivery {known}: nothing new comes of it"))
    return 200 if hook.acknowledgement is None else accepted


def _media_misfit(hook: WebhookEndpoint, received: Received) -> str | None:
    encoding = received.headers.getall("Content-Encoding", ())
    if encoding and encoding[0].lower() != "identity":
        return "a webhook's body is not to be compressed"
    given = received.headers.getall("Content-Type", ())
    if not given:
        return None
    if hook.content_types is not None and media_type_of(given[0]) not in hook.content_types:
        return f"this source takes {', '.join(sorted(hook.content_types))}"
    charset = charset_in(given[0])
    return "the charset is unknown" if charset is not None and charset_of(charset) is None else None


def _types(events: list[PreviewedEvent]) -> str:
    return ", ".join(dict.fromkeys(event.type for event in events))[:500]


def _body(asked: RecordedRequest) -> bytes:
    try:
        body = base64.b64decode(asked.body_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("body_base64 is no base64", errors=(Problem("body_base64", "is no base64"),)) from error
    if len(body) > MOST_BODY:
        raise Invalid("the body has more than 128 KiB", errors=(Problem("body_base64", "has more than 128 KiB"),))
    return body


def _time(asked: RecordedRequest) -> float:
    if asked.at is None:
        return utc_now().timestamp()
    try:
        return moment_of(asked.at).timestamp()
    except ValueError as error:
        raise Invalid("at is no time of RFC 3339 with a zone", errors=(Problem("at", "is no time with a zone"),)) from error


ENDPOINTS: tuple[Endpoint, ...] = (test_source,)
