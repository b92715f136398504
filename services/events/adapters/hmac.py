"""Any sender that signs with an HMAC: its scheme is settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.errors import Invalid, Problem
from shared.values import at
from shared.verification import SECRETS, TOLERANCE, Algorithm, Place, SignatureScheme, Verification

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
ALGORITHMS: dict[str, Algorithm] = {
    "sha1": "hmac-sha1",
    "sha256": "hmac-sha256",
    "sha384": "hmac-sha384",
    "sha512": "hmac-sha512",
    "plain-sha256": "sha256",
    "ed25519": "ed25519",
    "ecdsa-p256-sha256": "ecdsa-p256-sha256",
    "rsa-v1_5-sha256": "rsa-v1_5-sha256",
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


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return the scheme that the settings describe. Raises `Invalid` for a template that leaves the body unsigned, and the like."""
    around = {name: settings.get(name) or "" for name in ("prefix", "suffix", "separator")}
    query = settings.get("query")
    header = None if query else (settings.get("header") or "X-Signature").lower()
    values = {name: place_of(one) for name, one in (settings.get("values") or {}).items()}
    identity = place_of(settings.get("id"))
    try:
        scheme = SignatureScheme(
            signature=Place(header=header, query=query, **around),
            algorithm=ALGORITHMS[settings.get("algorithm") or "sha256"],
            encoding=settings.get("encoding") or "hex",
            template=settings.get("template") or "{body}",
            values={name: one for name, one in (values | {"id": identity}).items() if one is not None},
            timestamp=place_of(settings.get("timestamp")),
            timestamp_unit=settings.get("timestamp_unit") or "s",
            tolerance=settings.get("tolerance") or TOLERANCE,
            key_encoding=settings.get("key_encoding") or "text",
            key_prefix=settings.get("key_prefix") or "",
            keys=("public_key",) if settings.get("public_key") else SECRETS,
            **delivery_of(settings),
        )
    except ValueError as error:
        raise Invalid(f"the settings make no signature: {error}", errors=(Problem("settings.template", str(error)),)) from error
    return Verification(schemes=(scheme,))


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


ADAPTER = Adapter(
    name="hmac",
    description="A sender that signs with an HMAC, in whatever way: the settings say how.",
    link="https://www.rfc-editor.org/rfc/rfc2104",
    secrets={"secret": {"type": "string", "minLength": 1}},
    required=(),
    one_of=(("secret", "public_key"),),
    settings={
        "header": HEADER | {"default": "X-Signature", "description": "The header that has the signature."},
        "query": text("The query parameter that has the signature, in place of a header."),
        "algorithm": {
            "enum": [*ALGORITHMS], "default": "sha256",
            "description": "Of the HMAC; or of a public key's signature; plain-sha256 is a digest of a template with {secret}.",
        },
        "public_key": text("The sender's public key, PEM or in `key_encoding`, for an algorithm that has one.", maxLength=8192),
        "encoding": {"enum": ["hex", "base64", "base64url"], "default": "hex"},
        "prefix": {"type": "string", "default": "", "description": "What stands before the signature, as sha256= or v1=."},
        "suffix": {"type": "string", "default": "", "description": "What stands behind the signature."},
        "separator": {"type": "string", "default": "", "description": "What is between several signatures, or other parts."},
        "template": text(
            "What is signed, with names in braces: body, id, timestamp, method, url, authority, form, and those of `values`.",
            default="{body}", maxLength=2000,
        ),
        "values": {
            "type": "object",
            "description": "Further names of the template, and where their texts stand.",
            "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$", "maxLength": 40},
            "additionalProperties": PLACE,
            "maxProperties": 20,
        },
        "id": PLACE | {"description": "Where the id stands that the template signs: the delivery's, unless `delivery` is set."},
        "timestamp": PLACE | {"description": "Where the time stands that the template signs."},
        "timestamp_unit": {"enum": ["s", "ms", "rfc3339"], "default": "s"},
        "tolerance": {
            "type": "number", "minimum": 1, "maximum": 604_800, "default": TOLERANCE,
            "description": "Seconds that the time may be from now, either way.",
        },
        "key_encoding": {"enum": ["text", "base64", "hex"], "default": "text", "description": "How the secret writes the key."},
        "key_prefix": {"type": "string", "default": "", "description": "What stands before the key in the secret, as whsec_."},
        **NAMED,
    },
    verification=verification,
    parse=parse,
    sample=Sample(
        headers={"Content-Type": "application/json"},
        settings={"header": "X-Acme-Signature", "prefix": "sha256=", "event_path": "kind"},
        body='{"kind":"order.paid","id":42}',
        events=("order.paid",),
    ),
)  # fmt: skip
