"""Sealing secrets: AES-256-GCM with a data key per value, bound to where the value belongs.

A sealed value is text: `v1.<key id>.<wrapped data key>.<nonce + ciphertext>`, base64url. The additional data is the tuple of
names that the caller gives (organization, entity, field) plus the key's id, so that a value which is moved to another row or
field does not open. Rotation puts a new key first; values open with any key in the ring. A value that is resealed keeps its data
key, which the new key wraps, and its ciphertext; the id of the key that it was sealed with first is a fifth part then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = 32  # bytes
NONCE = 12  # bytes; NIST SP 800-38D recommends 96 bits


class CannotOpen(Exception):
    """A sealed value was altered, moved, or its key is not in the ring. Names which, never the value."""


class Keyring:
    """256-bit keys; the first encrypts, all decrypt."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        if not keys:
            raise ValueError("a keyring needs at least one key")
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self._current = key_id(keys[0])

    def seal(self, plaintext: str, *place: str) -> str:
        """Return `plaintext` sealed for `place`, such as (organization, connection, field)."""
        # At once: each is a call of the system, and a token is sealed for each question.
        drawn = os.urandom(KEY + 2 * NONCE)
        data_key, nonce, second = drawn[:KEY], drawn[KEY:-NONCE], drawn[-NONCE:]
        additional = _additional(place, self._current)
        wrapped = _encrypt(self._keys[self._current], nonce, data_key, additional)
        return f"v1.{self._current}.{_text(wrapped)}.{_text(_encrypt(AESGCM(data_key), second, plaintext.encode(), additional))}"

    @property
    def current(self) -> str:
        """The id of the first key."""
        return self._current

    def opens(self, sealed: str, *place: str) -> bool:
        """Return whether this value opens in its place."""
        try:
            self.open(sealed, *place)
        except CannotOpen:
            return False
        return True

    def knows(self, sealed: str) -> bool:
        """Return whether the key that sealed this value is in the ring; whether it opens is another question."""
        parts = sealed.split(".")
        return len(parts) in {4, 5} and parts[1] in self._keys

    def resealed(self, sealed: str, *place: str) -> str:
        """Return a value sealed with the first key; its body stays. Raises `CannotOpen`."""
        _, data_key = self._opened(sealed, place)
        body, first = _parts(sealed)[2:]
        wrapped = _encrypt(self._keys[self._current], os.urandom(NONCE), data_key, _additional(place, self._current))
        return ".".join(("v1", self._current, _text(wrapped), body, *([first] if first != self._current else [])))

    def is_current(self, sealed: str) -> bool:
        """Return whether the first key of the ring sealed this value."""
        return is_sealed_by(sealed, self._current)

    def open(self, sealed: str, *place: str) -> str:
        """Return the plaintext. Raises `CannotOpen`."""
        return self._opened(sealed, place)[0]

    def _opened(self, sealed: str, place: tuple[str, ...]) -> tuple[str, bytes]:
        """Return the plaintext and the data key. Raises `CannotOpen`."""
        try:
            key, wrapped, body, first = _parts(sealed)
            if key not in self._keys:
                raise CannotOpen(f"the key {key} that sealed this value is not among the keys")
            data_key = _decrypt(self._keys[key], _bytes(wrapped), _additional(place, key))
            return _decrypt(AESGCM(data_key), _bytes(body), _additional(place, first)).decode(), data_key
        except (ValueError, binascii.Error) as error:
            raise CannotOpen("this is not a sealed value") from error
        except InvalidTag as error:
            raise CannotOpen("this sealed value was altered, or belongs elsewhere") from error


def is_sealed_by(sealed: str, key: str) -> bool:
    """Return whether the key of this id sealed a value."""
    return sealed.split(".")[1:2] == [key]


def stem_of(sealed: str) -> str:
    """Return the part of a sealed value that stays when other keys seal it: it stands for what was given."""
    return sealed.split(".")[3] if sealed.count(".") > 2 else sealed


def _parts(sealed: str) -> tuple[str, str, str, str]:
    """Return the id of the key, the wrapped data key, the body, and the id of the key that sealed it first. Raises ValueError."""
    version, key, wrapped, body, *first = sealed.split(".")
    if version != "v1":
        raise CannotOpen(f"sealed value has the unknown version {version!r}")
    if len(first) > 1:
        raise ValueError("too many parts")
    return key, wrapped, body, first[0] if first else key


def key_id(key: bytes) -> str:
    """Return the public name of a key: 64 bits of its SHA-256."""
    return hashlib.sha256(b"millrace key id" + key).hexdigest()[:16]


def _additional(place: tuple[str, ...], key: str) -> bytes:
    return "\0".join((*place, key)).encode()


def _encrypt(key: AESGCM, nonce: bytes, plaintext: bytes, additional: bytes) -> bytes:
    return nonce + key.encrypt(nonce, plaintext, additional)


def _decrypt(key: AESGCM, sealed: bytes, additional: bytes) -> bytes:
    return key.decrypt(sealed[:NONCE], sealed[NONCE:], additional)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # The decoder passes over what is behind the padding, and what is no base64: a value would open that somebody has added to.
    if _text(raw) != text:
        raise ValueError("this is not as it was written")
    return raw
