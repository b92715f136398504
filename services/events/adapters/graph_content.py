"""The content of Microsoft Graph's rich notifications, encrypted for a certificate whose private key the source has.

As its documentation has it: the data key is encrypted by RSA-OAEP with SHA-1, signs the data by HMAC-SHA256, and encrypts it by
AES-256-CBC, with PKCS #7 padding and its own first 16 bytes as the initialization vector.
"""

from __future__ import annotations

import base64
import functools
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from shared.errors import MillraceError
from shared.jose import private_key_of
from shared.values import decode_sent

# Bits of the largest RSA key that Graph takes.
LARGEST_KEY = 4096
_BEGIN = "-----BEGIN CERTIFICATE-----"
_OAEP = OAEP(MGF1(SHA1()), SHA1(), None)  # noqa: S303 - Graph's choice


class Certified(msgspec.Struct, frozen=True):
    """A private key, its certificate as Graph takes it (DER as base64), and the id that Graph is told: the SHA-1 thumbprint."""

    key: RSAPrivateKey
    certificate: str
    id: str


# Reading a private key costs some milliseconds, for each webhook.
@functools.lru_cache(maxsize=256)
def certified(text: str) -> Certified:
    """Return a private key that its certificate follows, both as PEM. Raises ValueError for what Graph could not encrypt for."""
    key = private_key_of(text)
    if not isinstance(key, RSAPrivateKey) or key.key_size > LARGEST_KEY:
        raise ValueError(f"Graph encrypts for RSA keys of 2048 to {LARGEST_KEY} bits")
    start = text.find(_BEGIN)
    if start < 0:
        raise ValueError("the certificate is missing: it follows the private key, as PEM")
    certificate = load_pem_x509_certificate(text[start:].encode())
    if certificate.public_key() != key.public_key():
        raise ValueError("the certificate is of another key")
    der = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
    return Certified(key, der, certificate.fingerprint(SHA1()).hex().upper())  # noqa: S303 - the id that Graph shows beside it


def content_of(encrypted: Any, keys: Sequence[RSAPrivateKey]) -> Any:
    """Return what an `encryptedContent` holds, by any of these keys. Raises ValueError with the reason where it is not known."""
    if not isinstance(encrypted, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - the sender's mistake, not the program's
    data, signature, sealed = (_bytes_of(encrypted, name) for name in ("data", "dataSignature", "dataKey"))
    key = next((key for one in keys if (key := _opened(one, sealed)) is not None), None)
    if key is None:
        named = str(encrypted.get("encryptionCertificateId"))[:128]
        raise ValueError(f"it is encrypted for another certificate than the source has: {named!r}")
    if not hmac.compare_digest(hmac.digest(key, data, "sha256"), signature):
        raise ValueError("its dataSignature is none of its data")
    try:
        decryptor, unpadder = Cipher(AES256(key), CBC(key[:16])).decryptor(), PKCS7(128).unpadder()
        padded = decryptor.update(data) + decryptor.finalize()
        return decode_sent(unpadder.update(padded) + unpadder.finalize())
    except (ValueError, MillraceError) as error:
        raise ValueError("its data is no JSON that is encrypted by AES-256-CBC") from error


def _bytes_of(encrypted: dict[str, Any], name: str) -> bytes:
    given = encrypted.get(name)
    try:
        return base64.b64decode(given if isinstance(given, str) else "-", validate=True)
    except ValueError as error:
        raise ValueError(f"its {name} is no base64") from error


def _opened(key: RSAPrivateKey, sealed: bytes) -> bytes | None:
    try:
        found = key.decrypt(sealed, _OAEP)
    except ValueError:
        return None
    return found if len(found) == 32 else None
