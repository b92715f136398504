"""Any sender with HTTP message signatures (RFC 9421)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.generic import NAMED, delivery_of, parse
from shared.errors import Invalid, Problem
from shared.jose import public_key_of
from shared.verification import SECRETS, TOLERANCE, MessageAlgorithm, MessageSignature, Verification

_ALGORITHMS = get_args(MessageAlgorithm)
_COMPONENTS = MessageSignature().components


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return the signature that the settings describe. Raises `Invalid` with the path of one that makes none."""
    key = settings.get("public_key")
    algorithm: MessageAlgorithm = settings.get("algorithm") or "hmac-sha256"
    if (key is not None) != (algorithm != "hmac-sha256"):
        why = "is required for this algorithm, and hmac-sha256 has none"
        raise Invalid(f"settings.public_key {why}", errors=(Problem("settings.public_key", why),))
    if key is not None:
        try:
            public_key_of(key)
        except ValueError as error:
            raise Invalid(f"settings.public_key: {error}", errors=(Problem("settings.public_key", str(error)),)) from error
    message = MessageSignature(
        algorithm=algorithm,
        components=tuple(settings.get("components") or _COMPONENTS),
        keys=SECRETS if key is None else ("public_key",),
        key_encoding=settings.get("key_encoding") or "text",
        key_id=settings.get("key_id"),
        tag=settings.get("tag"),
        tolerance=settings.get("tolerance") or TOLERANCE,
        **delivery_of(settings),
    )
    return Verification(messages=(message,))


ADAPTER = Adapter(
    name="http-signatures",
    description="A sender with HTTP message signatures (RFC 9421): Signature, Signature-Input, and for the body Content-Digest.",
    link="https://www.rfc-editor.org/rfc/rfc9421",
    secrets={"secret": text("The secret of hmac-sha256.")},
    settings={
        "public_key": text("The sender's public key, PEM, or DER as base64.", maxLength=8192),
        "algorithm": {"enum": [*_ALGORITHMS], "default": "hmac-sha256"},
        "components": {
            "type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 20, "default": [*_COMPONENTS],
            "description": "What a signature has to cover at least; without content-digest no body is verified.",
        },
        "key_id": text("The keyid that signatures have to have."),
        "tag": text("The tag that signatures have to have."),
        "key_encoding": {"enum": ["text", "base64", "hex"], "default": "text", "description": "How the secret writes the key."},
        "tolerance": {"type": "number", "minimum": 1, "maximum": 86_400, "default": TOLERANCE},
        **NAMED,
    },
    required=(),
    one_of=(("secret", "public_key"),),
    verification=verification,
    parse=parse,
    sample=Sample(
        headers={"Content-Type": "application/json"},
        settings={"event_path": "hello"},
        body='{"hello":"world"}',
        events=("world",),
    ),
)  # fmt: skip
