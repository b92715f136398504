"""Messages in: a received webhook becomes events."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

import msgspec
import structlog

from services.events import domain
from services.events.adapters import ADAPTERS, PARSERS, Webhook
from services.events.opening import read
from services.events.registrations.notices import NoticeDeps, take_notice
from services.events.sandboxed import AdapterUnavailable, read_in_sandbox
from shared.adapters import CustomAdapters
from shared.blobs import Blobs
from shared.consumer import Handlers
from shared.encryption import CannotOpen, Keyring
from shared.envelope import rfc3339
from shared.errors import NotFound, Unavailable
from shared.messages import EventAccepted, EventDeferred, Message, WebhookReceived
from shared.resources.source import SourceEntry
from shared.streams import BULK_LANES, INLINE_BYTES

# Characters: a person reads the beginning, and a row holds the reason of every subscription.
LONGEST_REASON = 1000
# Events of one webhook that take the prompt lane: more of them would keep others' there waiting.
MOST_PROMPT = 32

_log = structlog.get_logger()


class ParsingDeps(NoticeDeps, Protocol):
    """Dependencies of making events."""

    bodies: Blobs
    adapters: CustomAdapters
    keyring: Keyring

    def room_for(self, reference: str | None) -> AbstractAsyncContextManager[Any]:
        """Return a context within which the body or the data at `reference` may be held in memory."""

    async def first_received(self, delivery: str) -> datetime | None:
        """Return when a delivery was received for the first time, as far as the rows are written."""


async def parse(webhook: WebhookReceived, deps: ParsingDeps) -> AsyncIterator[tuple[Message, str]]:
    """Make the events of a webhook; each is itself by its number in the request.

    A sender's delivery that was received before, longer ago than the broker remembers ids, yields nothing. One whose adapter, in a
    workspace, cannot make them now is deferred: here it would be in the way of others.
    """
    if webhook.sender_delivery is not None:
        first = await deps.first_received(webhook.delivery)
        if first is not None and first != datetime.fromisoformat(webhook.received_at):
            _log.info("delivery.repeated", delivery=webhook.delivery, first_received_at=rfc3339(first))
            return
    # Of others the body is not read here.
    async with deps.room_for(webhook.body_ref if webhook.adapter in PARSERS else None):
        try:
            async for accepted in accepted_of(webhook, deps, retry=None):
                await take_notice(accepted, webhook, deps)
                yield accepted, accepted.event
        except AdapterUnavailable as error:
            yield (
                EventDeferred(
                    source=webhook.source,
                    delivery=webhook.delivery,
                    adapter=webhook.adapter,
                    received_at=webhook.received_at,
                    reason=error.detail[:LONGEST_REASON],
                ),
                "deferred",
            )


async def accepted_of(
    webhook: WebhookReceived, deps: ParsingDeps, *, retry: str | None, adapters: CustomAdapters | None = None
) -> AsyncIterator[EventAccepted]:
    """Yield the events of a webhook; `retry` makes their ids new. `adapters` are asked in place of the usual ones.

    Raises `Invalid` when the body does not parse, `AdapterUnavailable`.
    """
    source = await deps.source(webhook.source)
    parser = PARSERS.get(webhook.adapter)
    if parser is not None:
        events = await read(parser, await _request(webhook, source, deps), source.org if source else "")
    elif source is not None:
        events = await read_in_sandbox(webhook, source, adapters or deps.adapters)
    else:
        raise NotFound(f"there is no adapter {webhook.adapter!r}")
    lane = webhook.lane if retry is None else None
    if len(events) > MOST_PROMPT:
        lane = lane or BULK_LANES[0]
    for number, event in enumerate(events):
        data, reference = await by_reference(event.data, deps)
        yield EventAccepted(
            source=webhook.source,
            source_name=source.name if source else webhook.source,
            event=domain.event_id(webhook.delivery, number, retry),
            delivery=webhook.delivery,
            type=event.type,
            data=data,
            data_ref=reference,
            headers=event.headers,
            received_at=webhook.received_at,
            retried_by=retry,
            number=number,
            lane=lane,
        )


async def _request(webhook: WebhookReceived, source: SourceEntry | None, deps: ParsingDeps) -> Webhook:
    """Return a webhook as a built-in adapter reads it."""
    return Webhook(
        headers=dict(webhook.headers),
        query=dict(webhook.query),
        body=await _body(webhook, deps),
        settings=source.spec.settings if source else {},
        secrets={} if source is None else _opened(source, deps),
    )


def _opened(source: SourceEntry, deps: ParsingDeps) -> dict[str, str]:
    """Return the secrets of a source that its adapter reads webhooks with. Raises `Unavailable`."""
    adapter = ADAPTERS.get(source.spec.adapter)
    try:
        return {
            name: deps.keyring.open(source.sealed[name], source.org, source.id, name)
            for name in (() if adapter is None else adapter.opens)
            if name in source.sealed
        }
    except CannotOpen as error:
        raise Unavailable(f"a secret of source {source.name!r} cannot be opened: {error}") from error


async def by_reference(value: Any, deps: ParsingDeps, encoded: bytes | None = None) -> tuple[Any, str | None]:
    """Return `value` as it travels: itself, or above 256 KiB of JSON nothing and the hash under which it is kept.

    `encoded` is its JSON where that is at hand.
    """
    encoded = encoded or msgspec.json.encode(value)
    if len(encoded) <= INLINE_BYTES:
        return value, None

    async def parts() -> AsyncIterator[bytes]:
        yield encoded

    return None, (await deps.bodies.put(parts())).sha256


async def _body(webhook: WebhookReceived, deps: ParsingDeps) -> bytes:
    if webhook.body_ref is not None:
        return await deps.bodies.read(webhook.body_ref)
    return base64.b64decode(webhook.body_base64 or "")


HANDLERS: Handlers = {WebhookReceived: parse}
