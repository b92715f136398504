"""Mappings: an integration's values for one organization."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from shared.errors import Problem
from shared.resources.declaration import Settings, Spec, about, refers_to, resource
from shared.values import Name

EntityId = Annotated[str, msgspec.Meta(max_length=500)]
"""The id of an organization in an external system."""


class MappingAdds(msgspec.Struct, frozen=True):
    """The integration and its OAuth provider; and how the config does not fit its schema, which may have changed since.

    `effective` is the config with what the platform's mapping and the schema's defaults add, as events and runs get it, but for
    what is secret.
    """

    integration: str
    provider: str | None
    effective: dict[str, Any]
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
    """An organization's part in the integration of its name. Where it says nothing, the platform's mapping of that name counts."""

    config: Annotated[Settings, about("As the integration's schema has it, which says what of it is secret.")] = msgspec.field(
        default_factory=dict
    )
    entity_id: Annotated[EntityId, about("Who the organization is in the external system.")] | None = None
    connection: Annotated[Name, refers_to("connection"), about("The connection by which it is reached.")] | None = None
