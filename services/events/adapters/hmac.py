"""Any sender that signs with an HMAC, or with a private key: its scheme is settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.generic import HEADER, NAMED, PLACE, delivery_of, parse, place_of
from shared.errors import Invalid, Problem
from shared.verification import SECRETS, TOLERANCE, Algorithm, Place, SignatureScheme, Verification

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
