"""The values of an integration for one organization: its own mapping's, then the platform's, then the schema's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from services.events import schemas
from shared.bus import Bus
from shared.encryption import CannotOpen, Keyring
from shared.errors import NotFound, Problem, Unavailable
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.owners.rows import ResourceRows
from shared.questions.events import GetMapping, MappingView
from shared.resources import Resource
from shared.resources.integration import Integration
from shared.resources.mapping import Mapping as MappingSpec

# Stands in for a secret that cannot be looked at while a config is held against its schema.
SEALED = "sealed"


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """The values of an integration for an organization: of its `own` mapping, and of the one `shared` by the platform."""

    integration: Resource[Integration]
    own: Resource[MappingSpec] | None
    shared: Resource[MappingSpec] | None

    @property
    def config(self) -> dict[str, Any]:
        """Return the config without its secrets."""
        found = schemas.defaults_of(self.integration.spec.config_schema)
        for one in self._given:
            found = found | one.spec.config
        return found

    @property
    def sealed(self) -> dict[str, tuple[Resource[MappingSpec], str]]:
        """Return the secret members, each with the mapping that it is of and as it is sealed there."""
        return {name: (one, value) for one in self._given for name, value in one.sealed.items()}

    @property
    def entity_id(self) -> str | None:
        """Return what stands for the organization in the external system."""
        return next((one.spec.entity_id for one in reversed(self._given) if one.spec.entity_id is not None), None)

    @property
    def connection(self) -> str | None:
        """Return the name of the organization's connection."""
        return next((one.spec.connection for one in reversed(self._given) if one.spec.connection is not None), None)

    def problems(self) -> list[Problem]:
        """Return where the config does not fit the schema. Nothing of a secret is in it."""
        return misfits(self.integration.spec.config_schema, self.config, self.sealed)

    @property
    def _given(self) -> list[Resource[MappingSpec]]:
        return [one for one in (self.shared, self.own) if one is not None]


def misfits(schema: dict[str, Any], config: dict[str, Any], sealed: Mapping[str, Any]) -> list[Problem]:
    """Return where a config with sealed members does not fit a schema; of these nothing but their presence is looked at."""
    found = schemas.misfits(schema, config | dict.fromkeys(sealed, SEALED), at="config")
    return [one for one in found if one.path.removeprefix("config.") not in sealed]


async def integration_of(rows: ResourceRows, org: str, name: str) -> Resource[Integration]:
    """Return the integration that a name means to an organization. Raises `NotFound`."""
    found = await rows.named("integration", org, name, inherited=True)
    if found is None:
        owners = repr(org) if org == PLATFORM else f"{org!r} or {PLATFORM!r}"
        raise NotFound(f"there is no integration {name!r} of {owners}: put it first, or correct the name")
    return found


async def values_of(rows: ResourceRows, org: str, name: str) -> Values:
    """Return an integration's values for an organization. Raises `NotFound`, with the remedy, for a missing part."""
    integration = await integration_of(rows, org, name)
    # The platform's mapping is of its own integration: to an integration that an organization has itself it says nothing.
    owners = {org, PLATFORM} if integration.org == PLATFORM else {org}
    found = {one.org: one for one in await rows.of("mapping", {integration.name}, owners)}
    own, shared = found.get(org), found.get(PLATFORM) if org != PLATFORM else None
    if own is None and shared is None:
        raise absent(org, integration.name)
    return Values(integration=integration, own=own, shared=shared)


def absent(org: str, name: str) -> NotFound:
    """Return the error of a missing mapping, with what to do."""
    return NotFound(
        f"there is no mapping of integration {name!r} for organization {org!r}: put it with "
        f"PUT /api/v1/integrations/{name}/mappings/{org}, or millrace integrations map {name} --org {org}"
    )


def view_of(org: str, values: Values) -> MappingView:
    """Return the values as events, filters and runs see them."""
    of = values.own or values.shared
    assert of is not None  # noqa: S101 - there are no values without one
    return MappingView(
        id=of.id,
        org=org,
        integration=of.name,
        config=values.config,
        entity_id=values.entity_id,
        connection=values.connection,
        provider=values.integration.spec.provider,
        problems=values.problems(),
        created_at=of.created_at,
        updated_at=of.updated_at,
        version=of.version,
    )


class MappingDeps(Protocol):
    """Dependencies of the answer."""

    bus: Bus
    resources: ResourceRows
    keyring: Keyring


async def get_mapping(asked: GetMapping, deps: MappingDeps) -> MappingView:
    """Return an integration's values for an organization, its secrets sealed for the asker's nonce.

    The record that secrets were given is on disk before. Raises as `values_of`, `Unavailable`.
    """
    values = await values_of(deps.resources, asked.org, asked.integration)
    view, nonce = view_of(asked.org, values), asked.nonce
    if nonce is None or not values.sealed:
        return view
    opened = {name: _opened(deps.keyring, name, *found) for name, found in values.sealed.items()}
    record = Audited(
        category="integration",
        verb="given",
        actor="executor" if asked.run is None else f"run:{asked.run}",
        target=asked.integration,
        outcome="ok",
        detail={"mapping": view.id, "members": sorted(opened)} | ({} if asked.run is None else {"run": asked.run}),
    )
    await deps.bus.publish(deps.bus.seal(record, org=asked.org, correlation=asked.correlation_id))
    sealed = deps.keyring.seal(msgspec.json.encode(opened).decode(), asked.org, nonce, "integration")
    return msgspec.structs.replace(view, sealed=sealed)


def _opened(keyring: Keyring, name: str, of: Resource[MappingSpec], sealed: str) -> str:
    try:
        return keyring.open(sealed, of.org, of.id, name)
    except CannotOpen as error:
        raise Unavailable(f"config.{name} of mapping {of.name!r} of {of.org!r}: {error}", retry_after=60) from error
