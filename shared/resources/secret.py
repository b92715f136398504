"""Secrets: values that an organization gives by name to its runs only."""

from __future__ import annotations

from shared.resources.declaration import SETTING, SecretText, Spec, VaultAdds, resource


@resource(
    "secret",
    plural="secrets",
    owner="oauth",
    names=SETTING,
    in_vault=True,
    columns=("name", "status", "version", "updated_at"),
    adds=VaultAdds,
    example={"value": "a long random text"},
)
class Secret(Spec, frozen=True, kw_only=True):
    """A text that is stored encrypted. It goes in and never comes out, but for runs."""

    value: SecretText
