"""What the events service is asked and told about integrations and their mappings."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from shared.questions.declaration import Command, Done, Page, Question, command, question
from shared.questions.events import MappingView
from shared.values import Name, Words

EntityId = Annotated[str, msgspec.Meta(max_length=500)]
"""What an external system calls an organization."""


class IntegrationView(msgspec.Struct, frozen=True, kw_only=True):
    """A named external system. `org` is whose it is: the organization's own, or `global` for all.

    `config_schema` is the JSON Schema of every mapping's config, `provider` the OAuth provider that its connections are of.
    """

    id: str
    org: str
    name: str
    description: str
    config_schema: dict[str, Any]
    provider: str | None
    created_at: str
    updated_at: str
    version: int


class IntegrationList(msgspec.Struct, frozen=True):
    """A page of integrations."""

    items: list[IntegrationView]
    next_cursor: str | None


class MappingList(msgspec.Struct, frozen=True):
    """A page of mappings of one integration, by organization."""

    items: list[MappingView]
    next_cursor: str | None


@question("events.integrations", by="gateway", answer=IntegrationList)
class ListIntegrations(Question, frozen=True, kw_only=True):
    """The integrations that an organization sees, by name: its own, and of the platform's those that no own one hides.

    With `own` just those that the organization itself has defined.
    """

    page: Page = Page()
    name: Name | None = None
    own: bool = False


@command("events.put_integration", by="gateway", answer=IntegrationView)
class PutIntegration(Command, frozen=True, kw_only=True):
    """Create or replace an integration. Mappings that do not fit the new schema stay, and say so.

    `expected` is the version that must be there (If-Match), 0 for "none". Raises Invalid, PreconditionFailed, Conflict.
    """

    name: Name
    config_schema: dict[str, Any]
    description: Words = ""
    provider: Name | None = None
    expected: int | None = None


@command("events.remove_integration", by="gateway", answer=Done)
class RemoveIntegration(Command, frozen=True, kw_only=True):
    """Remove an integration; `expected` as for putting it. Raises NotFound, PreconditionFailed, Conflict."""

    name: Name
    expected: int | None = None


@question("events.mappings", by="gateway", answer=MappingList)
class ListMappings(Question, frozen=True, kw_only=True):
    """The mappings of the integration that `org` means by a name, by organization. Raises NotFound for no such integration.

    They are the organization's own alone, or for the org `*` those of every organization to which the platform's integration is
    known by that name.
    """

    integration: Name
    page: Page = Page()


@command("events.put_mapping", by="gateway", answer=MappingView)
class PutMapping(Command, frozen=True, kw_only=True):
    """Map the organization to an integration that it sees; `connection` need not exist yet. `expected` as for an integration.

    Raises NotFound for no such integration, Invalid with a problem for each place where `config` does not fit its schema,
    PreconditionFailed, Conflict.
    """

    integration: Name
    config: dict[str, Any]
    entity_id: EntityId | None = None
    connection: Name | None = None
    expected: int | None = None


@command("events.remove_mapping", by="gateway", answer=Done)
class RemoveMapping(Command, frozen=True, kw_only=True):
    """Remove the organization's mapping; `expected` as for putting it. Raises NotFound, PreconditionFailed, Conflict."""

    integration: Name
    expected: int | None = None
