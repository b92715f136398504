"""JSON Web Tokens and HTTP message signatures: published examples, every algorithm, and what nobody should be able to send."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from services.gateway.fields import dictionary, written
from services.gateway.message_signatures import MessageScheme
from services.gateway.received import Received
from services.gateway.verifier import Verifier
from services.gateway.web_tokens import TokenScheme
from shared.jose import key_set, public_key_of
from shared.verification import JoseAlgorithm, MessageSignature, Place, WebToken
from tests.support.senders import NOW, VECTORS, reason, request

BODY = b'{"hello": "world"}'
RSA = rsa.generate_private_key(65537, 2048)
CURVES = {"ES256": (ec.SECP256R1(), SHA256(), 32), "ES384": (ec.SECP384R1(), SHA384(), 48), "ES512": (ec.SECP521R1(), SHA512(), 66)}
EC = {name: ec.generate_private_key(curve) for name, (curve, _, _) in CURVES.items()}
ED = Ed25519PrivateKey.from_private_bytes(b"e" * 32)
HASHES = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
SECRET = b"a secret of some length"
TOKEN = Place(header="authorization", prefix="Bearer ")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def raw_ecdsa(algorithm: str, signed: bytes) -> bytes:
    _, hash_, size = CURVES[algorithm]
    r, s = decode_dss_signature(EC[algorithm].sign(signed, ec.ECDSA(hash_)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def made(algorithm: str, signed: bytes) -> bytes:
    if algorithm.startswith("HS"):
        return hmac.digest(SECRET, signed, f"sha{algorithm[2:]}")
    if algorithm.startswith("RS"):
        return RSA.sign(signed, padding.PKCS1v15(), HASHES[algorithm[2:]])
    if algorithm.startswith("PS"):
        hash_ = HASHES[algorithm[2:]]
        return RSA.sign(signed, padding.PSS(padding.MGF1(hash_), hash_.digest_size), hash_)
    return ED.sign(signed) if algorithm == "EdDSA" else raw_ecdsa(algorithm, signed)


def public(algorithm: str) -> Any:
    if algorithm.startswith("HS"):
        return SECRET
    private: Any = RSA if algorithm[0] in "RP" else ED if algorithm == "EdDSA" else EC[algorithm]
    return private.public_key()


def token(algorithm: str = "HS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
    head = msgspec.json.encode({"alg": algorithm, "typ": "JWT"} | (header or {}))
    signed = f"{b64(head)}.{b64(msgspec.json.encode({'exp': NOW + 60} | claims))}"
    return f"{signed}.{b64(made(algorithm, signed.encode()))}"


def why(given: str, declared: WebToken | None = None, keys: list[Any] | None = None, body: bytes = BODY) -> str | None:
    scheme = TokenScheme(declared or WebToken(token=TOKEN, algorithms=("HS256",)), [SECRET] if keys is None else keys)
    return reason(Verifier([scheme]), request(body, {"Authorization": f"Bearer {given}"}))


NAMES: tuple[JoseAlgorithm, ...] = get_args(JoseAlgorithm)


def test_the_example_of_rfc_7515_is_verified_before_it_expires() -> None:
    published = (
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290"
        "Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    )
    text = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
    key = base64.urlsafe_b64decode(text + "==")
    scheme = TokenScheme(WebToken(token=TOKEN, algorithms=("HS256",), issuer="joe"), [key])
    received = request(BODY, {"Authorization": f"Bearer {published}"})
    assert reason(Verifier([scheme]), received, 1300819370.0) is None
    assert "expired" in str(reason(Verifier([scheme]), received, 1300819380.0 + 301))


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_token_of_every_algorithm_is_verified_by_its_own_key_only(algorithm: Any) -> None:
    declared = WebToken(token=TOKEN, algorithms=NAMES)
    good = token(algorithm)
    assert why(good, declared, [public(algorithm)]) is None
    head, payload, signature = good.split(".")
    flipped = bytearray(base64.urlsafe_b64decode(signature + "=="))
    flipped[len(flipped) // 2] ^= 1
    assert why(f"{head}.{payload}.{b64(bytes(flipped))}", declared, [public(algorithm)]) is not None
    assert why(good[:-2], declared, [public(algorithm)]) is not None
    for other in NAMES:
        if other != algorithm and public(other) is not public(algorithm) and other[:2] not in {algorithm[:2], "RS", "PS"}:
            assert why(good, declared, [public(other)]) is not None, other
    other_one: Any = "HS384" if algorithm == "HS256" else "HS256"
    assert why(good, WebToken(token=TOKEN, algorithms=(other_one,)), [public(algorithm)]) is not None


def test_a_public_key_is_no_secret_and_none_is_no_algorithm() -> None:
    """The two oldest forgeries: a token signed by the public key as a secret, and one that says it is not signed."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, payload = b64(b'{"alg":"HS256"}'), b64(msgspec.json.encode({"exp": NOW + 60}))
    forged = f"{head}.{payload}.{b64(hmac.digest(pem, f'{head}.{payload}'.encode(), 'sha256'))}"
    assert why(forged, WebToken(token=TOKEN, algorithms=NAMES), [RSA.public_key()]) is not None
    for none in ("none", "None", ""):
        unsigned = f"{b64(msgspec.json.encode({'alg': none}))}.{payload}."
        assert why(unsigned, WebToken(token=TOKEN, algorithms=NAMES), [RSA.public_key()]) is not None


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": NOW - 301}, "expired 301 s ago"),
        ({"exp": None}, "no exp"),
        ({"exp": "soon"}, "no time"),
        ({"exp": True}, "no time"),
        ({"nbf": NOW + 301}, "good in 301 s"),
        ({"iss": "another"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["x", 1]}, "audience"),
        ({"aud": None}, "audience"),
        ({"email": "b@example.com"}, "email"),
    ],
)
def test_a_token_with_another_claim_is_refused(claims: dict[str, Any], said: str) -> None:
    declared = WebToken(
        token=TOKEN, algorithms=("HS256",), issuer="me", audience=("here", "there"), claims={"email": "a@example.com"}
    )
    good = {"iss": "me", "aud": ["x", "there"], "email": "a@example.com"}
    assert why(token(**good), declared) is None
    assert said in str(why(token(**good | claims), declared))


