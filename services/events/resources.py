"""Rules of this service's resources that no schema can state: sources, subscriptions, integrations and mappings."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from services.events import domain, schemas
from services.events.adapters import ADAPTERS, VERIFICATIONS, Adapter, custom, declared_by, verification_of
from shared.adapters import CustomAdapters
from shared.bus import Bus
from shared.encryption import Keyring
from shared.errors import Conflict, Invalid, NotFound, Problem
from shared.expressions.pool import Expressions, Trouble
from shared.expressions.syntax import syntax_of
from shared.organizations import PLATFORM
from shared.owners.catalogued import catalogued
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.owners.rules import Derive, Draft, Rules
from shared.projection import Projection
from shared.resources import Resource
from shared.resources.integration import Integration
from shared.resources.mapping import Mapping as MappingSpec
from shared.resources.source import BUILT_IN, Source
from shared.resources.subscription import Subscription
from shared.schemas import checker_of
from shared.signatures import check_of, key_of
from shared.verification import Verification

# Each subscription of a source is looked at for each of its events.
MOST_SUBSCRIPTIONS = 100
# Subscriptions that keep a source, in a refusal.
MOST_NAMED = 10


class Sources(Rules[Source]):
    """The settings of a source fit its adapter, Millrace's or the workspace's; one that has subscriptions is not removed."""

    def __init__(self, rows: ResourceRows, adapters: CustomAdapters) -> None:
        self._rows = rows
        self._adapters = adapters

    def secret_members(self, org: str, spec: Source) -> Collection[str]:
        """Return the settings that the adapter's schema calls secret. Raises `Invalid` when there is no such adapter."""
        return self._adapter(org, spec.adapter).view().secrets

    def keeps_members(self, before: Source, spec: Source) -> bool:
        """Return whether it is still the same adapter."""
        return before.adapter in {spec.adapter, spec.adapter.replace("_", "-")}

    async def check(self, draft: Draft[Source]) -> Source:
        """Return the spec if its settings, with the secret ones, fit the adapter's schema. Secrets never show in a complaint."""
        adapter = self._adapter(draft.org, draft.spec.adapter)
        # A secret that is kept from before stands in for itself: only its presence is checked.
        whole = draft.spec.settings | dict.fromkeys(draft.kept, "kept") | draft.secrets
        if len(msgspec.json.encode(whole)) > schemas.MAX_BYTES:
            # Every gateway has those of all sources in memory.
            detail = f"is larger than {schemas.MAX_BYTES} bytes"
            raise Invalid(f"settings {detail}", errors=(Problem("settings", detail),))
        for row in (*((name,) for name in adapter.required), *adapter.one_of):
            # The schema has it too, and would show in its complaint all settings that are there.
            if not any(whole.get(name) is not None for name in row):
                message = "is required" + ("" if len(row) == 1 else f", where there is no {' and no '.join(row[1:])}")
                raise Invalid(f"settings.{row[0]} {message}", errors=(Problem(f"settings.{row[0]}", message),))
        problems = []
        secrets = self.secret_members(draft.org, draft.spec)
        for problem in checker_of(msgspec.json.encode(adapter.schema)).problems(whole, "settings"):
            hidden = any(problem.path.startswith(f"settings.{name}") for name in secrets)
            problems.append(msgspec.structs.replace(problem, message="does not fit") if hidden else problem)
        if problems:
            detail = f"the settings do not fit adapter {adapter.name}: {problems[0].message}"
            raise Invalid(detail, errors=tuple(problems))
        # A mistake of the adapter is none of these settings': the gateway closes such a source, and its log names the reason.
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            declare = VERIFICATIONS.get(adapter.name, adapter.verification)
            _check_keys(declared_by(declare, draft.spec.settings), draft.spec.settings, draft.secrets)
        return msgspec.structs.replace(draft.spec, adapter=adapter.name)

    async def check_removal(self, present: Resource[Source]) -> None:
        """Raise `Conflict` where subscriptions refer to a source: another one of its name would not be theirs."""
        left = [one.name for one in await self._rows.referrers("subscription", "source", present.id, MOST_NAMED + 1)]
        if left:
            named = ", ".join(left[:MOST_NAMED]) + (", …" if len(left) > MOST_NAMED else "")
            raise Conflict(f"subscriptions refer to source {present.name!r}, remove them first: {named}")

    def _adapter(self, org: str, name: str) -> Adapter:
        # Senders and lists of them write some names with underscores.
        found = ADAPTERS.get(name) or ADAPTERS.get(name.replace("_", "-"))
        if found is not None:
            return found
        own = self._adapters.find(org, name)
        if own is None:
            names = ", ".join(sorted({*ADAPTERS, *self._adapters.of(org)}))
            raise Invalid(f"there is no adapter {name!r}; there are {names}", errors=(Problem("adapter", "unknown"),))
        return custom(own)

    async def shown(self, found: Sequence[Resource[Source]]) -> Sequence[dict[str, Any]]:
        """Return the path of each source's address; a topic has none."""
        return [{"url": None if one.spec.adapter == domain.TOPIC else f"/hooks/{one.id}"} for one in found]


