"""Senders as an adapter would declare them, with published vectors or without; and requests of theirs, without a socket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from multidict import CIMultiDict

from services.events.adapters import (
    adyen,
    bitbucket,
    box,
    circleci,
    github,
    hubspot,
    line,
    paddle,
    pagerduty,
    razorpay,
    sanity,
    sendgrid,
    slack,
    standard_webhooks,
    stripe,
    twilio,
    x,
)
from services.gateway.admission import WebhookEndpoint, endpoint_of
from services.gateway.received import Received
from services.gateway.schemes import ClaimedSignature, Scheme
from services.gateway.verifier import Verifier
from shared.errors import Unauthenticated
from shared.resources.source import Source, SourceEntry
from shared.verification import Place, SignatureScheme, Verification

VECTORS: list[dict[str, Any]] = msgspec.json.decode((Path(__file__).parents[1] / "vectors" / "webhooks.json").read_bytes())
NOW = 1_700_000_000.0
BASE = "https://hooks.example"


def header(name: str, prefix: str = "", separator: str = "", suffix: str = "") -> Place:
    """A place in a header."""
    return Place(header=name, prefix=prefix, separator=separator, suffix=suffix)


STRIPE, SANITY, SLACK, ADYEN, CRC = stripe.SCHEME, sanity.SCHEME, slack.SCHEME, adyen.ITEMS, x.CRC
STANDARD_WEBHOOKS, SVIX = standard_webhooks.verification({}).schemes
ED25519 = SignatureScheme(
    algorithm="ed25519", signature=header("x-signature"), keys=("public_key",), key_encoding="hex", template="{body}"
)
SHA1 = SignatureScheme(signature=header("x-signature", "sha1="), algorithm="hmac-sha1")
# By the id of a vector, else by its provider.
DECLARED: dict[str, tuple[SignatureScheme, ...]] = {
    "adyen": (ADYEN,),
    "bitbucket_jira": (bitbucket.SCHEME,),
    "box": box.ADAPTER.verification({}).schemes,
    "circleci": (circleci.SCHEME,),
    "ed25519_primitive": (ED25519,),
    "github": (github.SCHEME,),
    "hmac_primitive": (SignatureScheme(signature=header("x-signature"), key_encoding="hex"),),
    # What is signed of the message is put together from its head and covers no body: see `test_verification`.
    "http_message_signatures": (
        SignatureScheme(signature=header("signature", "sig-b25=:", suffix=":"), encoding="base64", key_encoding="base64"),
    ),
    "hubspot": hubspot.ADAPTER.verification({}).schemes,
    "line": (line.SCHEME,),
    "paddle": (paddle.SCHEME,),
    "pagerduty": (pagerduty.SCHEME,),
    "razorpay": (razorpay.SCHEME,),
    "sanity": (SANITY,),
    "sendgrid": (sendgrid.SCHEME,),
    "slack": (SLACK,),
    "standard_webhooks": (STANDARD_WEBHOOKS, SVIX),
    # The digest alone is published, not a whole header.
    "stripe": (SignatureScheme(signature=header("x-signature")),),
    "svix": (STANDARD_WEBHOOKS, SVIX),
    "twilio": twilio.ADAPTER.verification({}).schemes,
    "x": (x.SCHEME,),
    "generic-sha512-hex-convoy": (SignatureScheme(signature=header("x-convoy-signature"), algorithm="hmac-sha512"),),
    "generic-sha512-b64-convoy": (
        SignatureScheme(signature=header("x-convoy-signature"), algorithm="hmac-sha512", encoding="base64"),
    ),
    "adnanh-sha1-json": (SHA1,),
    "adnanh-sha1-empty": (SHA1,),
    "octokit-sha1-legacy": (SignatureScheme(signature=header("x-hub-signature", "sha1="), algorithm="hmac-sha1"),),
}


def verification_of(vector: Mapping[str, Any]) -> Verification:
    """Return what an adapter of a vector's sender would declare."""
    schemes = DECLARED[vector["id"] if vector["id"] in DECLARED else vector["provider"]]
    return Verification(schemes=schemes, handshakes=(CRC,) if vector["provider"] == "x" else ())


def settings_of(vector: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a source for a vector: the published key, under the name by which its sender is declared."""
    key = vector.get("public_key") or vector["secret"]
    if vector["provider"] == "box":
        return {"secondary_key" if vector["id"] == "box-secondary" else "primary_key": key}
    return dict.fromkeys(("public_key",) if "public_key" in vector else ("secret",), key)


def received_of(vector: Mapping[str, Any], *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Received:
    """Return a vector's request; where a vector is of a signature alone, it stands in a header."""
    given = dict(vector["headers"]) if headers is None else dict(headers)
    if headers is None and not given and vector["provider"] not in {"adyen", "x"}:
        given = {"X-Signature": vector.get("signature_hex", vector["expected"])}
    signed = vector["signed_string"] if vector["provider"] == "http_message_signatures" else vector["body"]
    url = vector.get("request_url", f"{BASE}/hooks/s") + ("?" + vector["query"] if "query" in vector else "")
    scheme, _, rest = url.partition("://")
    host, _, target = rest.partition("/")
    content = signed.encode() if body is None else body
    return Received(vector.get("method", "POST"), CIMultiDict(given), f"{scheme}://{host}", f"/{target}", content)


def request(
    body: bytes = b"", headers: Mapping[str, str] | None = None, *, method: str = "POST", target: str = "/hooks/s"
) -> Received:
    """Return a request to a source."""
    return Received(method, CIMultiDict(headers or {}), BASE, target, body)


def entry_of(
    declared: dict[str, Any] | None, adapter: str = "any", settings: Mapping[str, Any] | None = None, **fields: Any
) -> SourceEntry:
    """Return a source's registry entry that holds a declaration."""
    enabled = fields.pop("enabled", True)
    given = {"id": "s", "org": "default", "key": "k", "name": "n", "created_at": "", "updated_at": "", "version": 1} | fields
    spec = Source(adapter=adapter, settings=dict(settings or {}), enabled=enabled)
    return SourceEntry(spec=spec, derived={} if declared is None else {"verification": declared}, **given)


def endpoint(declared: Verification | dict[str, Any] | None, **settings: str) -> WebhookEndpoint:
    """Return the endpoint of a source whose registry entry holds a declaration; settings named `public…` are open."""
    entry = entry_of(
        msgspec.to_builtins(declared),
        settings={name: value for name, value in settings.items() if name.startswith("public")},
        sealed={name: value for name, value in settings.items() if not name.startswith("public")},
    )
    return endpoint_of(msgspec.json.decode(msgspec.json.encode(entry), type=SourceEntry), entry.sealed.__getitem__)


def reason(verifier: Verifier, received: Received, now: float = NOW) -> str | None:
    """Return why a request is refused, None when it is genuine."""
    try:
        verifier.verify(verifier.claims(received, now), received, now).delivery(received)
    except Unauthenticated as error:
        return error.detail
    return None


def refusal(scheme: SignatureScheme, keys: tuple[bytes, ...], headers: Mapping[str, str], body: bytes, now: float) -> str | None:
    """Return why a request with such a head and body is refused by one scheme."""
    return reason(Verifier([Scheme(scheme, keys)]), request(body, headers), now)


def claim_of(scheme: SignatureScheme, headers: Mapping[str, str], now: float) -> ClaimedSignature | str:
    """Return what a head claims, or why no body could make it genuine."""
    try:
        return Scheme(scheme, ()).claim(request(b"", headers), now)
    except Unauthenticated as error:
        return error.detail
