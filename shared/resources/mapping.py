"""Mappings: an integration's values for one organization."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.errors import Problem
from shared.resources.declaration import Merged, Spec, about, refers_to, resource
from shared.values import Name

EntityId = Annotated[str, msgspec.Meta(max_length=500)]
"""The id of an organization in an external system."""


class MappingAdds(msgspec.Struct, frozen=True):
    """The integration and its OAuth provider; and how the config does not fit its schema, which may have changed since."""

    integration: str
    provider: str | None
    problems: list[Problem]


@resource(
    "mapping",
    plural="mappings",
    owner="events",
    path="/integrations/{name}/mappings/{org}",
    columns=("org", "entity_id", "connection", "config", "problems"),
    adds=MappingAdds,
    example={"entity_id": "42"},
)
class Mapping(Spec, frozen=True, kw_only=True):
    """An organization's part in the integration of its name. Nothing in `config` is secret: `connection` is for that."""

    config: Annotated[Merged, about("As the integration's schema has it. Secrets belong into a connection.")] = msgspec.field(
        default_factory=dict
    )
    entity_id: Annotated[EntityId, about("Who the organization is in the external system.")] | None = None
    connection: Annotated[Name, refers_to("connection"), about("The connection by which it is reached.")] | None = None
