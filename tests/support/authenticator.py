"""A passkey in software, with what an authenticator and the browser around it do (WebAuthn, level 2)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any

import cbor2
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

# Flags: the user is there, is verified, and there is data of a new credential.
PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(given: str) -> bytes:
    return base64.urlsafe_b64decode(given + "=" * (-len(given) % 4))


class Authenticator:
    """Holds one passkey. `origin` is that of the page; `counts`: its counter goes up with each use, else it stays 0."""

    def __init__(self, origin: str, *, counts: bool = True) -> None:
        self.origin = origin
        self.id = secrets.token_bytes(32)
        self.counter = 0
        self.user = b""
        self.flags = PRESENT | VERIFIED
        self._counts = counts
        self._key = ec.generate_private_key(ec.SECP256R1())

    def make(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to creation options (RegistrationResponseJSON)."""
        self.user = raw(options["user"]["id"])
        numbers = self._key.public_key().public_numbers()
        key = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")})
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + key
        data = self._data(options["rp"]["id"], ATTESTED) + attested
        response = {
            "clientDataJSON": text(self._client("webauthn.create", options)),
            "attestationObject": text(cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})),
        }
        return self._answer(response)

    def sign(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to request options (AuthenticationResponseJSON)."""
        self.counter += self._counts
        client, data = self._client("webauthn.get", options), self._data(options["rpId"], 0)
        signature = self._key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(SHA256()))
        response = {
            "clientDataJSON": text(client),
            "authenticatorData": text(data),
            "signature": text(signature),
            "userHandle": text(self.user),
        }
        return self._answer(response)

    def _data(self, domain: str, more: int) -> bytes:
        return hashlib.sha256(domain.encode()).digest() + bytes([self.flags | more]) + self.counter.to_bytes(4, "big")

    def _client(self, kind: str, options: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"type": kind, "challenge": options["challenge"], "origin": self.origin, "crossOrigin": False})

    def _answer(self, response: dict[str, Any]) -> dict[str, Any]:
        named = {"id": text(self.id), "rawId": text(self.id), "type": "public-key"}
        return named | {"response": response, "clientExtensionResults": {}}
