"""Organizations: tenants, each by the name that all that belongs to it bears."""

from __future__ import annotations

from typing import Annotated

from shared.resources.declaration import Names, Spec, about, resource
from shared.values import Words

ORGANIZATION = Names(r"[A-Za-z0-9_-]{1,64}", "an organization's name has 1 to 64 letters, digits, underscores and hyphens")


@resource(
    "organization",
    plural="orgs",
    owner="gateway",
    read="viewer",
    write="admin",
    names=ORGANIZATION,
    of_platform=True,
    columns=("name", "display_name", "created_at"),
    example={"display_name": "An example"},
)
class Organization(Spec, frozen=True, kw_only=True):
    """A tenant, as the platform knows it. It is there without this as well, as soon as a key of the platform names it."""

    display_name: Annotated[Words, about("What it is called by people.")] = ""