def test_a_token_covers_the_body_by_the_claim_that_has_its_digest() -> None:
    declared = WebToken(token=TOKEN, algorithms=("HS256",), body_claim="request_body_sha256")
    digest = hashlib.sha256(BODY)
    for right in (digest.hexdigest(), b64(digest.digest())):
        assert why(token(request_body_sha256=right), declared) is None
        assert "body's digest" in str(why(token(request_body_sha256=right), declared, body=BODY + b" "))
    for wrong in (None, 1, "", "z" * 64, "é"):
        assert why(token(request_body_sha256=wrong), declared) is not None


NO_TOKENS = [
    "",
    "a",
    "a.b",
    "a.b.c",
    "a.b.c.d",
    "....",
    "é.é.é",
    "e30.e30.e30",
    "bnVsbA.bnVsbA.AA",
    "x" * 17_000,
    token()[:-1] + "=",
]


@pytest.mark.parametrize("text", NO_TOKENS)
def test_what_is_no_token_is_refused(text: str) -> None:
    assert why(text) is not None


def test_a_token_with_an_extension_that_has_to_be_understood_is_refused() -> None:
    assert "extension" in str(why(token(header={"crit": ["b64"], "b64": False})))


def test_of_a_key_set_public_keys_for_signatures_are_taken() -> None:
    numbers = RSA.public_key().public_numbers()
    point = EC["ES256"].public_key().public_numbers()
    n, e = (b64(one.to_bytes(-(-one.bit_length() // 8), "big")) for one in (numbers.n, numbers.e))
    x, y = (b64(one.to_bytes(32, "big")) for one in (point.x, point.y))
    small = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    document = {
        "keys": [
            {"kty": "RSA", "kid": "r", "alg": "RS256", "n": n, "e": e},
            {"kty": "EC", "kid": "e", "crv": "P-256", "x": x, "y": y, "use": "sig"},
            {"kty": "OKP", "crv": "Ed25519", "x": b64(ED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))},
            {"kty": "RSA", "kid": "enc", "use": "enc", "n": n, "e": e},
            {"kty": "oct", "k": "c2VjcmV0"},
            {"kty": "EC", "crv": "P-256", "x": x, "y": x},
            {"kty": "RSA", "n": b64(small.n.to_bytes(128, "big")), "e": e},
            {"kty": "RSA", "n": n, "e": b64((2**2000 + 1).to_bytes(251, "big"))},
            {"kty": "RSA", "n": 1},
            "nothing",
        ]
    }
    keys = key_set(msgspec.json.encode(document))
    assert [(one.id, one.algorithm) for one in keys] == [("r", "RS256"), ("e", None), (None, None)]
    for other in (b"", b"[]", b"{}", b'{"keys":{}}', b"\xff"):
        with pytest.raises(ValueError, match="no JSON Web Key Set"):
            key_set(other)


# -- RFC 9421 ------------------------------------------------------------------------------------------------------------

B25 = next(vector for vector in VECTORS if vector["id"] == "rfc9421-b25")
HEADERS = {"Date": "Tue, 20 Apr 2021 02:07:55 GMT", "Content-Type": "application/json", "Content-Length": "18"}
CREATED = 1618884473.0
B26 = {
    "Signature-Input": 'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length")'
    ';created=1618884473;keyid="test-key-ed25519"',
    "Signature": "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
}
B26_KEY = "MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="


def rfc(headers: dict[str, str], body: bytes = BODY, target: str = "/foo?param=Value&Pet=dog") -> Received:
    return Received("POST", CIMultiDict(HEADERS | headers), "https://example.com", target, body)


def hmac_scheme(**fields: Any) -> Verifier:
    declared = MessageSignature(**{"components": ("date",)} | fields)
    return Verifier([MessageScheme(declared, [base64.b64decode(B25["secret"])])])


def test_the_published_example_of_a_shared_secret_is_decided_as_published() -> None:
    received = rfc(B25["headers"])
    assert reason(hmac_scheme(), received, CREATED) is None
    assert reason(hmac_scheme(key_id="test-shared-secret", components=("@authority", "content-type")), received, CREATED) is None
    changed = rfc(B25["headers"] | {"Date": "Tue, 20 Apr 2021 02:07:56 GMT"})
    assert "does not match" in str(reason(hmac_scheme(), changed, CREATED))
    # By itself it covers no body, which has to be asked for.
    assert "does not cover" in str(reason(Verifier([MessageScheme(MessageSignature(), [SECRET])]), received, CREATED))
    for fields, said in (({"key_id": "another"}, "keyid"), ({"tag": "x"}, "tag"), ({"components": ("@path",)}, "@path")):
        assert said in str(reason(hmac_scheme(**fields), received, CREATED))
    for away in (-301, 301):
        assert "s from now" in str(reason(hmac_scheme(), received, CREATED + away))


def test_the_published_example_of_a_public_key_is_decided_as_published() -> None:
    declared = MessageSignature(algorithm="ed25519", components=("@method", "@path", "@authority"))
    verifier = Verifier([MessageScheme(declared, [public_key_of(B26_KEY)])])
    assert reason(verifier, rfc(B26), CREATED) is None
    assert reason(verifier, rfc(B26, target="/other"), CREATED) is not None
    with pytest.raises(ValueError, match="none of hmac-sha256"):
        MessageScheme(MessageSignature(), [public_key_of(B26_KEY)])


SIGNERS: dict[Any, tuple[str, Callable[[bytes], bytes]]] = {
    "hmac-sha256": ("HS256", lambda base: made("HS256", base)),
    "ed25519": ("EdDSA", ED.sign),
    "ecdsa-p256-sha256": ("ES256", lambda base: raw_ecdsa("ES256", base)),
    "ecdsa-p384-sha384": ("ES384", lambda base: raw_ecdsa("ES384", base)),
    "rsa-v1_5-sha256": ("RS256", lambda base: made("RS256", base)),
    "rsa-pss-sha512": ("PS512", lambda base: made("PS512", base)),
}
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(BODY).digest()).decode()}:"
BASE = f"""\
"@method": POST
"@target-uri": https://example.com/foo?param=Value&Pet=dog
"@query-param";name="Pet": dog
"content-digest": {DIGEST}
"""
COVERED = '("@method" "@target-uri" "@query-param";name="Pet" "content-digest")'


def signed(algorithm: Any, parameters: str = ";created=1618884473", covered: str = COVERED, base: str = BASE) -> dict[str, str]:
    text = f'{base}"@signature-params": {covered}{parameters}'
    signature = base64.b64encode(SIGNERS[algorithm][1](text.encode())).decode()
    return {"Signature-Input": f"s={covered}{parameters}", "Signature": f"s=:{signature}:", "Content-Digest": DIGEST}


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_message_of_every_algorithm_is_verified_with_its_body(algorithm: Any) -> None:
    verifier = Verifier([MessageScheme(MessageSignature(algorithm=algorithm), [public(SIGNERS[algorithm][0])])])
    headers = signed(algorithm)
    assert reason(verifier, rfc(headers), CREATED) is None
    assert reason(verifier, rfc(signed(algorithm, f';created=1618884473;alg="{algorithm}"')), CREATED) is None
    assert reason(verifier, rfc(signed(algorithm, ';created=1618884473;alg="other"')), CREATED) is not None
    assert "body's digest" in str(reason(verifier, rfc(headers, BODY[:-1] + b"]"), CREATED))
    for name in headers:
        assert reason(verifier, rfc({key: value for key, value in headers.items() if key != name}), CREATED) is not None
    assert reason(verifier, rfc(headers, target="/foo?param=Value&Pet=cat"), CREATED) is not None
    assert reason(verifier, rfc(headers, target="/foo?param=Value&Pet=dog&Pet=dog"), CREATED) is not None


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("", "when it was created"),
        (";created", "when it was created"),
        (';created="1618884473"', "when it was created"),
        (";created=1618884473;expires=1618884470", "has expired"),
        (";created=1618884473;expires=?1", "has expired"),
    ],
)
def test_a_message_without_a_time_is_refused(parameters: str, said: str) -> None:
    verifier = Verifier([MessageScheme(MessageSignature(), [SECRET])])
    assert said in str(reason(verifier, rfc(signed("hmac-sha256", parameters)), CREATED))


