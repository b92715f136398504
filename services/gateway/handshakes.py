"""Answers the requests by which senders ask whether an address takes their webhooks, as adapters declare them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from services.gateway.outside import OutsideAddress
from services.gateway.places import Conditions, Reader
from services.gateway.received import Received
from shared.errors import PermissionDenied, Unauthenticated
from shared.verification import Handshake

MOST_CHALLENGE = 1024
# A challenge whose digest is answered: anything else might be a webhook, and its digest the signature to forge it with.
_HARMLESS = re.compile(r"[A-Za-z0-9+/._-]+={0,2}\Z")
_NAMED = re.compile(r"\{(?:challenge|digest)\}")


class HandshakeAnswer(msgspec.Struct, frozen=True):
    """The answer to a handshake; before it is given, the address `visit` is asked for."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str]
    visit: str | None = None


class Greeting:
    """One declared handshake with its keys."""

    def __init__(self, declared: Handshake, keys: Sequence[str]) -> None:
        self.declared = declared
        self._keys = [key.encode() for key in keys]
        self._when = Conditions(declared.when)
        self._challenge = None if declared.challenge is None else Reader(declared.challenge)
        self._token = None if declared.token is None else Reader(declared.token)
        self._visit = None if declared.visit is None else OutsideAddress(declared.visit)
        readers = [reader for reader in (self._challenge, self._token) if reader is not None]
        self.reads_body = self._when.in_body or self._visit is not None or any(reader.place.in_body for reader in readers)
        if (declared.digest or declared.token) and not self._keys:
            raise ValueError("a handshake needs a secret")

    def answer(self, received: Received) -> HandshakeAnswer | None:
        """Return the answer to a request that is this handshake, else None.

        Raises `PermissionDenied` for a wrong token, `Unauthenticated` for an address to visit that is not the sender's.
        """
        if received.method != self.declared.method:
            return None
        try:
            if self._when.unmet(received, body=False) or self._when.unmet(received, body=True):
                return None
            challenge = "" if self._challenge is None else self._challenge.one(received) or ""
            token = "" if self._token is None else self._token.one(received) or ""
        except Unauthenticated:  # a body that is no JSON, a parameter that stands twice
            return None
        if self._challenge is not None and not (challenge.isprintable() and 0 < len(challenge) <= MOST_CHALLENGE):
            return None
        if self.declared.digest is not None and not _HARMLESS.match(challenge):
            return None
        if self._token is not None and not self._known(token):
            raise PermissionDenied(f"the {self._token.place} is not this source's")
        visit = None if self._visit is None else self._visit.read(received)
        return self._made({"{challenge}": challenge, "{digest}": self._digest(challenge)}, visit)

    def _made(self, values: dict[str, str], visit: str | None) -> HandshakeAnswer:
        headers = {name: _filled(text, values) for name, text in self.declared.headers.items()}
        if self.declared.json is not None:
            body, kind = msgspec.json.encode(_filled(self.declared.json, values)), "application/json"
        else:
            body, kind = _filled(self.declared.text, values).encode(errors="replace"), "text/plain"
        return HandshakeAnswer(self.declared.status, body, kind, headers, visit)

    def _known(self, token: str) -> bool:
        given, found = hashlib.sha256(token.encode(errors="surrogatepass")).digest(), False
        for key in self._keys:
            found |= hmac.compare_digest(hashlib.sha256(key).digest(), given)
        return found

    def _digest(self, challenge: str) -> str:
        if self.declared.digest is None:
            return ""
        digest = hmac.digest(self._keys[0], challenge.encode(), "sha256")
        return digest.hex() if self.declared.encoding == "hex" else base64.b64encode(digest).decode()


class Handshakes:
    """All handshakes of a source. `methods` are theirs, `read_methods` those whose body has to be read to recognize one."""

    def __init__(self, greetings: Sequence[Greeting]) -> None:
        self._by_head = [one for one in greetings if not one.declared.signed and not one.reads_body]
        self._by_body = [one for one in greetings if not one.declared.signed and one.reads_body]
        self._signed = [one for one in greetings if one.declared.signed]
        self.methods = tuple(dict.fromkeys(one.declared.method for one in greetings))
        self.read_methods = frozenset(one.declared.method for one in (*self._by_body, *self._signed))
        self.read_body = bool(self._by_body)
        self.reads_document = any(one.reads_body for one in self._signed)

    def before_body(self, received: Received) -> HandshakeAnswer | None:
        """Return the answer to a request that is a handshake by its head."""
        return _first(self._by_head, received)

    def before_verification(self, received: Received) -> HandshakeAnswer | None:
        """Return the answer to a request that is a handshake by its body, signed or not."""
        return _first(self._by_body, received)

    def after_verification(self, received: Received) -> HandshakeAnswer | None:
        """Return the answer to a genuine request that is a handshake."""
        return _first(self._signed, received)


def _first(greetings: Sequence[Greeting], received: Received) -> HandshakeAnswer | None:
    for greeting in greetings:
        answer = greeting.answer(received)
        if answer is not None:
            return answer
    return None


def _filled(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one, values) for name, one in value.items()}
    if not isinstance(value, str):
        return value
    return _NAMED.sub(lambda found: values[found[0]], value)
