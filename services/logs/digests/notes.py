"""Signed notes and checkpoints, as C2SP `signed-note` and `tlog-checkpoint` write them, with Ed25519: pure.

A note is a text of lines, an empty line, and a line for each signature: an em dash, the key's name, and base64 of the key's id, of
four bytes, and the signature. A checkpoint is a note whose text is the log's origin, its size and its root in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.logs.digests.tree import HASH_BYTES

# The byte that says Ed25519, in key ids and keys.
_ED25519 = b"\x01"
_ID_BYTES = 4
_SIGNATURE = re.compile(r"— (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/=]+)")


class Unverified(ValueError):
    """A note without the signature of a known key, or a text that is no note or no checkpoint."""


class VerifierKey(msgspec.Struct, frozen=True):
    """A public key and its name. Written, it is `<name>+<id in hexadecimal>+<base64 of the kind and the key>`."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """Return the four bytes by which a signature names its key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        """Return the key as it is written."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"


def verifier_key(text: str) -> VerifierKey:
    """Return the key that is written so. Raises `Unverified`."""
    name, _, rest = text.strip().partition("+")
    identity, _, encoded = rest.partition("+")
    try:
        kind, public = (decoded := base64.b64decode(encoded, validate=True))[:1], decoded[1:]
    except (binascii.Error, ValueError):
        kind, public = b"", b""
    key = VerifierKey(name, public)
    if kind != _ED25519 or len(public) != 32 or key.id.hex() != identity or not _SIGNATURE.fullmatch(f"— {name} AA=="):
        raise Unverified(f"{text[:200]!r} is no verifier key of Ed25519: <name>+<id>+<base64>")
    return key


class Signer:
    """A key that signs notes under a name; `seed` are its 32 bytes."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = VerifierKey(name, self._private.public_key().public_bytes_raw())

    def line(self, text: str) -> str:
        """Return the line of this key's signature under `text`."""
        signature = self.verifier.id + self._private.sign(text.encode())
        return f"— {self.verifier.name} {base64.b64encode(signature).decode()}\n"


def sign(text: str, signers: Sequence[Signer]) -> str:
    """Return `text`, which ends with a line break, as a note that all of `signers` have signed."""
    return f"{text}\n{''.join(signer.line(text) for signer in signers)}"


def open_note(note: str, keys: Sequence[VerifierKey]) -> str:
    """Return the text of a note that one of `keys` has signed; signatures of unknown keys are passed over.

    Raises `Unverified`, also for a wrong signature under the name and id of a known key.
    """
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise Unverified("it is no signed note: a text, an empty line, and lines of signatures")
    text += "\n"
    known = {(key.name, key.id): key for key in keys}
    verified = False
    for line in lines.splitlines():
        found = _SIGNATURE.fullmatch(line)
        try:
            raw = b"" if found is None else base64.b64decode(found["signature"], validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if found is None or len(raw) <= _ID_BYTES:
            raise Unverified("a line below the empty one is no signature")
        key = known.get((found["name"], raw[:_ID_BYTES]))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(raw[_ID_BYTES:], text.encode())
        except InvalidSignature:
            raise Unverified(f"the signature of {key.name} is wrong: the text was changed, or another key signed") from None
        verified = True
    if not verified:
        raise Unverified("none of the known keys, of which each stream has its own, has signed it")
    return text


class Checkpoint(msgspec.Struct, frozen=True):
    """The state of a log: its `origin`, which is its name, the number of its entries, and its root."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def checkpoint_of(text: str) -> Checkpoint:
    """Return the checkpoint that a note's text is; further lines are extensions, which are passed over. Raises `Unverified`."""
    origin, size, root, *_ = [*text.split("\n"), "", "", ""]
    try:
        decoded = base64.b64decode(root, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not origin or not re.fullmatch(r"0|[1-9][0-9]{0,17}", size) or len(decoded) != HASH_BYTES:
        raise Unverified("it is no checkpoint: an origin, a size and a root")
    return Checkpoint(origin, int(size), decoded)