@pytest.mark.parametrize(
    "covered",
    [
        '("@method" "@path" "content-digest" "@method")',
        '("@method" "@path" "content-digest" "@status")',
        '("@method" "@path" "content-digest" "x-absent")',
        '("@method";req "@path" "content-digest")',
        '("@method" "@path" "content-digest" "date";sf)',
        '("@method" "@path" "content-digest" 1)',
        '("@METHOD" "@path" "content-digest")',
        '("@query-param" "content-digest")',
    ],
)
def test_a_component_that_is_not_understood_is_refused(covered: str) -> None:
    verifier = Verifier([MessageScheme(MessageSignature(components=("content-digest",)), [SECRET])])
    assert "covers" in str(reason(verifier, rfc(signed("hmac-sha256", covered=covered)), CREATED))


@pytest.mark.parametrize("blank", ["\u2028", "\x85", "\x1c"])
def test_what_looks_like_a_blank_is_not_what_was_signed(blank: str) -> None:
    covered = '("x-to" "content-digest")'
    headers = signed("hmac-sha256", covered=covered, base=f'"x-to": a b\n"content-digest": {DIGEST}\n')
    verifier = Verifier([MessageScheme(MessageSignature(components=("content-digest",)), [SECRET])])
    assert reason(verifier, rfc({"X-To": " a b\t"} | headers), CREATED) is None
    assert reason(verifier, rfc({"X-To": f"a{blank}b"} | headers), CREATED) is not None


