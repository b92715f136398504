"""Reads webhooks by the code of adapters of workspaces, which the executor runs in its sandbox."""

from __future__ import annotations

from services.events.adapters import ParsedEvent
from services.events.adapters.reading import UNNAMED
from services.events.adapters.webhook import checked_event
from shared.adapters import CustomAdapters
from shared.errors import Invalid, NotFound, Unavailable
from shared.messages import WebhookReceived
from shared.questions.adapters import AdapterRequest
from shared.resources.source import SourceEntry


class AdapterUnavailable(Unavailable):
    """The code of an adapter cannot be asked now, or is in its workspace no more."""


class AdapterLost(AdapterUnavailable):
    """The code of an adapter took too long with a webhook, or its process ended."""


async def read_in_sandbox(webhook: WebhookReceived, source: SourceEntry, adapters: CustomAdapters) -> list[ParsedEvent]:
    """Return the events of a webhook, one of the type `webhook` where its adapter makes none: every delivery has an end.

    Raises `Invalid` where the code fails, as it would again; `AdapterLost`, `AdapterUnavailable`.
    """
    try:
        adapter = await adapters.found(source.org, webhook.adapter)
    except Unavailable as error:
        raise AdapterUnavailable(error.detail, retry_after=error.retry_after) from error
    if adapter is None:
        raise AdapterUnavailable(f"there is no adapter {webhook.adapter!r}: the workspace has it no more")
    request = AdapterRequest(
        method=webhook.method,
        url=f"/hooks/{webhook.source}",
        headers=webhook.headers,
        query=webhook.query,
        body_base64=webhook.body_base64 or "",
        body_ref=webhook.body_ref,
    )
    try:
        answer = await adapters.ask(adapter, source, "parse", request)
    except (NotFound, Unavailable) as error:  # not found: the executor has another version by now
        raise AdapterUnavailable(error.detail, retry_after=error.retry_after) from error
    if answer.outcome == "events":
        events = [checked_event(ParsedEvent(one.type, one.data, one.headers)) for one in answer.events]
        return events or [ParsedEvent(UNNAMED, None)]
    reason = f"adapter {adapter.name} of the workspace: {answer.reason or answer.outcome}"
    raise AdapterLost(reason) if answer.outcome == "lost" else Invalid(reason)
