"""What a tree says of a message: its place in its stream, and a salted hash of its bytes: pure.

The salts lie beside the tree and are not published: without its salt a hash tells nothing of a message, so that a message can be
erased for good, and the tree stays as it is.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from services.logs.cursor import microseconds
from services.logs.digests.tree import WIDTH
from services.logs.domain import Digested

SALT_BYTES = 16
# In place of the salt of a message that was erased.
NO_SALT = bytes(SALT_BYTES)
SALTS = re.compile("salts/(0|[1-9][0-9]{0,12})")
_encoder = msgspec.json.Encoder()


class TreeEntry(msgspec.Struct, frozen=True):
    """An entry of a tree: a message's place, the time of its storage in microseconds since 1970, and its salted hash."""

    incarnation: str
    seq: int
    time: int
    sha256: str

    def encoded(self) -> bytes:
        """Return the bytes that are hashed: JSON, without spaces, the fields in the order above."""
        return _encoder.encode(self)


def entry_of(message: Digested, salt: bytes) -> TreeEntry:
    """Return the entry of a message."""
    salted = hashlib.sha256(salt + message.digest).hexdigest()
    return TreeEntry(message.incarnation, message.seq, microseconds(message.time), salted)


def read_entry(encoded: bytes) -> TreeEntry:
    """Return the entry that was encoded so. Raises ValueError."""
    return msgspec.json.decode(encoded, type=TreeEntry)


def salts_name(bundle: int) -> str:
    """Return the name of the salts of a bundle of entries."""
    return f"salts/{bundle}"


def salt_in(salts: bytes, index: int) -> bytes:
    """Return the salt of the entry `index` of a tree, in the salts of its bundle."""
    at = index % WIDTH * SALT_BYTES
    return salts[at : at + SALT_BYTES]
