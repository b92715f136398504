"""Keys, key sets and signatures of JSON Web Tokens (RFC 7515 to 7518, 8037); RFC 9421 signs by the same algorithms."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

# A symmetric key is its bytes. `Any`: no common type of cryptography's stands for all public keys.
Key = Any
# The bits of an RSA key: fewer are broken, more cost too much for each request.
RSA_BITS = (2048, 8192)
# The bits of its exponent, as Go and Windows take it: with a longer one each signature costs 200 times as much to be verified.
EXPONENT_BITS = 32
# The algorithms of RFC 9421 by their names in RFC 7518 and 8037.
MESSAGE_ALGORITHMS = {
    "hmac-sha256": "HS256",
    "ed25519": "EdDSA",
    "ecdsa-p256-sha256": "ES256",
    "ecdsa-p384-sha384": "ES384",
    "rsa-v1_5-sha256": "RS256",
    "rsa-pss-sha512": "PS512",
}
# Keys of one set that are looked at.
MOST_KEYS = 100
_HASHES: dict[str, HashAlgorithm] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
_CURVES: dict[str, tuple[type[EllipticCurve], int]] = {
    "ES256": (SECP256R1, 32),
    "ES384": (SECP384R1, 48),
    "ES512": (SECP521R1, 66),
}
_NAMED_CURVES: dict[str, EllipticCurve] = {"P-256": SECP256R1(), "P-384": SECP384R1(), "P-521": SECP521R1()}


class NamedKey(msgspec.Struct, frozen=True):
    """A key of a set: its id, and the one algorithm that it is for, where it says so."""

    id: str | None
    algorithm: str | None
    key: Key


def decoded(text: str) -> bytes:
    """Return the bytes that base64url without padding stands for. Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def encoded(content: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def private_key_of(text: str) -> Key:
    """Return a private key: PEM without a password; its certificate may follow.

    Raises ValueError for another kind, or one that is too small or too large.
    """
    try:
        key: Key = load_pem_private_key(text.partition("-----BEGIN CERTIFICATE-----")[0].encode(), None)
        thumbprint_of(text)
    except (UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise ValueError("this is no private key as PEM without a password") from error
    bounded(key.public_key())
    if usual_algorithm(key) is None:
        raise ValueError("a private key is RSA, Ed25519, or of the curves P-256, P-384 and P-521")
    return key


def usual_algorithm(key: Key) -> str | None:
    """Return the algorithm that a private key, or the bytes of a secret, mostly signs by; None where there is none."""
    public = key if isinstance(key, bytes) else key.public_key()
    return next((one for one in ("HS256", "RS256", "ES256", "ES384", "ES512", "EdDSA") if suits(one, public)), None)


def thumbprint_of(text: str) -> str | None:
    """Return the SHA-256 thumbprint of the first certificate in a PEM as base64url, None where there is none. Raises ValueError."""
    start = text.find("-----BEGIN CERTIFICATE-----")
    return None if start < 0 else encoded(load_pem_x509_certificate(text[start:].encode()).fingerprint(SHA256()))


def signed_token(claims: Mapping[str, Any], key: Key, algorithm: str, header: Mapping[str, str]) -> str:
    """Return a token that the holder of a private key, or of the bytes of a secret, which suits the algorithm has signed.

    `header` is what its header has besides.
    """
    header = {"alg": algorithm, "typ": "JWT", **header}
    signed = ".".join(encoded(msgspec.json.encode(part)) for part in (header, claims))
    return f"{signed}.{encoded(_signature(algorithm, key, signed.encode()))}"


def public_key_of(text: str) -> Key:
    """Return a public key: PEM, or DER as base64. Raises ValueError for another, or one that is too small or too large."""
    try:
        if text.lstrip().startswith("-----"):
            return bounded(load_pem_public_key(text.encode()))
        return bounded(load_der_public_key(base64.b64decode(text, validate=True)))
    except (UnsupportedAlgorithm, ValueError) as error:
        raise ValueError("this is no public key, PEM or DER as base64") from error


def key_set(document: bytes) -> list[NamedKey]:
    """Return the public keys for signatures of a JSON Web Key Set; others are left out. Raises ValueError where it is none."""
    try:
        read = msgspec.json.decode(document)
        keys = read["keys"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ValueError("this is no JSON Web Key Set") from error
    if not isinstance(keys, list):
        raise ValueError("this is no JSON Web Key Set")  # noqa: TRY004 - the document is wrong, not the program
    found: list[NamedKey] = []
    for one in keys[:MOST_KEYS]:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig":
            continue
        try:
            key = _of(one)
        except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
            continue  # of a kind that is not known
        id_, algorithm = one.get("kid"), one.get("alg")
        found.append(NamedKey(id_ if isinstance(id_, str) else None, algorithm if isinstance(algorithm, str) else None, key))
    return found


def suits(algorithm: str, key: Key) -> bool:
    """Return whether a key is one for an algorithm: a public key is never taken for a symmetric one."""
    kind = algorithm[:2]
    if kind == "HS":
        return isinstance(key, bytes)
    if kind in {"RS", "PS"}:
        return isinstance(key, RSAPublicKey)
    if kind == "ES":
        return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, _CURVES[algorithm][0])
    return algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey)


def verifies(algorithm: str, key: Key, signature: bytes, signed: bytes) -> bool:
    """Return whether the holder of a key that suits the algorithm made a signature."""
    if algorithm.startswith("HS"):
        return hmac.compare_digest(hmac.digest(key, signed, f"sha{algorithm[2:]}"), signature)
    try:
        _VERIFIERS[algorithm[:2]](algorithm, key, signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _signature(algorithm: str, key: Key, signed: bytes) -> bytes:
    kind = algorithm[:2]
    if kind == "HS":
        return hmac.digest(key, signed, f"sha{algorithm[2:]}")
    if kind == "Ed":
        return bytes(key.sign(signed))
    hash_ = _HASHES[algorithm[2:]]
    if kind == "ES":
        size = _CURVES[algorithm][1]
        return b"".join(part.to_bytes(size, "big") for part in decode_dss_signature(key.sign(signed, ECDSA(hash_))))
    padding = PKCS1v15() if kind == "RS" else PSS(MGF1(hash_), hash_.digest_size)
    return bytes(key.sign(signed, padding, hash_))


def _rsa(algorithm: str, key: Any, signature: bytes, signed: bytes) -> None:
    key.verify(signature, signed, PKCS1v15(), _HASHES[algorithm[2:]])


def _pss(algorithm: str, key: Any, signature: bytes, signed: bytes) -> None:
    hash_ = _HASHES[algorithm[2:]]
    key.verify(signature, signed, PSS(MGF1(hash_), hash_.digest_size), hash_)


def _ecdsa(algorithm: str, key: Any, signature: bytes, signed: bytes) -> None:
    size = _CURVES[algorithm][1]
    if len(signature) != 2 * size:
        raise InvalidSignature
    r, s = (int.from_bytes(part, "big") for part in (signature[:size], signature[size:]))
    key.verify(encode_dss_signature(r, s), signed, ECDSA(_HASHES[algorithm[2:]]))


def _eddsa(_algorithm: str, key: Any, signature: bytes, signed: bytes) -> None:
    key.verify(signature, signed)


_VERIFIERS: dict[str, Callable[[str, Key, bytes, bytes], None]] = {"RS": _rsa, "PS": _pss, "ES": _ecdsa, "Ed": _eddsa}
ALGORITHMS: Sequence[str] = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
)  # fmt: skip


def _of(one: dict[str, Any]) -> Key:
    if one["kty"] == "RSA":
        n, e = (int.from_bytes(decoded(one[name]), "big") for name in ("n", "e"))
        return bounded(RSAPublicNumbers(e, n).public_key())
    if one["kty"] == "EC":
        x, y = (int.from_bytes(decoded(one[name]), "big") for name in ("x", "y"))
        return EllipticCurvePublicNumbers(x, y, _NAMED_CURVES[one["crv"]]).public_key()
    if one["kty"] == "OKP" and one["crv"] == "Ed25519":
        return Ed25519PublicKey.from_public_bytes(decoded(one["x"]))
    raise ValueError("a key of another kind")


def bounded(key: Key) -> Key:
    """Return a public key by which a signature is soon verified. Raises ValueError for one of RSA that is too large or small."""
    if isinstance(key, RSAPublicKey):
        if not RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
            raise ValueError(f"an RSA key has {RSA_BITS[0]} to {RSA_BITS[1]} bits")
        if key.public_numbers().e.bit_length() > EXPONENT_BITS:
            raise ValueError(f"an RSA key has an exponent of up to {EXPONENT_BITS} bits")
    return key
