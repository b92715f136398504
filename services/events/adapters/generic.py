"""Senders that are not known: settings say where the texts of their requests stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from services.events.adapters.declared import text
from services.events.adapters.reading import UNNAMED
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.values import at
from shared.verification import Place

HEADER = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[A-Za-z0-9_-]+$"}
_TEXT = {"type": "string", "maxLength": 200}
PLACE = {
    "description": "Where a text stands: a header's name, or one of header, query, form and json (a dotted path), with what is "
    "around it: prefix, suffix, and the separator where the place holds several.",
    "oneOf": [
        HEADER,
        {
            "type": "object",
            "properties": {
                "header": HEADER,
                **{name: _TEXT | {"minLength": 1} for name in ("query", "form", "json")},
                **dict.fromkeys(("prefix", "suffix", "separator", "default"), _TEXT),
            },
            "oneOf": [{"required": [name]} for name in ("header", "query", "form", "json")],
            "additionalProperties": False,
        },
    ],
}
# How settings name the event and the delivery, of every adapter whose sender is not known.
NAMED: dict[str, dict[str, Any]] = {
    "event_header": HEADER | {"description": "The header that has the event's type."},
    "event_path": text("Dotted path to the type in a JSON body."),
    "delivery_header": HEADER | {"description": "The header that has the sender's id of a delivery."},
    "delivery": PLACE | {"description": "Where the sender's id of a delivery stands."},
    "replay": PLACE | {"description": "Where a text stands that tells a replay from a delivery of the same id."},
}


def place_of(setting: Any) -> Place | None:
    """Return the place that a setting means: a header's name, or a place. Raises ValueError."""
    if setting is None:
        return None
    given = {"header": setting} if isinstance(setting, str) else dict(setting)
    if "header" in given:
        given["header"] = given["header"].lower()
    return msgspec.convert(given, Place)


def delivery_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a scheme that say where a delivery's id is. Raises ValueError."""
    replay = place_of(settings.get("replay"))
    return {
        "delivery": place_of(settings.get("delivery") or settings.get("delivery_header")) or place_of(settings.get("id")),
        "delivery_with": () if replay is None else (replay,),
    }


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event; its type comes from the header or the path that the settings name, else it is `webhook`."""
    data = webhook.data()
    type_ = UNNAMED
    header = webhook.settings.get("event_header")
    path = webhook.settings.get("event_path")
    if header:
        type_ = webhook.headers.get(header.lower(), "")
    elif path:
        found = at(data, path.split("."))
        type_ = found if isinstance(found, str) else ""
    if not type_:
        raise webhook.lacks(f"event type: {f'header {header}' if header else f'{path} in its body'} is missing")
    found = webhook.headers.get("content-type")
    return [ParsedEvent(type_, data, {"content-type": found} if found else {})]
