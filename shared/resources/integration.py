"""Integrations: external systems."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from shared.resources.declaration import Spec, about, resource
from shared.values import Name, Words

_DOC = (
    "The JSON Schema of each mapping's config. Its `default`s stand in for what is absent; members that are `writeOnly` are secret."
)
Schema = Annotated[dict[str, Any], msgspec.Meta(description=_DOC, extra_json_schema={"x-option": "schema"})]


@resource(
    "integration",
    plural="integrations",
    owner="events",
    inherited=True,
    columns=("name", "org", "provider", "description", "updated_at"),
    example={"description": "An example"},
)
class Integration(Spec, frozen=True, kw_only=True):
    """A named external system. Nothing in it is secret.

    `config_schema` is the JSON Schema of every mapping's config, `provider` the OAuth provider that its connections are of. A
    member of the config whose schema has `writeOnly` is secret: its value is sealed, never shown, and given to runs only.
    """

    description: Annotated[Words, about("What it is, in a sentence.")] = ""
    config_schema: Schema = msgspec.field(default_factory=lambda: {"type": "object"})
    provider: Annotated[Name, about("The OAuth provider of its connections.")] | None = None
