"""Keys and tokens as NATS writes them: Ed25519 keys in base32 with a checksum, and JSON Web Tokens that are signed by one.

The forms are those of github.com/nats-io/nkeys and of github.com/nats-io/jwt, version 2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# The first byte of an account's public key: the text begins with A.
_ACCOUNT = 0
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


class Issuer:
    """Signs tokens for the broker; made of 32 random bytes, which are secret. Raises ValueError for another number of bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        raw = bytes([_ACCOUNT]) + self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = _base32(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little"))

    def __repr__(self) -> str:
        """Show the public key alone: a repr ends up in logs."""
        return f"Issuer({self.public})"

    def token(self, claims: dict[str, Any], *, now: int) -> str:
        """Return claims as a token of this issuer, made at `now` in epoch seconds."""
        said = claims | {"iss": self.public, "iat": now}
        whole = said | {"jti": _base32(hashlib.sha256(msgspec.json.encode(said)).digest())}
        signed = f"{_base64(msgspec.json.encode(_HEADER))}.{_base64(msgspec.json.encode(whole))}"
        return f"{signed}.{_base64(self._key.sign(signed.encode()))}"


def claims_of(token: bytes) -> bytes:
    """Return the JSON of a token's claims, whoever has signed it. Raises ValueError for what is none."""
    parts = token.split(b".")
    return base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)) if len(parts) == len("abc") else b""


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=")


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