class Subscriptions(Rules[Subscription]):
    """A subscription's pattern, filter and input can be held against events; its workflow need not exist yet."""

    def __init__(self, rows: ResourceRows, expressions: Expressions) -> None:
        self._rows = rows
        self._expressions = expressions

    async def check(self, draft: Draft[Subscription]) -> Subscription:
        """Return the spec if all events of its source can be held against it."""
        spec = draft.spec
        domain.checked_pattern(spec.event)
        domain.checked_mapping(spec.input)
        await self._check_filter(draft.org, spec.filter)
        source = draft.refs["source"]
        moved = draft.before is None or draft.before.refs.get("source") != source
        if moved and await self._rows.referring("subscription", "source", source) >= MOST_SUBSCRIPTIONS:
            detail = f"has {MOST_SUBSCRIPTIONS} subscriptions already, which is the most"
            raise Invalid(f"source {detail}", errors=(Problem("source", detail),))
        return spec

    async def _check_filter(self, org: str, source: str | None) -> None:
        if source is None:
            return
        try:
            await self._expressions.check(org, source)
        except Trouble as trouble:
            raise Invalid(f"the filter is not a CEL expression: {trouble}", errors=(Problem("filter", str(trouble)),)) from trouble
        unknown = next((name for name in syntax_of(source).variables if name not in {"event", "integration"}), None)
        if unknown is not None:
            message = f"there is no {unknown}: a filter sees event and integration"
            raise Invalid(message, errors=(Problem("filter", message),))


class Integrations(Rules[Integration]):
    """An integration's schema is one, and asks for no secret."""

    async def check(self, draft: Draft[Integration]) -> Integration:
        """Return the spec if every mapping can be held against it."""
        schemas.checked_config_schema(draft.spec.config_schema)
        return draft.spec


class Mappings(Rules[MappingSpec]):
    """A mapping's config fits the schema of the integration that its organization means by its name."""

    def __init__(self, rows: ResourceRows) -> None:
        self._rows = rows

    async def check(self, draft: Draft[MappingSpec]) -> MappingSpec:
        """Return the spec if its config fits. Raises `NotFound` where there is no such integration."""
        schemas.checked_config((await self.integration(draft.org, draft.name)).spec.config_schema, draft.spec.config)
        return draft.spec

    async def integration(self, org: str, name: str) -> Resource[Integration]:
        """Return the integration that a name means to an organization. Raises `NotFound`."""
        found = await self._rows.named("integration", org, name, inherited=True)
        if found is None:
            owners = repr(org) if org == PLATFORM else f"{org!r} or {PLATFORM!r}"
            raise NotFound(f"there is no integration {name!r} of {owners}: put it first, or correct the name")
        return found

    async def absent(self, org: str, name: str) -> str:
        """Return which is missing. Raises `NotFound` when it is the integration."""
        await self.integration(org, name)
        return f"there is no mapping of integration {name!r} for organization {org!r}"

    async def shown(self, found: Sequence[Resource[MappingSpec]]) -> Sequence[dict[str, Any]]:
        """Return with each mapping its integration's provider, and how its config does not fit a schema that has changed since."""
        names = {one.name for one in found}
        orgs = {one.org for one in found} | {PLATFORM}
        seen = {(one.org, one.name): one.spec for one in await self._rows.of("integration", names, orgs)}
        return [_mapped(one, seen.get((one.org, one.name)) or seen.get((PLATFORM, one.name))) for one in found]

    async def across(self, org: str | None, name: str, found: Sequence[Resource[MappingSpec]]) -> Sequence[Resource[MappingSpec]]:
        """Return, of all organizations' mappings of one name, those of the platform's integration. Raises `NotFound`."""
        await self.integration(org or PLATFORM, name)
        if org is not None:
            return found
        own = {one.org for one in await self._rows.of("integration", {name}, {one.org for one in found} - {PLATFORM})}
        return [one for one in found if one.org not in own]


def verification(source: Resource[Source]) -> dict[str, Any]:
    """Return the verification of a source's webhooks for the gateway; nothing where its adapter is not in this version.

    That of an adapter of a workspace is in its own registry entry.
    """
    if source.spec.adapter not in BUILT_IN:
        return {}
    declared = verification_of(source.spec.adapter, source.spec.settings)
    return {} if declared is None else {"verification": declared}


# By the noun: the derived values for readers of the registry.
DERIVED: dict[str, Derive] = {"source": verification}


def keepers(
    bus: Bus, rows: ResourceRows, keyring: Keyring, catalog: Projection, expressions: Expressions, adapters: CustomAdapters
) -> Mapping[str, Keeper[Any]]:
    """Return the keepers of this service's resources."""
    rules: dict[str, Rules[Any]] = {
        "source": Sources(rows, adapters),
        "subscription": Subscriptions(rows, expressions),
        "integration": Integrations(),
        "mapping": Mappings(rows),
    }
    return catalogued("events", rules, bus=bus, rows=rows, keyring=keyring, catalog=catalog, derive=DERIVED)


def _mapped(mapping: Resource[MappingSpec], integration: Integration | None) -> dict[str, Any]:
    problems = [] if integration is None else schemas.misfits(integration.config_schema, mapping.spec.config, at="config")
    return {
        "integration": mapping.name,
        "provider": None if integration is None else integration.provider,
        "problems": msgspec.to_builtins(problems),
    }


def _check_keys(verification: Verification, settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
    """Raise `Invalid` for a key that is none of its algorithm: the gateway could verify nothing with it."""
    given = {name: value for name, value in {**settings, **secrets}.items() if isinstance(value, str)}
    for scheme in verification.schemes:
        for name in scheme.keys:
            if name not in given:
                continue
            try:
                check_of(scheme, key_of(scheme, given[name]))
            except ValueError as error:
                raise Invalid(f"settings.{name} is no key: {error}", errors=(Problem(f"settings.{name}", str(error)),)) from error
