"""Encrypts what notifications hold, as Microsoft Graph is documented to, for certificates of tests."""

from __future__ import annotations

import base64
import functools
import hmac
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


@functools.cache
def pair(name: str, bits: int = 2048) -> tuple[str, str]:
    """Return a private key of its own for each name, and its certificate, as PEM."""
    key = rsa.generate_private_key(65537, bits)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + timedelta(days=1)).sign(key, SHA256())
    written = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return written, made.public_bytes(Encoding.PEM).decode()


def size_of(certificate: str) -> int:
    """Return the bits of the RSA key in a certificate, DER as base64. Raises ValueError."""
    key: Any = x509.load_der_x509_certificate(base64.b64decode(certificate, validate=True)).public_key()
    return int(key.key_size)


def encrypted(content: Any, certificate: str, id_: str, **instead: str) -> dict[str, str]:
    """Return an `encryptedContent`, with some fields `instead` of its own."""
    read = x509.load_der_x509_certificate(base64.b64decode(certificate))
    public: Any = read.public_key()
    key, padder = secrets.token_bytes(32), PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(key[:16])).encryptor()
    data = encryptor.update(padder.update(json.dumps(content).encode()) + padder.finalize()) + encryptor.finalize()
    raw = {
        "data": data,
        "dataSignature": hmac.digest(key, data, "sha256"),
        "dataKey": public.encrypt(key, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None)),
    }
    named = {"encryptionCertificateId": id_, "encryptionCertificateThumbprint": read.fingerprint(SHA1()).hex().upper()}
    return {name: base64.b64encode(one).decode() for name, one in raw.items()} | named | instead
