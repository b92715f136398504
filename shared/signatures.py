"""Keys and signatures of each algorithm: the key of a secret, the form of a signature, and its comparison."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from shared.jose import MESSAGE_ALGORITHMS, bounded, public_key_of, suits
from shared.verification import PUBLIC_KEY, MessageSignature, SignatureScheme, WebToken

# Whether any of some signatures is the one that the holder of a key makes of a text.
Check = Callable[[Sequence[bytes], bytes], bool]
_WRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "hex": lambda digest: digest.hex().encode(),
    "base64": base64.b64encode,
    "base64url": lambda digest: base64.urlsafe_b64encode(digest).rstrip(b"="),
}


# The older one is what AWS SNS signs with, unless a topic says otherwise: a forger would need a second preimage.
_RSA: dict[str, HashAlgorithm] = {"rsa-v1_5-sha256": SHA256(), "rsa-v1_5-sha1": SHA1()}  # noqa: S303


def key_of(declared: SignatureScheme | MessageSignature, secret: str) -> bytes:
    """Return the key that a secret stands for. Raises ValueError when it is not in the scheme's form or is empty."""
    text = secret.removeprefix(declared.key_prefix) if isinstance(declared, SignatureScheme) else secret
    try:
        key = text.encode() if declared.key_encoding == "text" else _bytes_of(text, declared.key_encoding)
    except ValueError as error:
        raise ValueError(f"the secret is not {declared.key_encoding}") from error
    if not key:
        raise ValueError("the secret is empty")
    return key


def _bytes_of(text: str, encoding: str) -> bytes:
    if encoding == "hex":
        return bytes.fromhex(text)
    text = text.rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def certified_key(certificate: bytes) -> bytes:
    """Return the public key of an X.509 certificate in PEM, as DER. Raises ValueError for another, or one of another time."""
    try:
        read = load_pem_x509_certificate(certificate)
        key = read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no certificate in PEM") from error
    if not read.not_valid_before_utc <= datetime.now(UTC) <= read.not_valid_after_utc:
        raise ValueError("the certificate is of another time")
    return key


def decoded(text: bytes, encoding: str) -> bytes | None:
    """Return the bytes of a signature or a token, None where it is not in its encoding."""
    try:
        if encoding == "hex":
            return bytes.fromhex(text.decode())
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_" if encoding == "base64url" else None, validate=True)
    except (binascii.Error, ValueError):
        return None


def size_of(declared: SignatureScheme) -> int | None:
    """Return how many characters a signature has, None where that varies; base64url is counted without padding."""
    if declared.algorithm == "ed25519":
        size = 64
    elif declared.algorithm in PUBLIC_KEY | {"token", "none"}:
        return None
    else:
        size = hashlib.new(declared.algorithm.removeprefix("hmac-")).digest_size
    return {"hex": 2 * size, "base64": -(-size // 3) * 4, "base64url": -(-size * 4 // 3)}[declared.encoding]


def digest_of(declared: SignatureScheme, key: bytes, signed: bytes) -> str:
    """Return the signature of a text by a symmetric key, as the scheme writes it, without the prefix."""
    return _digester_of(declared, key)(signed).decode()


def _digester_of(declared: SignatureScheme, key: bytes) -> Callable[[bytes], bytes]:
    write, name = _WRITTEN[declared.encoding], declared.algorithm.removeprefix("hmac-")
    if name == declared.algorithm:
        return lambda signed: write(hashlib.new(name, signed).digest())
    return lambda signed: write(hmac.digest(key, signed, name))


def check_of(declared: SignatureScheme, key: bytes) -> Check:
    """Return the checker of signatures by a key. Raises ValueError for one that is none of the algorithm."""
    if declared.algorithm in PUBLIC_KEY:
        verify = _verify_of(declared.algorithm, key)
        return lambda candidates, signed: any(_verified(verify, candidate, signed) for candidate in candidates)
    if declared.algorithm == "token":
        # As digests: the time does not depend on a secret's length either.
        expected = hashlib.sha256(key).digest()
        return lambda candidates, _: _any_equal(expected, [hashlib.sha256(candidate).digest() for candidate in candidates])
    digest = _digester_of(declared, key)
    return lambda candidates, signed: _any_equal(digest(signed), candidates)


def check_key(declared: SignatureScheme | WebToken | MessageSignature, setting: str) -> None:
    """Raise ValueError for a setting that holds no key by which anything could be verified as it is declared."""
    if isinstance(declared, SignatureScheme):
        check_of(declared, key_of(declared, setting))
        return
    algorithms = declared.algorithms if isinstance(declared, WebToken) else (MESSAGE_ALGORITHMS[declared.algorithm],)
    if all(one.startswith("HS") for one in algorithms):
        if isinstance(declared, MessageSignature):
            key_of(declared, setting)
        return
    key = public_key_of(setting)
    if not any(suits(one, key) for one in algorithms):
        raise ValueError(f"the public key is none of {', '.join(algorithms)}")


def _any_equal(expected: bytes, candidates: Sequence[bytes]) -> bool:
    found = False
    for candidate in candidates:
        found |= hmac.compare_digest(expected, candidate)
    return found


def _verify_of(algorithm: str, key: bytes) -> Callable[[bytes, bytes], None]:
    """Return the verification by a public key: 32 bytes for Ed25519, else DER or PEM. Raises ValueError for another key."""
    try:
        if algorithm == "ed25519" and len(key) == 32:
            public: Any = Ed25519PublicKey.from_public_bytes(key)
        else:
            public = bounded(load_pem_public_key(key) if key.lstrip().startswith(b"-----") else load_der_public_key(key))
    except UnsupportedAlgorithm as error:
        raise ValueError("the public key is of a kind that is not known") from error
    if algorithm == "ed25519" and isinstance(public, Ed25519PublicKey):
        return public.verify
    if algorithm == "ecdsa-p256-sha256" and isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return lambda signature, signed: public.verify(signature, signed, ECDSA(SHA256()))
    if algorithm in _RSA and isinstance(public, RSAPublicKey):
        return lambda signature, signed: public.verify(signature, signed, PKCS1v15(), _RSA[algorithm])
    raise ValueError(f"the public key is none of {algorithm}")


def _verified(verify: Callable[[bytes, bytes], None], signature: bytes, signed: bytes) -> bool:
    try:
        verify(signature, signed)
    except InvalidSignature:
        return False
    return True
