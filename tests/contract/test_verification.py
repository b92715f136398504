"""What an adapter can declare, the gateway verifies: every published vector and every handshake, by data alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from services.events.adapters import (
    ADAPTERS,
    VERIFICATIONS,
    adyen,
    discord,
    dropbox,
    gitlab,
    hubspot,
    jira,
    linear,
    meta,
    microsoft_graph,
    mux,
    okta,
    sentry,
    shopify,
    square,
    telnyx,
    trello,
    twilio,
    typeform,
    x,
    zendesk,
    zoom,
)
from services.events.adapters import verification_of as declared_by
from services.gateway import handshakes, schemes
from services.gateway.handshakes import HandshakeAnswer
from services.gateway.received import Received
from shared import signatures
from shared.errors import PermissionDenied, Unavailable
from shared.verification import Handshake, Place, SignatureScheme, Verification
from tests.support.senders import (
    ADYEN,
    CRC,
    DECLARED,
    NOW,
    SANITY,
    SLACK,
    STRIPE,
    VECTORS,
    endpoint,
    header,
    reason,
    received_of,
    request,
    settings_of,
    verification_of,
)

# Challenges are in `test_handshakes…`; all others are of signatures.
SIGNED = [vector for vector in VECTORS if vector["provider"] != "x"]
GENUINE = [vector for vector in SIGNED if vector["expected_valid"]]
IDS = [vector["id"] for vector in SIGNED]
KEY = "the key"
BODY = b'{"id":"evt_1","type":"paid"}'
STAMP = str(int(NOW))
# A key of another kind than the published one is refused when the source is opened; of the same form it is another key.
OTHER_KEYS: dict[str, str] = {
    "sendgrid": next(vector["public_key"] for vector in VECTORS if vector["id"] == "sendgrid-badkey"),
    "ed25519_primitive": "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    "adyen": "00" * 32,
    "hmac_primitive": "00" * 32,
}


def mac(signed: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.digest(KEY.encode(), signed, algorithm)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def declared(adapter: str, **settings: str) -> Verification:
    """Return what an adapter declares for settings."""
    return ADAPTERS[adapter].verification(settings)


def one(scheme: SignatureScheme, received: Received, **settings: str) -> str | None:
    """Return why a request is refused by one scheme, None when it is genuine."""
    return reason(endpoint(Verification(schemes=(scheme,)), **settings or {"secret": KEY}).verifier, received)


# -- published vectors -------------------------------------------------------------------------------------------------


def test_every_published_vector_is_there() -> None:
    assert len(VECTORS) == 44
    assert {vector["provider"] for vector in VECTORS} - DECLARED.keys() == {"generic_hmac"}


@pytest.mark.parametrize("vector", SIGNED, ids=IDS)
def test_a_published_vector_is_decided_as_published(vector: dict[str, Any]) -> None:
    made = endpoint(verification_of(vector), **settings_of(vector))
    why = reason(made.verifier, received_of(vector), vector.get("now", NOW))
    assert (why is None) == vector["expected_valid"], why


@pytest.mark.parametrize("vector", GENUINE, ids=lambda vector: vector["id"])
def test_a_published_body_with_one_byte_changed_is_refused(vector: dict[str, Any]) -> None:
    made = endpoint(verification_of(vector), **settings_of(vector))
    whole = received_of(vector).body
    changed = whole.replace(b"1130", b"1131") if vector["provider"] == "adyen" else whole + b"&"
    if vector["provider"] == "twilio":
        changed = whole + b"&To=1"
    assert changed != whole
    assert reason(made.verifier, received_of(vector, body=changed), vector.get("now", NOW)) is not None


@pytest.mark.parametrize("vector", GENUINE, ids=lambda vector: vector["id"])
def test_what_was_verified_is_told_and_tells_no_secret(vector: dict[str, Any]) -> None:
    made, received, now = (
        endpoint(verification_of(vector), **settings_of(vector)).verifier,
        received_of(vector),
        vector.get("now", NOW),
    )
    told = " ".join(made.verify(made.claims(received, now), received, now).checked(received, now))
    assert told
    shown = [*settings_of(vector).values(), *(value for _, value in received.headers.items() if len(value) > 20)]
    assert not [one for one in shown if one in told]


def test_a_time_too_far_off_is_told_by_its_seconds() -> None:
    signed = SignatureScheme(
        signature=Place(header="x-sign"), template="{timestamp}.{body}", timestamp=Place(header="x-time"), tolerance=300
    )
    for away, said in ((412, "the timestamp is 412 s old, and 300 s are allowed"), (-412, "412 s ahead"), (2, None)):
        stamp = str(int(NOW) - away)
        headers = CIMultiDict({"X-Time": stamp, "X-Sign": mac(f"{stamp}.".encode() + BODY).hex()})
        why = one(signed, Received("POST", headers, "http://localhost", "/hooks/a", BODY))
        assert why is None if said is None else said in str(why)


@pytest.mark.parametrize("vector", GENUINE, ids=lambda vector: vector["id"])
def test_while_a_secret_is_rotated_both_verify_and_no_third(vector: dict[str, Any]) -> None:
    declared, now, received = verification_of(vector), vector.get("now", NOW), received_of(vector)
    published = settings_of(vector)
    name = next(iter(published))
    previous = "public_key_2" if name == "public_key" else "previous_secret"
    both = Verification(schemes=tuple(msgspec.structs.replace(scheme, keys=(name, previous)) for scheme in declared.schemes))
    other = OTHER_KEYS.get(vector["provider"], "YW5vdGhlciBzZWNyZXQ=")
    assert reason(endpoint(both, **{name: other, previous: published[name]}).verifier, received, now) is None
    assert reason(endpoint(both, **{name: published[name], previous: other}).verifier, received, now) is None
    assert reason(endpoint(both, **{name: other}).verifier, received, now) is not None
    assert reason(endpoint(both).verifier, received, now) is not None


@pytest.mark.parametrize("vector", [v for v in GENUINE if "now" in v], ids=lambda vector: vector["id"])
@pytest.mark.parametrize("away", [-301.0, 301.0])
def test_a_published_vector_of_another_time_is_refused(vector: dict[str, Any], away: float) -> None:
    made = endpoint(verification_of(vector), **settings_of(vector))
    assert reason(made.verifier, received_of(vector), vector["now"] + 299.0 * away / 301.0) is None
    assert reason(made.verifier, received_of(vector), vector["now"] + away) is not None


@pytest.mark.parametrize("vector", [v for v in GENUINE if v["headers"]], ids=lambda vector: vector["id"])
def test_a_header_that_is_read_is_refused_where_it_is_absent_or_stands_twice(vector: dict[str, Any]) -> None:
    settings = settings_of(vector)
    used = tuple(scheme for scheme in verification_of(vector).schemes if settings.keys() & set(scheme.keys))
    made = endpoint(Verification(schemes=used), **settings)
    places = [
        place
        for scheme in used
        for place in (scheme.signature, scheme.timestamp, *scheme.values.values(), *(place for place, _ in scheme.when))
        if place is not None and place.header is not None
    ]
    present = [name for name in vector["headers"] if name.lower() in {place.header for place in places}]
    assert present
    for name in present:
        headers = {key: value for key, value in vector["headers"].items() if key != name}
        assert reason(made.verifier, received_of(vector, headers=headers), vector.get("now", NOW)) is not None
        twice = received_of(vector)
        assert isinstance(twice.headers, CIMultiDict)
        twice.headers.add(name, vector["headers"][name])
        assert "more than once" in str(reason(made.verifier, twice, vector.get("now", NOW)))


# -- senders without published vectors -----------------------------------------------------------------------------------

PRIVATE = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
RSA = rsa.generate_private_key(65537, 2048)
RSA_PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
SNS_BODY = msgspec.json.encode(
    {
        "Type": "Notification",
        "MessageId": "m",
        "TopicArn": "arn:aws:sns:eu-west-1:1:t",
        "Message": "{}",
        "Timestamp": "2023-11-14T22:13:20.000Z",
    }
)
SNS_NAMES = ("Message", "MessageId", "Timestamp", "TopicArn", "Type")
SNS = SignatureScheme(
    algorithm="rsa-v1_5-sha256",
    signature=Place(json="Signature"),
    encoding="base64",
    template="".join(f"{name}\n{{{'timestamp' if name == 'Timestamp' else name}}}\n" for name in SNS_NAMES),
    values={name: Place(json=name) for name in SNS_NAMES if name != "Timestamp"},
    timestamp=Place(json="Timestamp"),
    timestamp_unit="rfc3339",
    keys=("public_certificate",),
)
_sns_signed = "".join(f"{name}\n{msgspec.json.decode(SNS_BODY)[name]}\n" for name in SNS_NAMES).encode()
SNS_SENT = msgspec.json.encode(
    msgspec.json.decode(SNS_BODY) | {"Signature": b64(RSA.sign(_sns_signed, padding.PKCS1v15(), SHA256()))}
)
GRAPH = microsoft_graph.SCHEME
LINEAR = b'{"action":"create","type":"Issue","webhookTimestamp":1700000000000}'
JSON_DIGEST = hashlib.sha256(BODY).hexdigest()
TARGET = f"/hooks/s?bodySHA256={JSON_DIGEST}"
TWILIO_JSON = twilio.ADAPTER.verification({}).schemes[1]
CASES: dict[str, tuple[SignatureScheme, Received]] = {
    "stripe": (STRIPE, request(BODY, {"Stripe-Signature": f"t={STAMP},v1={mac(f'{STAMP}.'.encode() + BODY).hex()},v0=0"})),
    "shopify": (
        shopify.SCHEME,
        request(BODY, {"X-Shopify-Hmac-Sha256": b64(mac(BODY)), "X-Shopify-Webhook-Id": "w"}),
    ),
    "gitlab": (
        gitlab.SCHEME,
        request(BODY, {"X-Gitlab-Token": KEY}),
    ),
    "zendesk": (
        zendesk.SCHEME,
        request(
            BODY,
            {
                "X-Zendesk-Webhook-Signature": b64(mac(b"2023-11-14T22:13:20Z" + BODY)),
                "X-Zendesk-Webhook-Signature-Timestamp": "2023-11-14T22:13:20Z",
            },
        ),
    ),
    "hubspot v3": (
        hubspot.V3,
        request(
            BODY,
            {
                "X-HubSpot-Signature-v3": b64(mac(b"POSThttps://hooks.example/hooks/s?a=1" + BODY + f"{STAMP}000".encode())),
                "X-HubSpot-Request-Timestamp": f"{STAMP}000",
            },
            target="/hooks/s?a=1",
        ),
    ),
    "square": (
        square.SCHEME,
        request(BODY, {"X-Square-HmacSha256-Signature": b64(mac(b"https://hooks.example/hooks/s" + BODY))}),
    ),
    "discord": (
        discord.SCHEME,
        request(
            BODY, {"X-Signature-Ed25519": PRIVATE.sign(STAMP.encode() + BODY).hex(), "X-Signature-Timestamp": STAMP}
        ),
    ),
    "standard webhooks v1a": (
        declared("standard-webhooks", public_key="x").schemes[2],
        request(
            BODY,
            {
                "webhook-id": "m",
                "webhook-timestamp": STAMP,
                "webhook-signature": "v1,AA== v1a," + b64(PRIVATE.sign(f"m.{STAMP}.".encode() + BODY)),
            },
        ),
    ),
    "sns with a pinned key": (SNS, request(SNS_SENT)),
    "microsoft graph": (GRAPH, request(msgspec.json.encode({"value": [{"clientState": KEY}, {"clientState": KEY}]}))),
    "twilio json": (
        TWILIO_JSON,
        request(BODY, {"X-Twilio-Signature": b64(mac(f"https://hooks.example{TARGET}".encode(), "sha1"))}, target=TARGET),
    ),
    "telnyx": (
        telnyx.SCHEME,
        request(
            BODY,
            {
                "Telnyx-Signature-Ed25519": b64(PRIVATE.sign(f"{STAMP}|".encode() + BODY)),
                "Telnyx-Timestamp": STAMP,
            },
        ),
    ),
    "linear": (linear.SCHEME, request(LINEAR, {"Linear-Signature": mac(LINEAR).hex(), "Linear-Delivery": "d"})),
    "trello": (
        trello.SCHEME,
        request(BODY, {"X-Trello-Webhook": b64(mac(BODY + b"https://hooks.example/hooks/s", "sha1"))}),
    ),
    "typeform": (typeform.SCHEME, request(BODY, {"Typeform-Signature": "sha256=" + b64(mac(BODY))})),
    "mux": (mux.SCHEME, request(BODY, {"Mux-Signature": f"t={STAMP},v1={mac(f'{STAMP}.'.encode() + BODY).hex()}"})),
    "zoom": (
        zoom.SCHEME,
        request(
            BODY,
            {
                "x-zm-signature": "v0=" + mac(f"v0:{STAMP}:".encode() + BODY).hex(),
                "x-zm-request-timestamp": STAMP,
            },
        ),
    ),
    "meta": (meta.SCHEME, request(BODY, {"X-Hub-Signature-256": "sha256=" + mac(BODY).hex()})),
    "jira": (jira.SCHEME, request(BODY, {"X-Hub-Signature": "sha256=" + mac(BODY).hex()})),
    "sentry": (sentry.SCHEME, request(BODY, {"Sentry-Hook-Signature": mac(BODY).hex()})),
    "dropbox": (dropbox.SCHEME, request(BODY, {"X-Dropbox-Signature": mac(BODY).hex()})),
    "x": (x.SCHEME, request(BODY, {"x-twitter-webhooks-signature": "sha256=" + b64(mac(BODY))})),
    "adyen platforms": (adyen.BODY, request(BODY, {"HmacSignature": b64(hmac.digest(b"\xaa" * 32, BODY, "sha256"))})),
    "okta": (okta.SCHEME, request(BODY, {"Authorization": KEY})),
    "cloudevents": (
        declared("cloudevents").schemes[0],
        request(BODY, {"Authorization": f"Bearer {KEY}", "ce-id": "1", "ce-source": "/a"}),
    ),
    "basic": (
        declared("basic").schemes[0],
        request(BODY, {"Authorization": "Basic " + b64(KEY.encode())}),
    ),
    "bearer": (
        declared("api-key", header="Authorization", prefix="Bearer ").schemes[0],
        request(BODY, {"Authorization": f"Bearer {KEY}"}),
    ),
    "api key in the query": (
        declared("api-key", query="key").schemes[0],
        request(BODY, target="/hooks/s?key=the+key"),
    ),
    "a form's field": (
        SignatureScheme(algorithm="token", signature=Place(form="token"), encoding="text"),
        request(b"token=the%20key&text=x", {"Content-Type": "application/x-www-form-urlencoded"}),
    ),
    "none": (declared("none", delivery="x-id").schemes[0], request(BODY)),
}  # fmt: skip
KEYS = {"public_key": PUBLIC.hex(), "public_certificate": RSA_PUBLIC, "secret": KEY}


def keys_for(name: str) -> dict[str, str]:
    """Return the keys of a case, in the form of its sender."""
    if name.endswith("v1a"):
        return KEYS | {"public_key": f"whpk_{b64(PUBLIC)}"}
    if name == "telnyx":
        return KEYS | {"public_key": b64(PUBLIC)}
    return KEYS | {"secret": "aa" * 32} if name.startswith("adyen") else KEYS


@pytest.mark.parametrize("name", CASES)
def test_a_sender_is_declared_by_data_and_verified(name: str) -> None:
    scheme, received = CASES[name]
    keys = keys_for(name)
    assert one(scheme, received, **keys) is None
    if name == "none":
        return
    assert (
        one(scheme, received, **dict.fromkeys(KEYS, "another" if scheme.key_encoding == "text" else "bb"), public_x="")
        if "public" not in scheme.keys[0]
        else True
    )
    assert one(scheme, received, unused="x") is not None
    bare = request(received.body, target=received.target.partition("?")[0])
    if scheme.signature is not None and not scheme.signature.in_body:
        assert one(scheme, bare, **keys) is not None


CHANGED = {name: case for name, case in CASES.items() if case[0].algorithm not in {"token", "none"}}


@pytest.mark.parametrize("name", CHANGED)
def test_a_declared_senders_body_that_was_changed_is_refused(name: str) -> None:
    scheme, received = CHANGED[name]
    keys = keys_for(name)
    received = Received(received.method, received.headers, received.base, received.target, received.body.replace(b"m", b"n") + b" ")
    if name == "sns with a pinned key":
        assert received.body != SNS_SENT
    assert one(scheme, received, **keys) is not None


def test_every_item_of_a_body_is_verified() -> None:
    for states in ([], [KEY, "another"], ["another", KEY], [KEY, None], [None]):
        body = msgspec.json.encode({"value": [{"clientState": state} for state in states]})
        assert one(GRAPH, request(body)) is not None, states
    for body in (b"", b"{", b"[]", b'{"value":{}}', b'{"value":[null]}', b'{"value":["x"]}', b'{"value":[[[]]]}', b"\xff"):
        assert one(GRAPH, request(body)) is not None, body
    # What stands beside the items is no item's.
    assert one(GRAPH, request(msgspec.json.encode({"value": [None], "clientState": KEY}))) is not None
    vector = next(vector for vector in VECTORS if vector["provider"] == "adyen")
    document = msgspec.json.decode(vector["body"])
    document["notificationItems"] *= 2
    document["notificationItems"].append(msgspec.json.decode(vector["body"])["notificationItems"][0])
    assert one(ADYEN, request(msgspec.json.encode(document)), secret=vector["secret"]) is None
    document["notificationItems"][1] = {"NotificationRequestItem": {"amount": {"value": 9}}}
    assert one(ADYEN, request(msgspec.json.encode(document)), secret=vector["secret"]) is not None


def test_the_senders_id_is_read_from_the_scheme_that_verified() -> None:
    made = endpoint(declared_by("standard-webhooks", {}), secret=base64.b64encode(KEY.encode()).decode())
    signature = "v1," + b64(mac(f"msg_1.{STAMP}.".encode() + BODY))
    svix = {"svix-id": "msg_1", "svix-timestamp": STAMP, "svix-signature": signature}
    # An id that nobody signed makes no new delivery of an old one.
    forged = svix | {"webhook-id": "msg_2", "webhook-timestamp": STAMP, "webhook-signature": "v1," + b64(bytes(32))}
    for headers in (svix, forged):
        received = request(BODY, headers)
        assert made.verifier.verify(made.verifier.claims(received, NOW), received, NOW).delivery(received) == "msg_1"
    stripe = endpoint(Verification(schemes=(STRIPE,)), secret=KEY)
    received = CASES["stripe"][1]
    assert stripe.verifier.verify(stripe.verifier.claims(received, NOW), received, NOW).delivery(received) == "evt_1"


def test_a_body_that_names_no_delivery_is_admitted_without_one() -> None:
    body = b"command=%2Fdeploy&text=x"
    signature = "v0=" + mac(f"v0:{STAMP}:".encode() + body).hex()
    received = request(body, {"X-Slack-Signature": signature, "X-Slack-Request-Timestamp": STAMP})
    verifier = endpoint(Verification(schemes=(SLACK,)), secret=KEY).verifier
    assert verifier.verify(verifier.claims(received, NOW), received, NOW).delivery(received) is None


# -- what cannot be declared ---------------------------------------------------------------------------------------------


def test_a_scheme_that_leaves_the_body_unsigned_cannot_be_declared() -> None:
    """RFC 9421, B.2.5, signs a date, a host and a content type: whoever sees one message sends any other with its signature.

    A fixed list of components is declared as below; a list that the sender chooses for each message is more than data says.
    """
    base = '"date": {date}\n"@authority": {authority}\n"content-type": {type}\n"@signature-params": {params}'
    values = {
        "date": header("date"),
        "type": header("content-type"),
        "params": header("signature-input", "sig-b25="),
    }
    signature = header("signature", "sig-b25=:", suffix=":")
    with pytest.raises(ValueError, match="leaves the body unsigned"):
        SignatureScheme(signature=signature, encoding="base64", template=base, values=values)
    vector = next(vector for vector in VECTORS if vector["id"] == "rfc9421-b25")
    covered = SignatureScheme(
        signature=signature, encoding="base64", key_encoding="base64", template=base + "{body}", values=values
    )
    headers = vector["headers"] | {"Date": "Tue, 20 Apr 2021 02:07:55 GMT", "Content-Type": "application/json"}
    received = Received("POST", CIMultiDict(headers), "https://example.com", "/hooks/s", b"")
    # With nothing in the body, what is put together is what the standard's example signs.
    assert one(covered, received, secret=vector["secret"]) is None
    for name, value in (("Date", "Tue, 20 Apr 2021 02:07:56 GMT"), ("Content-Type", "text/plain")):
        changed = Received("POST", CIMultiDict(headers | {name: value}), "https://example.com", "/hooks/s", b"")
        assert one(covered, changed, secret=vector["secret"]) is not None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "has a signature"),
        ({"algorithm": "none", "signature": header("x")}, "has a signature"),
        ({"signature": header("x"), "template": "{nothing}{body}"}, "nowhere declared"),
        ({"signature": header("x"), "template": "{timestamp}{body}"}, "declared and signed"),
        ({"signature": header("x"), "timestamp": header("y")}, "declared and signed"),
        ({"signature": header("x"), "template": "{url}"}, "unsigned"),
        ({"signature": header("x"), "template": "{secret}{body}"}, "plain digest"),
        ({"signature": header("x"), "algorithm": "sha256"}, "plain digest"),
        ({"signature": header("x"), "encoding": "text"}, "only a token is text"),
        ({"signature": header("x"), "template": "{body!r}"}, "no template"),
        ({"signature": header("x"), "values": {"body": header("y")}}, "name of something else"),
    ],
)
def test_a_scheme_that_verifies_less_than_it_seems_to_cannot_be_declared(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SignatureScheme(**fields)


@pytest.mark.parametrize("fields", [{}, {"header": "x", "query": "y"}, {"header": "X-Upper"}, {"header": "host"}])
def test_a_place_is_in_one_part_of_a_request(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"one of|lower case|of the connection"):
        Place(**fields)


def test_a_declaration_that_is_not_understood_closes_the_source() -> None:
    """An older gateway must not check half of what a newer adapter declares."""
    known = declared_by("github", {})
    assert known is not None
    assert endpoint(known, secret=KEY)
    (scheme,) = known["schemes"]
    for unknown in (
        known | {"also": 1},
        known | {"schemes": [scheme | {"nonce": "x"}]},
        known | {"schemes": [scheme | {"algorithm": "hmac-sha3-256"}]},
        known | {"schemes": [scheme | {"signature": {"cookie": "x"}}]},
        None,
    ):
        with pytest.raises(Unavailable) as refused:
            endpoint(unknown, secret=KEY)
        assert refused.value.retry_after


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("ed25519", "00"),
        ("ecdsa-p256-sha256", RSA_PUBLIC),
        ("rsa-v1_5-sha256", "-----BEGIN PUBLIC KEY-----"),
        ("ed25519", RSA_PUBLIC),
    ],
)
def test_a_public_key_of_another_kind_closes_the_source(algorithm: Any, key: str) -> None:
    scheme = SignatureScheme(algorithm=algorithm, signature=header("x"), keys=("public_key",))
    with pytest.raises(Unavailable, match="make no verification"):
        endpoint(Verification(schemes=(scheme,)), public_key=key)


def test_a_symmetric_key_that_is_an_open_setting_is_no_key() -> None:
    scheme = SignatureScheme(signature=header("x"), keys=("public_key",))
    assert one(scheme, request(BODY, {"x": mac(BODY).hex()}), public_key=KEY) is not None


def test_no_secret_stands_in_a_declaration() -> None:
    for name in VERIFICATIONS:
        settings = {"header": "X-Sig", "secret": "hidden-one", "previous_secret": "hidden-two"}
        assert b"hidden" not in msgspec.json.encode(declared_by(name, settings))


def test_places_of_signatures_are_not_kept() -> None:
    made = endpoint(
        Verification(
            schemes=(CASES["api key in the query"][0], CASES["gitlab"][0]), redacted=(header("x-other"), Place(query="Sig"))
        ),
        secret=KEY,
    )
    assert {"x-gitlab-token", "x-other", "authorization"} <= made.redacted
    assert {"key", "sig", "access_token"} <= made.redacted_parameters


# -- handshakes ----------------------------------------------------------------------------------------------------------


def shake(declared: Handshake, received: Received) -> HandshakeAnswer | None:
    made = endpoint(Verification(handshakes=(declared,)), secret=KEY, verify_token=KEY).handshakes
    return made.before_body(received) or made.before_verification(received) or made.after_verification(received)


def shakes(adapter: str) -> tuple[Handshake, ...]:
    """Return the handshakes that an adapter declares."""
    return declared(adapter).handshakes


META, ZOOM, SLACK_URL = shakes("meta")[0], shakes("zoom")[0], shakes("slack")[0]
SHAKEN: dict[str, tuple[Handshake, Received, bytes, dict[str, str]]] = {
    "microsoft graph": (
        shakes("microsoft-graph")[0],
        request(target="/hooks/s?validationToken=Validation%3A+Testing+1%2B2"),
        b"Validation: Testing 1+2",
        {},
    ),
    "dropbox": (shakes("dropbox")[0], request(method="GET", target="/hooks/s?challenge=abc"), b"abc", {}),
    "meta": (
        META,
        request(method="GET", target="/hooks/s?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=the+key"),
        b"1158201444",
        {},
    ),
    "slack": (SLACK_URL, request(b'{"token":"x","challenge":"3eZbrw1aB1","type":"url_verification"}'), b"3eZbrw1aB1", {}),
    "x": (
        CRC,
        request(method="GET", target="/hooks/s?crc_token=abc"),
        b'{"response_token":"sha256=%b"}' % b64(mac(b"abc")).encode(),
        {},
    ),
    "zoom": (
        ZOOM,
        request(b'{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}'),
        b'{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"%b"}' % mac(b"qgg8vlvZRS6UYooatFL8Aw").hex().encode(),
        {},
    ),
    "okta": (
        shakes("okta")[0],
        request(headers={"X-Okta-Verification-Challenge": "v"}, method="GET"),
        b'{"verification":"v"}',
        {},
    ),
    "cloudevents": (
        shakes("cloudevents")[0],
        request(headers={"WebHook-Request-Origin": "eventgrid.azure.net"}, method="OPTIONS"),
        b"",
        {"Allow": "POST", "WebHook-Allowed-Origin": "eventgrid.azure.net", "WebHook-Allowed-Rate": "*"},
    ),
    "discord": (
        shakes("discord")[0],
        request(b'{"type":1}'),
        b'{"type":1}',
        {},
    ),
    "discord's webhook events": (shakes("discord")[1], request(b'{"version":1,"application_id":"1","type":0}'), b"", {}),
    "monday": (
        Handshake(method="POST", challenge=Place(json="challenge"), json={"challenge": "{challenge}"}),
        request(b'{"challenge":"{digest}"}'),
        b'{"challenge":"{digest}"}',
        {},
    ),
    "trello": (shakes("trello")[0], request(method="HEAD"), b"", {}),
}


@pytest.mark.parametrize("name", SHAKEN)
def test_a_handshake_is_declared_by_data_and_answered(name: str) -> None:
    declared, received, body, headers = SHAKEN[name]
    answer = shake(declared, received)
    assert answer is not None
    assert (answer.body, answer.headers) == (body, headers)
    assert answer.content_type == ("text/plain" if declared.json is None else "application/json")


def test_the_published_challenge_is_answered_as_published() -> None:
    vector = next(vector for vector in VECTORS if vector["provider"] == "x")
    made = endpoint(verification_of(vector), secret=vector["secret"])
    answer = made.handshakes.before_body(received_of(vector))
    assert answer is not None
    assert msgspec.json.decode(answer.body) == {"response_token": vector["expected"]}


@pytest.mark.parametrize("name", [name for name in SHAKEN if name != "trello"])
def test_a_webhook_is_no_handshake(name: str) -> None:
    declared = SHAKEN[name][0]
    for body in (BODY, b"", b"a=1", b"[", b"null", b'{"type":"1x","challenge":1.5}', b'{"challenge":null}'):
        assert shake(declared, request(body)) is None
    assert shake(declared, request(method="GET")) is None


def test_a_wrong_token_is_refused_and_one_that_stands_twice_is_no_handshake() -> None:
    for token in ("", "the%20keys", "%ff", "the+ke"):
        with pytest.raises(PermissionDenied):
            shake(META, request(method="GET", target=f"/hooks/s?hub.mode=subscribe&hub.challenge=1&hub.verify_token={token}"))
    twice = "/hooks/s?hub.mode=subscribe&hub.challenge=1&hub.verify_token=the+key&hub.verify_token=the+key"
    assert shake(META, request(method="GET", target=twice)) is None


@pytest.mark.parametrize(
    "challenge", ["%7B%22a%22%3A1%7D", "v0%3A1%3A%7B%7D", "a%26b%3Dc", "a%0Ab", "%00", "%F0%9F%98%80", "a" * 1025, "a=b"]
)
def test_no_digest_is_told_of_what_might_be_a_webhook(challenge: str) -> None:
    """Or anybody could ask for the signature of a body, and send it."""
    assert shake(CRC, request(method="GET", target=f"/hooks/s?crc_token={challenge}")) is None


@pytest.mark.parametrize("challenge", ["a%0D%0ASet-Cookie%3A%20x", "%00", "a%7F", "a" * 1025, ""])
def test_a_challenge_that_is_no_line_of_text_is_not_echoed(challenge: str) -> None:
    declared = Handshake(challenge=Place(query="c"), headers={"X-Echo": "{challenge}"})
    assert shake(declared, request(method="GET", target=f"/hooks/s?c={challenge}")) is None


def test_a_handshake_that_every_webhook_would_be_cannot_be_declared() -> None:
    with pytest.raises(ValueError, match="told from a webhook"):
        Handshake(method="POST")
    with pytest.raises(Unavailable, match="needs a secret"):
        endpoint(Verification(handshakes=(CRC,)))


# -- hostile requests ----------------------------------------------------------------------------------------------------

EVERY = [*(scheme for schemes in DECLARED.values() for scheme in schemes), STRIPE, *(scheme for scheme, _ in CASES.values())]
SIGNABLE = [scheme for scheme in EVERY if scheme.algorithm != "none"]
TEXT = st.text(st.characters(codec=None), max_size=40)
SIGNATURES = st.text("0123456789abcdefv=,; +/sht.:").map(lambda text: f"v1={text}")
VALUES = TEXT | SIGNATURES | st.sampled_from(["t=1,v1=00", "Basic %", "1", STAMP])
BODIES = [SNS_SENT[:-9], b'{"value":[{"clientState":{"a":1}}]}', b"[" * 2000, b'{"value":[[]]}', b'{"notificationItems":[1]}']


def key_for(scheme: SignatureScheme) -> str:
    """Return a key of the form that a scheme has, with which nobody has signed."""
    if scheme.algorithm == "rsa-v1_5-sha256":
        return RSA_PUBLIC
    if scheme.algorithm == "ecdsa-p256-sha256":
        return OTHER_KEYS["sendgrid"]
    if scheme.algorithm == "ed25519":
        return OTHER_KEYS["ed25519_primitive"] if scheme.key_encoding == "hex" else b64(PUBLIC)
    return "a0a0a0a0a0a0a0a0"


@given(
    scheme=st.sampled_from(SIGNABLE),
    values=st.lists(VALUES, min_size=1, max_size=4),
    body=st.binary(max_size=64) | st.sampled_from(BODIES),
    target=TEXT,
)
def test_garbage_is_refused_by_every_scheme_and_never_raises(
    scheme: SignatureScheme, values: list[str], body: bytes, target: str
) -> None:
    places = (scheme.signature, scheme.timestamp, scheme.body_digest, scheme.delivery, *scheme.values.values())
    names = sorted({place.header for place in places if place is not None and place.header is not None})
    headers = CIMultiDict((name, values[number % len(values)]) for number, name in enumerate(names))
    for place, text in scheme.when:
        if place.header is not None:
            headers[place.header] = text
    received = Received("POST", headers, "https://hooks.example", f"/hooks/s?{target}", body)
    made = endpoint(Verification(schemes=(scheme,)), **dict.fromkeys(scheme.keys, key_for(scheme)))
    assert reason(made.verifier, received) is not None


def test_what_is_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is compared with every candidate, by `hmac.compare_digest`, whichever fits first."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counting(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return real(one, other)

    for module in (signatures, handshakes):
        monkeypatch.setattr(module.hmac, "compare_digest", counting)
    good, bad = mac(f"{STAMP}.".encode() + BODY).hex(), "0" * 64
    received = request(BODY, {"Stripe-Signature": f"t={STAMP},v1={good},v1={bad},v1={bad}"})
    assert one(STRIPE, received, secret=KEY, previous_secret="another") is None
    assert len(compared) == 6
    compared.clear()
    token = CASES["gitlab"][0]
    assert one(token, request(BODY, {"X-Gitlab-Token": "x"})) is not None
    assert {len(part) for pair in compared for part in pair} == {32}
    compared.clear()
    with pytest.raises(PermissionDenied):
        shake(META, request(method="GET", target="/hooks/s?hub.mode=subscribe&hub.challenge=1&hub.verify_token=x"))
    assert len(compared) == 1


def test_no_more_items_or_candidates_are_looked_at_than_anybody_sends() -> None:
    body = msgspec.json.encode({"value": [{"clientState": KEY}] * (schemes.MOST_ITEMS + 1)})
    assert "signed items" in str(one(GRAPH, request(body)))
    stamp = f"{STAMP}000"
    good = base64.urlsafe_b64encode(mac(f"{stamp}.".encode() + BODY)).decode().rstrip("=")
    fits = ",".join([f"t={stamp}", *["v1=AA"] * (schemes.MAX_CANDIDATES - 1), f"v1={good}"])
    assert one(SANITY, request(BODY, {"Sanity-Webhook-Signature": fits})) is None
    assert one(SANITY, request(BODY, {"Sanity-Webhook-Signature": fits.replace("v1=AA", "v1=AA,v1=AA", 1)})) is not None