def test_of_several_signatures_any_may_be_the_one() -> None:
    headers = signed("hmac-sha256")
    other = B25["headers"]
    both = {name: f"{other[name]}, {headers[name]}" for name in ("Signature", "Signature-Input")} | {"Content-Digest": DIGEST}
    assert reason(Verifier([MessageScheme(MessageSignature(), [SECRET])]), rfc(both), CREATED) is None


@given(st.text("sg=(\"@method;created1 ,:AQ?-)\\'éx", max_size=60), st.text("sg=:AQ, ;é", max_size=40))
def test_garbage_in_the_headers_of_a_message_is_refused_and_never_raises(described: str, signature: str) -> None:
    verifier = Verifier([MessageScheme(MessageSignature(components=("@method",)), [SECRET])])
    assert reason(verifier, rfc({"Signature-Input": described, "Signature": signature}), CREATED) is not None


@pytest.mark.parametrize(
    "text",
    ['a=1, b;c="x\\"y", d=(1 tok;p :AQ==:);q=?0', "a", "a=?1", "a=-5", "a=()", "a=*t/x"],
)
def test_a_field_is_read_and_written_in_one_way(text: str) -> None:
    read = dictionary(text)
    again = ", ".join(f"{name}={written(one)}" for name, one in read.items())
    assert dictionary(again) == read


@pytest.mark.parametrize("text", ["a=", "a=1.5", "a b", "a=1,", "A=1", 'a="x', "a=(1", "a=:x", "a=\x7f", ", a", "a=1;B"])
def test_a_malformed_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        dictionary(text)
