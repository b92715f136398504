"""Sources: webhook endpoints."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.resources.declaration import IntegrationName, Link, Resource, Settings, Spec, about, resource
from shared.values import Name


class SourceAdds(msgspec.Struct, frozen=True):
    """The address that the sender is given; a topic has none."""

    url: Link | None


@resource(
    "source",
    plural="sources",
    owner="events",
    registered=("gateway", "events"),
    # All of every organization are held in memory at each gateway.
    most=1000,
    columns=("name", "adapter", "enabled", "url", "updated_at"),
    adds=SourceAdds,
    example={"adapter": "github", "settings": {"secret": "a long random text"}},
)
class Source(Spec, frozen=True, kw_only=True):
    """A webhook endpoint: an adapter and its settings, of which the adapter's schema says which are secret.

    `integration` is the one whose mapping its events are routed with.
    """

    adapter: Annotated[Name, about("What the sender is: `millrace adapters` lists them.")]
    settings: Annotated[Settings, about("What the adapter needs; its schema says which are secret.")] = msgspec.field(
        default_factory=dict
    )
    enabled: Annotated[bool, about("Whether it takes webhooks.")] = True
    integration: Annotated[IntegrationName, about("The integration whose mapping its events are routed with.")] | None = None


SourceEntry = Resource[Source]
