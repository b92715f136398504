"""Secrets: values that an organization gives by name to its runs, or to the platform's services alone."""

from __future__ import annotations

from typing import Annotated, Literal

from shared.resources.declaration import SETTING, SecretText, Spec, VaultAdds, about, resource


@resource(
    "secret",
    plural="secrets",
    owner="oauth",
    names=SETTING,
    in_vault=True,
    columns=("name", "readers", "status", "version", "updated_at"),
    adds=VaultAdds,
    example={"value": "a long random text"},
)
class Secret(Spec, frozen=True, kw_only=True):
    """A text that is stored encrypted. It goes in and never comes out, but for its readers."""

    value: SecretText
    readers: Annotated[
        Literal["runs", "services"],
        about("`services`: no run is given it, only a service whose settings name it. It does not become one for `runs` again."),
    ] = "runs"
