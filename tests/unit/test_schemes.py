"""Signatures: the senders' own published vectors, and what nobody should be able to send."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from services.events.adapters.github import SCHEME as GITHUB
from services.events.adapters.webhook import FORM
from services.gateway.schemes import MAX_CANDIDATES, MOST_TIMES, ClaimedSignature, Scheme
from shared.signatures import digest_of, key_of
from shared.verification import Place, SignatureScheme, Verification
from tests.support.senders import DECLARED, NOW, STANDARD_WEBHOOKS, STRIPE, VECTORS, claim_of, refusal

# Those whose senders need nothing but a head and a body; all of them are in `test_verification`.
PLAIN = {
    "bitbucket_jira",
    "circleci",
    "generic_hmac",
    "github",
    "line",
    "paddle",
    "pagerduty",
    "razorpay",
    "sanity",
    "slack",
    "standard_webhooks",
    "svix",
}
VECTORS = [vector for vector in VECTORS if vector["provider"] in PLAIN]
SCHEMES = [
    scheme for name, schemes in DECLARED.items() for scheme in schemes if scheme.algorithm.startswith("hmac") and name in PLAIN
]
KEY = b"secret"
BODY = b'{"a": 1}'


def scheme_of(vector: dict[str, Any]) -> SignatureScheme:
    schemes = DECLARED[vector["id"] if vector["id"] in DECLARED else vector["provider"]]
    return next(one for one in schemes if one.signature and one.signature.header in lower(vector["headers"]))


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def signed(scheme: SignatureScheme, timestamp: str, *, body: bytes = BODY, identity: str = "") -> str:
    template = scheme.template.replace("{id}", identity).replace("{timestamp}", timestamp).encode()
    return digest_of(scheme, KEY, template.replace(b"{body}", body))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_published_vectors_are_decided_as_published(vector: dict[str, Any]) -> None:
    scheme = scheme_of(vector)
    body = vector["body"].encode()
    reason = refusal(scheme, (key_of(scheme, vector["secret"]),), lower(vector["headers"]), body, vector.get("now", NOW))
    assert (reason is None) == vector["expected_valid"], reason


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["expected_valid"]], ids=lambda v: v["id"])
def test_one_changed_byte_of_the_body_is_refused(vector: dict[str, Any]) -> None:
    scheme = scheme_of(vector)
    body = vector["body"].encode() + b" "
    assert refusal(scheme, (key_of(scheme, vector["secret"]),), lower(vector["headers"]), body, vector.get("now", NOW))


@pytest.mark.parametrize("vector", [v for v in VECTORS if "now" in v and v["expected_valid"]], ids=lambda v: v["id"])
@pytest.mark.parametrize("away", [-301.0, 301.0])
def test_a_time_too_far_from_now_is_refused_both_ways(vector: dict[str, Any], away: float) -> None:
    scheme = scheme_of(vector)
    keys = (key_of(scheme, vector["secret"]),)
    assert refusal(scheme, keys, lower(vector["headers"]), vector["body"].encode(), vector["now"] + away)


def test_a_stripe_header_with_two_signatures_is_accepted_by_either_key() -> None:
    stamp = str(int(NOW))
    header = f"t={stamp},v1={'0' * 64},v1={signed(STRIPE, stamp)},v0=ignored"
    headers = {"stripe-signature": header}
    assert refusal(STRIPE, (KEY,), headers, BODY, NOW) is None
    assert refusal(STRIPE, (b"new", KEY), headers, BODY, NOW) is None
    assert refusal(STRIPE, (b"new",), headers, BODY, NOW) is not None


def test_without_keys_everything_is_refused() -> None:
    headers = {"x-hub-signature-256": f"sha256={signed(GITHUB, '')}"}
    assert refusal(GITHUB, (KEY,), headers, BODY, NOW) is None
    assert refusal(GITHUB, (), headers, BODY, NOW) is not None


def test_hexadecimal_signatures_may_be_in_upper_case() -> None:
    headers = {"x-hub-signature-256": f"sha256={signed(GITHUB, '').upper()}"}
    assert refusal(GITHUB, (KEY,), headers, BODY, NOW) is None


def test_signatures_beyond_the_first_ones_are_not_looked_at() -> None:
    stamp = str(int(NOW))
    many = ",".join(["v1=00"] * MAX_CANDIDATES)
    headers = {"stripe-signature": f"t={stamp},{many},v1={signed(STRIPE, stamp)}"}
    assert refusal(STRIPE, (KEY,), headers, BODY, NOW) is not None


def test_an_id_that_looks_like_a_placeholder_is_taken_as_text() -> None:
    stamp = str(int(NOW))
    text = digest_of(STANDARD_WEBHOOKS, KEY, b"{timestamp}." + stamp.encode() + b"." + BODY)
    headers = {"webhook-id": "{timestamp}", "webhook-timestamp": stamp, "webhook-signature": f"v1,{text}"}
    assert refusal(STANDARD_WEBHOOKS, (KEY,), headers, BODY, NOW) is None


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64!"])
def test_a_secret_that_makes_no_key_is_said_when_the_source_is_opened(secret: str) -> None:
    with pytest.raises(ValueError, match="secret is"):
        key_of(STANDARD_WEBHOOKS, secret)


@given(
    scheme=st.sampled_from([*SCHEMES, STRIPE]),
    value=st.text(st.characters(codec=None)) | st.text("0123456789abcdefv=,; +/sht.").map(lambda text: f"v1={text}"),
    stamp=st.text(st.characters(codec=None), max_size=20) | st.integers(0, 2**60).map(str),
    body=st.binary(max_size=64),
)
def test_garbage_is_refused_and_never_raises(scheme: SignatureScheme, value: str, stamp: str, body: bytes) -> None:
    places = [scheme.timestamp, *scheme.values.values(), scheme.signature]
    headers = {place.header: value if place is scheme.signature else stamp for place in places if place and place.header}
    assert refusal(scheme, (KEY,), headers, body, NOW) is not None


@given(body=st.binary(max_size=256), offset=st.integers(-300, 300), identity=st.text(min_size=1, max_size=20))
def test_what_a_sender_signs_is_accepted(body: bytes, offset: int, identity: str) -> None:
    stamp = str(int(NOW) + offset)
    text = digest_of(STANDARD_WEBHOOKS, KEY, f"{identity}.{stamp}.".encode() + body)
    headers = {"webhook-id": identity, "webhook-timestamp": stamp, "webhook-signature": f"v1,{text}"}
    assert refusal(STANDARD_WEBHOOKS, (KEY,), headers, body, NOW) is None


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_no_body_is_needed_to_refuse_a_head_without_a_signature_of_its_form(vector: dict[str, Any]) -> None:
    scheme = scheme_of(vector)
    headers = lower(vector["headers"])
    now = vector.get("now", NOW)
    place = scheme.signature
    assert place is not None
    assert place.header is not None
    without = {name: value for name, value in headers.items() if name != place.header}
    value = headers.get(place.header, "")
    heads = [without, headers | {place.header: ""}, headers | {place.header: "x" + value[1:]} if place.prefix else without]
    heads += [headers | {place.header: value[:-3] + "é" + value[-2:]}, headers | {place.header: value[: len(value) // 2]}]
    for head in heads:
        assert isinstance(claim_of(scheme, head, now), str) or refusal(scheme, (KEY,), head, BODY, now)
    if vector["expected_valid"]:
        assert isinstance(claim_of(scheme, headers, now), ClaimedSignature)
        assert all(isinstance(claim_of(scheme, head, now), str) for head in heads[:2])
        if "{timestamp}" in scheme.template:
            assert isinstance(claim_of(scheme, headers, now + 10 * scheme.tolerance), str)


@pytest.mark.parametrize("template", ["{body}" * 300, "{copy}" * 300, "{form}" * 300])
def test_a_template_has_no_body_signed_hundreds_of_times(template: str) -> None:
    values = {"copy": Place(json="text")} if "copy" in template else {}
    scheme = SignatureScheme(signature=Place(header="x-signature"), template=template, values=values)
    text = "x" * 100_000
    body = urlencode({"a": text}).encode() if "form" in template else msgspec.json.encode({"text": text})
    headers = {"x-signature": digest_of(scheme, KEY, b""), "content-type": FORM if "form" in template else "application/json"}
    reason = refusal(scheme, (KEY,), headers, body, NOW)
    assert reason == f"the template has more than {MOST_TIMES} times the body signed"


def test_each_of_many_items_may_have_a_token_which_signs_nothing() -> None:
    scheme = SignatureScheme(algorithm="token", signature=Place(json="token"), encoding="text", each="items")
    items = [{"token": KEY.decode(), "text": "x" * 1000}] * 500
    assert refusal(scheme, (KEY,), {}, msgspec.json.encode({"items": items}), NOW) is None
    assert refusal(scheme, (KEY,), {}, msgspec.json.encode({"items": [*items, {"token": "other"}]}), NOW) is not None


@pytest.mark.parametrize(("exponent", "bits"), [(2**2000 + 1, 2048), (65537, 9000)], ids=["exponent", "size"])
def test_a_key_that_costs_much_with_each_request_is_none(exponent: int, bits: int) -> None:
    numbers = RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1)
    key = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="an RSA key has"):
        Scheme(SignatureScheme(algorithm="rsa-v1_5-sha256", signature=Place(header="x-signature")), (key,))


def test_a_long_text_in_a_body_is_not_taken_apart() -> None:
    scheme = SignatureScheme(signature=Place(json="macs", separator=","))
    body = msgspec.json.encode({"macs": f"{'x,' * 100_000}{digest_of(scheme, KEY, b'')}"})
    assert refusal(scheme, (KEY,), {}, body, NOW) == "there is no macs in the body"


@pytest.mark.parametrize(
    ("declared", "what"),
    [
        ({"schemes": [{"signature": {"header": "x"}}] * 17}, "17 schemes"),
        ({"schemes": [{"signature": {"header": "x"}, "keys": ["secret"] * 9}]}, "9 keys"),
        ({"schemes": [{"signature": {"header": "x"}, "when": [[{"json": "a"}, "b"]] * 17}]}, "17 conditions"),
        ({"handshakes": [{}] * 17}, "17 handshakes"),
    ],
)
def test_a_declaration_has_no_more_than_is_tried_with_each_request(declared: dict[str, Any], what: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"there are {what}"):
        msgspec.convert(declared, Verification)
