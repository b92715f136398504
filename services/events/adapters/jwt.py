"""Any sender that authenticates with a JSON Web Token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.generic import HEADER, NAMED, delivery_of, parse
from shared.errors import Invalid, Problem
from shared.jose import public_key_of
from shared.verification import SECRETS, TOLERANCE, JoseAlgorithm, Place, Verification, WebToken

_ALGORITHMS: tuple[JoseAlgorithm, ...] = get_args(JoseAlgorithm)
_SYMMETRIC = tuple(one for one in _ALGORITHMS if one.startswith("HS"))
_PUBLIC = tuple(one for one in _ALGORITHMS if not one.startswith("HS"))


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return a token for each kind of key that there is. Raises `Invalid` with the path of a setting that makes none."""
    header = (settings.get("header") or "Authorization").lower()
    prefix = settings.get("prefix")
    token = WebToken(
        token=Place(header=header, prefix="Bearer " if prefix is None and header == "authorization" else prefix or ""),
        algorithms=_SYMMETRIC,
        keys=SECRETS,
        issuer=settings.get("issuer"),
        audience=tuple(settings.get("audience") or ()),
        claims=settings.get("claims") or {},
        body_claim=settings.get("body_claim"),
        tolerance=settings.get("tolerance") or TOLERANCE,
        **delivery_of(settings),
    )
    key_set, key = settings.get("jwks_url"), settings.get("public_key")
    if key_set is None and key is None:
        return Verification(tokens=(token,))
    if key_set is not None and not token.audience and not token.claims:
        message = "is required beside jwks_url, or claims: such keys sign for others, too"
        raise Invalid(f"settings.audience {message}", errors=(Problem("settings.audience", message),))
    if key is not None:
        try:
            public_key_of(key)
        except ValueError as error:
            raise Invalid(f"settings.public_key: {error}", errors=(Problem("settings.public_key", str(error)),)) from error
    chosen = tuple(settings.get("algorithms") or _PUBLIC)
    # A secret beside a public key would be a second way in.
    return Verification(tokens=(msgspec.structs.replace(token, algorithms=chosen, keys=("public_key",), key_set=key_set),))


ADAPTER = Adapter(
    name="jwt",
    description="A sender with a JSON Web Token, by a secret, a public key, or a key set at an address. See `body_claim`.",
    link="https://www.rfc-editor.org/rfc/rfc7519",
    secrets={"secret": text("The secret of HS256, HS384 or HS512.")},
    settings={
        "jwks_url": text("The address of the sender's key set, over HTTPS.", pattern="^https?://", maxLength=1000),
        "public_key": text("The sender's public key, PEM, or DER as base64.", maxLength=8192),
        "algorithms": {"type": "array", "items": {"enum": [*_PUBLIC]}, "minItems": 1, "description": "Of public keys; else any."},
        "issuer": text("The iss that tokens have to have."),
        "audience": {
            "type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 20,
            "description": "The aud that tokens have to have, one of these.",
        },
        "claims": {
            "type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 20,
            "description": "Other claims that tokens have to have, such as an email.",
        },
        "body_claim": text("The claim that has the body's SHA-256, as request_body_sha256: without one no body is verified."),
        "tolerance": {"type": "number", "minimum": 1, "maximum": 86_400, "default": TOLERANCE},
        "header": HEADER | {"default": "Authorization", "description": "The header that has the token."},
        "prefix": {"type": "string", "description": "What stands before it: 'Bearer ' in Authorization, else nothing."},
        **NAMED,
    },
    required=(),
    one_of=(("secret", "public_key", "jwks_url"),),
    verification=verification,
    parse=parse,
    sample=Sample(
        headers={"Content-Type": "application/json"},
        settings={
            "jwks_url": "https://www.googleapis.com/oauth2/v3/certs",
            "issuer": "https://accounts.google.com",
            "audience": ["https://hooks.example.com"],
            "delivery": {"json": "message.messageId"},
        },
        body='{"message":{"data":"SGVsbG8=","messageId":"136969346945"},"subscription":"projects/p/subscriptions/s"}',
        events=("webhook",),
    ),
)  # fmt: skip
