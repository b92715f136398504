"""Connections: credentials of an organization."""

from __future__ import annotations

from typing import Literal

from shared.resources.declaration import SecretText, Spec, VaultAdds, resource


@resource(
    "connection",
    plural="connections",
    owner="oauth",
    in_vault=True,
    columns=("name", "grant", "status", "updated_at"),
    adds=VaultAdds,
    example={"token": "a long random text"},
)
class Connection(Spec, frozen=True, kw_only=True):
    """A credential. The token goes in and never comes out, but for runs."""

    token: SecretText
    grant: Literal["token"] = "token"
