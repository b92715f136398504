"""Salvages the one message that a projection cannot take, so that it stops no other."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import asyncpg
import msgspec
import nats.errors

from shared.errors import MillraceError, Unavailable
from shared.health import Health
from shared.pull import Delivered, StreamError
from shared.values import cleaned, lenient

# SQLSTATE classes and codes that are the server's fault, or its schema's: the message is to be offered again. No
# connection, no such role, database, schema, table or column, no right, no room, no disk; rolled back for another's sake, locked,
# cancelled by a time-out, read-only, corrupt.
_PASSING = ("08", "0B", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "XX001", "XX002")
_PASSING_KINDS = (Unavailable, StreamError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, nats.errors.Error)
# Errors of the broker's client about its arguments.
_OWN_FAULTS = (nats.errors.MaxPayloadError, nats.errors.BadSubjectError)


def is_passing(error: Exception) -> bool:
    """Return whether an error passes by itself or by an operator's help, and is no fault of the message at hand."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(_PASSING)
    return isinstance(error, _PASSING_KINDS) and not isinstance(error, _OWN_FAULTS)


def clean(delivered: Delivered) -> Delivered | None:
    """Return a message with all text in it storable and its bytes UTF-8; None where that changes nothing, or it is no JSON."""
    try:
        document = json.dumps(cleaned(lenient(delivered.data)), ensure_ascii=False, separators=(",", ":")).encode()
    except (MillraceError, ValueError, RecursionError):
        return None
    return None if document == delivered.data else msgspec.structs.replace(delivered, data=document)


class Tally:
    """Counts salvaged messages, by projection: kept with cleaned text or as bytes alone, and given up. A fact of `/readyz`."""

    def __init__(self, health: Health) -> None:
        self.salvaged: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self.last: dict[str, str] = {}
        health.state(
            "projections", self.document, counters=("salvaged", "dead"), labels=dict.fromkeys(("salvaged", "dead"), "projection")
        )

    def note(self, projection: str, delivered: Delivered, error: Exception, *, dead: bool) -> bool:
        """Count a message; returns whether its error is another one than the last of this projection."""
        (self.dead if dead else self.salvaged)[projection] += 1
        name = type(error).__name__
        is_new = not self.last.get(projection, "").startswith(f"{name} ")
        self.last[projection] = f"{name} at {delivered.sequence}"
        return is_new

    def document(self) -> dict[str, Any]:
        """Return the counts since the start, and the last error of each projection with its sequence."""
        return {"salvaged": dict(self.salvaged), "dead": dict(self.dead), "last": dict(self.last)}
