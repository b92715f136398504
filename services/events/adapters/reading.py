"""Reads events out of requests as an adapter declares: where their type stands, and which lists hold several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from services.events.adapters.webhook import FORM, ParsedEvent, Webhook
from shared.errors import Invalid
from shared.values import at, text_of
from shared.verification import Place

# The type of an event whose request names none.
UNNAMED = "webhook"
# More than any sender puts into one request; each becomes a message.
MOST_EVENTS = 10_000


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The reading of one sender's requests; calling it with a webhook returns the events.

    The first of `types` that is there is the type, and a text at `action` follows it after a dot; without any the type is
    `default`, or with None the request is refused. `each` is the path of a list whose items are events, "" for a body that is
    one itself; `item` is the path of an event in its item. JSON paths of types begin at the event. A body that is no such list, or
    an empty one, is one event of the type `default`. A form's field `payload` holds the JSON that a body otherwise is. Headers in
    `kept` go with the event.
    """

    types: tuple[Place, ...] = ()
    action: Place | None = None
    default: str | None = UNNAMED
    each: str | None = None
    item: str = ""
    payload: str | None = None
    kept: tuple[str, ...] = ()

    def __call__(self, webhook: Webhook) -> list[ParsedEvent]:
        """Return the events of a request. Raises `Invalid`."""
        data = payload_of(webhook, self.payload)
        kept = {name: webhook.headers[name] for name in self.kept if name in webhook.headers}
        events = [] if self.each is None else items_of(data, self.each)
        if not events:
            return [ParsedEvent(self._type(webhook, data), data, kept)]
        path = self.item.split(".") if self.item else []
        found = [at(event, path) for event in events]
        return [ParsedEvent(self._type(webhook, event), event, kept) for event in found]

    def _type(self, webhook: Webhook, data: Any) -> str:
        type_ = next((text for place in self.types if (text := text_at(place, webhook, data))), None) or self.default
        if type_ is None:
            raise webhook.lacks(f"event type: there is no {' and no '.join(map(str, self.types))}")
        action = None if self.action is None else text_at(self.action, webhook, data)
        return f"{type_}.{action}" if action else type_


def payload_of(webhook: Webhook, field: str | None = None) -> Any:
    """Return a request's body by its content type; of a form that has it, the JSON in a field. Raises `Invalid`."""
    if field is not None and webhook.media_type == FORM:
        payload = webhook.form().get(field)
        if isinstance(payload, str):
            return Webhook({}, {}, payload.encode(), {}).json()
    return webhook.data()


def items_of(data: Any, path: str) -> list[Any]:
    """Return the items of a list within some JSON; none where there is no list. Raises `Invalid` for too many."""
    found = at(data, path.split(".") if path else [])
    return bounded(found) if isinstance(found, list) else []


def bounded(items: Sequence[Any] | Iterator[Any]) -> list[Any]:
    """Return the events of one request. Raises `Invalid` for more than any sender puts into one."""
    found: list[Any] = []
    for item in items:
        if len(found) == MOST_EVENTS:
            raise Invalid(f"the request has more than {MOST_EVENTS:,} events")
        found.append(item)
    return found


def text_at(place: Place, webhook: Webhook, data: Any) -> str | None:
    """Return the text at a place of a request, None where there is none; its JSON paths begin at `data`."""
    text: Any
    if place.header is not None:
        text = webhook.headers.get(place.header)
    elif place.query is not None:
        text = webhook.query.get(place.query)
    else:
        path = [place.form] if place.form is not None else (place.json or "").split(".")
        text = text_of(at(data, path))
    if not isinstance(text, str) or not text.startswith(place.prefix):
        return place.default
    return text.removeprefix(place.prefix) or place.default
