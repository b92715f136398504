"""Decides who may read over NATS: the broker's question about a stranger, and the token that answers it.

The broker puts an admitted one into the account of subscribers, with the rights of the token (auth callout, ADR-26 of NATS): to
subscribe to some subjects, and nothing else.
"""

from __future__ import annotations

from typing import Any

import msgspec

from services.logs.subscribers.grants import Grant
from shared.nkeys import Issuer, claims_of
from shared.subscribers import SUBSCRIBERS


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    id: int
    host: str = ""


class _Options(msgspec.Struct):
    auth_token: str = ""
    password: str = msgspec.field(default="", name="pass")


class Stranger(msgspec.Struct, frozen=True):
    """The broker's question: a connection of one of its servers, and what its client has shown to be known."""

    server_id: _Server
    client_info: _Client
    connect_opts: _Options
    user_nkey: str

    @property
    def key(self) -> str:
        """The key that was shown, as a token or as a password."""
        return self.connect_opts.auth_token or self.connect_opts.password

    @property
    def at(self) -> tuple[str, int]:
        """The connection: the server, and its number there."""
        return self.server_id.id, self.client_info.id


class _Claims(msgspec.Struct):
    nats: Stranger


def read(token: bytes) -> Stranger:
    """Return the broker's question. Raises ValueError or msgspec's errors for what is none."""
    return msgspec.json.decode(claims_of(token), type=_Claims).nats


def admitted(asked: Stranger, grant: Grant, issuer: Issuer, now: int) -> bytes:
    """Return the answer that lets a connection in. The broker cuts it when the grant is over."""
    user: dict[str, Any] = {
        "sub": asked.user_nkey,
        "aud": SUBSCRIBERS,
        "name": grant.connection,
        "nats": {
            "type": "user",
            "version": 2,
            "pub": {"deny": [">"]},
            "sub": {"allow": grant.allowed},
            # Bounds are the account's: the broker takes none from a token of this kind.
            "subs": -1,
            "payload": -1,
            "data": -1,
            "allowed_connection_types": ["STANDARD"],
        },
    }
    if grant.until is not None:
        user["exp"] = int(grant.until)
    return _answer(asked, issuer, now, jwt=issuer.token(user, now=now))


def refused(asked: Stranger, reason: str, issuer: Issuer, now: int) -> bytes:
    """Return the answer that lets nobody in; the broker's log has the reason, and its client none."""
    return _answer(asked, issuer, now, error=reason)


def _answer(asked: Stranger, issuer: Issuer, now: int, **said: Any) -> bytes:
    nats = {"type": "authorization_response", "version": 2, **said}
    return issuer.token({"sub": asked.user_nkey, "aud": asked.server_id.id, "nats": nats}, now=now).encode()
