"""Organizations: tenants, each by the name that all that belongs to it bears."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.resources.declaration import Names, Resource, Spec, about, resource
from shared.resources.shapes import Burst, PerSecond
from shared.values import Words

ORGANIZATION = Names(r"[A-Za-z0-9_-]{1,64}", "an organization's name has 1 to 64 letters, digits, underscores and hyphens")
Most = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


@resource(
    "organization",
    plural="orgs",
    owner="gateway",
    read="viewer",
    write="admin",
    names=ORGANIZATION,
    registered=("gateway", "events", "executor"),
    of_platform=True,
    columns=("name", "display_name", "created_at"),
    example={"display_name": "An example", "runs_a_day": 10_000},
)
class Organization(Spec, frozen=True, kw_only=True):
    """A tenant, as the platform knows it. It is there without this as well, as soon as a key of the platform names it."""

    display_name: Annotated[Words, about("What it is called by people.")] = ""
    rate: Annotated[PerSecond, about("Requests a second to the API by all its keys together, in the long run.")] | None = None
    burst: Annotated[Burst, about("How many of them at once after a rest; else those of a second.")] | None = None
    webhook_rate: Annotated[PerSecond, about("Webhooks a second to all its sources together, in the long run.")] | None = None
    webhook_burst: Annotated[Burst, about("How many of them at once after a rest; else those of a second.")] | None = None
    runs_in_flight: Annotated[Most, about("Quota: its runs that have not ended, at a time.")] | None = None
    runs_a_day: Annotated[Most, about("Quota: its runs that are asked for in a day (UTC).")] | None = None
    stored_bytes: Annotated[Most, about("Quota: bytes of the files in its workspace, and of their history.")] | None = None
    history_days: (
        Annotated[int, msgspec.Meta(ge=0, le=3650), about("Days for which replaced versions of its files are kept; else 30.")]
        | None
    ) = None
    history_versions: (
        Annotated[int, msgspec.Meta(ge=1, le=10_000), about("Versions that are kept of one file at most; else 100.")] | None
    ) = None
    sources: Annotated[Most, about("Quota: its sources, of at most 1,000.")] | None = None


OrganizationEntry = Resource[Organization]
