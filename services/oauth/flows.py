"""Flows: the grants by which a provider gives tokens, and what each needs. What one sends is in `token_requests`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What a grant needs: a person with a browser or another device, addresses of the provider, fields of the connection.

    `has_key`: the secret of the client is a private key. `fields` are of use to no other grant; `needs` are those of them that it
    cannot do without.
    """

    person: Literal["browser", "device"] | None = None
    addresses: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    has_key: bool = False


FLOWS: Mapping[str, Flow] = {
    "client_credentials": Flow(),
    "authorization_code": Flow(person="browser", addresses=("authorize_url",)),
    "device_code": Flow(person="device", addresses=("device_url",)),
    "jwt_bearer": Flow(fields=("subject",), has_key=True),
    "token_exchange": Flow(fields=("exchanges",), needs=("exchanges",)),
}
